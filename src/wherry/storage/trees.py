"""Removing and measuring a directory tree of any depth and width, with a few descriptors, no recursion, little memory.

An archive or a container can make trees far deeper than PATH_MAX, the interpreter's stack or the limit on descriptors,
and directories with more entries than there is memory for; shutil.rmtree needs a stack frame and a descriptor per level
and a list per directory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from wherry.errors import Conflict
from wherry.kernel import inode_flags

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_A_TIME = 1000


class TreeUsage(NamedTuple):
    """``bytes`` on the disk, holes not counted; ``entries`` are files, directories and links by whatever name."""

    bytes: int
    entries: int


def remove(parent: int, name: str, stop: threading.Event | None = None) -> None:
    """``rm -r`` of the directory ``name`` in the one that ``parent`` is open on. Follows no link.

    May be called again for what an interrupted one has left. Raises OSError, Conflict once ``stop`` is set.
    """
    top = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        _empty(top, stop)
    finally:
        os.close(top)
    _rmdir(parent, name)


def _empty(top: int, stop: threading.Event | None) -> None:
    # Each directory found is moved up into ``top``, so that nothing ever lies more than two levels deep.
    prefix = secrets.token_hex(16)  # no name in the tree begins with it
    fresh = (f"{prefix}{number}" for number in itertools.count())
    for name, is_directory in _entries(top, stop):
        if not is_directory:
            _unlink(top, name)
            continue
        directory = os.open(name, _DIRECTORY, dir_fd=top)
        try:
            for inner, is_inner_directory in _entries(directory, stop):
                if is_inner_directory:
                    _move(directory, inner, top, next(fresh))
                else:
                    _unlink(directory, inner)
        finally:
            os.close(directory)
        _rmdir(top, name)


def _entries(directory: int, stop: threading.Event | None) -> Iterator[tuple[str, bool]]:
    """All names in a directory, and whether they are directories, until none is left: the caller takes each away."""
    while True:
        with os.scandir(directory) as found:
            some = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in itertools.islice(found, _AT_A_TIME)]
        if not some:
            return
        for entry in some:
            if stop is not None and stop.is_set():
                raise Conflict("the supervisor is shutting down")
            yield entry


def _unlink(directory: int, name: str) -> None:
    _surely(directory, name, lambda: os.unlink(name, dir_fd=directory))


def _rmdir(directory: int, name: str) -> None:
    _surely(directory, name, lambda: os.rmdir(name, dir_fd=directory))


def _move(source: int, name: str, target: int, new_name: str) -> None:
    def act() -> None:
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)

    _surely(source, name, act, target)


def _surely(directory: int, name: str, act: Callable[[], None], other: int = -1) -> None:
    """Once more without the flags of chattr(1), also of an ``other`` directory, if they may be why it failed."""
    try:
        act()
    except PermissionError:
        with contextlib.suppress(OSError):
            inode_flags.make_removable(directory, name)
            if other >= 0:
                inode_flags.change(other, inode_flags.IMMUTABLE | inode_flags.APPEND_ONLY)
        act()


def usage(parent: int, name: str, stop: threading.Event | None = None) -> TreeUsage:
    """What the tree at ``name`` takes, all links to one file together its size; of one that changes, about as much.

    Raises OSError when there is no such directory, Conflict once ``stop`` is set.
    """
    measure = _Measure(os.open(name, _DIRECTORY, dir_fd=parent), stop)
    try:
        measure.run()
    finally:
        os.close(measure.directory)
    return TreeUsage(measure.bytes, measure.entries)


class _Measure:
    """A walk with one descriptor: down by name, up by ``..``."""

    def __init__(self, directory: int, stop: threading.Event | None) -> None:
        self.directory = directory
        self.bytes = _size(os.fstat(directory))
        self.entries = 1
        self._stop = stop

    def run(self) -> None:
        trail, waiting = [_identity(self.directory)], [self._count()]
        while waiting:
            if waiting[-1]:
                if self._move(waiting[-1].pop()):
                    trail.append(_identity(self.directory))
                    waiting.append(self._count())
                continue
            waiting.pop()
            trail.pop()
            # A container may have moved the directory meanwhile: then ".." is not where we came from.
            if trail and not (self._move("..") and _identity(self.directory) == trail[-1]):
                return

    def _move(self, name: str) -> bool:
        try:
            entered = os.open(name, _DIRECTORY, dir_fd=self.directory)
        except OSError:  # just removed
            return False
        os.close(self.directory)
        self.directory = entered
        return True

    def _count(self) -> list[str]:
        """Add up the entries of the directory; returns the names of the directories among them."""
        directories = []
        device = os.fstat(self.directory).st_dev
        with os.scandir(self.directory) as found:
            for entry in found:
                if self._stop is not None and self._stop.is_set():
                    raise Conflict("the supervisor is shutting down")
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                self.entries += 1
                self.bytes += _size(status)
                if entry.is_dir(follow_symlinks=False) and status.st_dev == device:
                    directories.append(entry.name)
        return directories


def _size(status: os.stat_result) -> int:
    # Each name of a file stands for its part of it: no list of all inodes seen is needed.
    is_directory = status.st_mode & 0o170000 == 0o040000
    return status.st_blocks * 512 // (1 if is_directory else max(1, status.st_nlink))


def _identity(directory: int) -> tuple[int, int]:
    status = os.fstat(directory)
    return status.st_dev, status.st_ino
