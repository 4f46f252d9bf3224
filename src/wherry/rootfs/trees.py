"""Removing a directory tree of any depth with a few descriptors and no recursion.

An archive can make trees far deeper than PATH_MAX, the interpreter's stack or the limit on descriptors; shutil.rmtree
needs a stack frame and a descriptor per level.
"""

from __future__ import annotations

import itertools
import os
import secrets

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(parent: int, name: str) -> None:
    """``rm -r`` of the directory ``name`` in the one that ``parent`` is open on. Follows no link. Raises OSError."""
    top = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _empty(top: int) -> None:
    # Each directory found is moved up into ``top``, so that nothing ever lies more than two levels deep.
    prefix = secrets.token_hex(16)  # no name in the tree begins with it
    fresh = (f"{prefix}{number}" for number in itertools.count())
    waiting = _unlink_files(top)
    while waiting:
        name = waiting.pop()
        directory = os.open(name, _DIRECTORY, dir_fd=top)
        try:
            for inner in _unlink_files(directory):
                moved = next(fresh)
                os.rename(inner, moved, src_dir_fd=directory, dst_dir_fd=top)
                waiting.append(moved)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=top)


def _unlink_files(directory: int) -> list[str]:
    """Remove all but directories; returns the names of those.

    While they are being listed: the names of millions of files are never in memory together. Whether what is listed
    after a removal is complete is left open (readdir(3)), so it is looked at again until there is nothing to remove.
    """
    directories: set[str] = set()
    is_done = False
    while not is_done:
        is_done = True
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.add(entry.name)
                else:
                    os.unlink(entry.name, dir_fd=directory)
                    is_done = False
    return sorted(directories)
