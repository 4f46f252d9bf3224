"""Opening paths of an untrusted tree: openat2(2), never string joining.

A container may have replaced any component with a symbolic link, also between two of our calls, so every path inside
a root file system is resolved by the kernel in one call, confined to a root descriptor.
"""

from __future__ import annotations

import os
import stat

from wherry.kernel import libc

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_ATTEMPTS = 64
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """A new close-on-exec descriptor for ``path`` below ``dirfd``. Raises OSError with the path in it."""
    for attempt in range(_ATTEMPTS):
        try:
            return libc.openat2(dirfd, os.fsencode(path), flags | os.O_CLOEXEC, mode, resolve)
        except BlockingIOError:
            # EAGAIN: a rename or mount anywhere on the system got in between, and the kernel could not be sure that
            # ".." stayed inside (openat2(2)). Somebody who renames all the time must not make us try for ever.
            if attempt == _ATTEMPTS - 1:
                raise
        except OSError as error:
            error.filename = os.fsdecode(path)
            raise
    raise AssertionError("unreachable")


def open_in_root(root: int, path: str, flags: int = os.O_PATH, mode: int = 0) -> int:
    """Open ``path`` as a process whose root directory is ``root`` would see it: absolute links and ``..`` stay inside.

    Magic links (/proc/PID/fd/N and the like) are refused: they lead out of any root.
    """
    return openat2(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def components(path: str) -> list[str]:
    """The components of a path without empty ones and ``.``; ``..`` is kept."""
    return [part for part in path.split("/") if part not in ("", ".")]


def make_directories(root: int, path: str, mode: int = 0o755) -> int:
    """mkdir -p inside ``root``; returns an O_PATH descriptor of the last directory. Existing directories keep their
    mode.

    Raises OSError: ENOTDIR when something else is in the way, ENOENT when a dangling link is, EROFS and so on.
    """
    try:
        return open_in_root(root, path, _DIRECTORY)
    except FileNotFoundError:
        pass
    current = ""
    for name in components(path):
        parent = open_in_root(root, current or "/", _DIRECTORY)
        try:
            current = f"{current}/{name}"
            if name != "..":
                _make_directory(parent, name, mode)
        finally:
            os.close(parent)
    return open_in_root(root, path, _DIRECTORY)


def _make_directory(parent: int, name: str, mode: int) -> None:
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        pass


def make_mount_point(root: int, path: str, directory: bool) -> int:
    """An O_PATH descriptor of a directory or file at ``path`` inside ``root``, made when missing (as docker does for
    ``-v``).
    """
    if directory:
        return make_directories(root, path)
    try:
        found = open_in_root(root, path)
    except FileNotFoundError:
        names = components(path)
        parent = make_directories(root, "/" + "/".join(names[:-1]))
        try:
            # O_EXCL also refuses a dangling symbolic link, which O_CREAT alone would follow.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(names[-1], flags, 0o644, dir_fd=parent))
        finally:
            os.close(parent)
        found = open_in_root(root, path)
    if stat.S_ISDIR(os.fstat(found).st_mode):
        os.close(found)
        raise IsADirectoryError(21, "a file cannot be mounted on a directory", path)
    return found


def read_small_file(root: int, path: str, limit: int = 1 << 20) -> bytes:
    """The content of a regular file inside ``root``. A FIFO or device does not block; more than ``limit`` bytes are
    EFBIG.
    """
    descriptor = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        information = os.fstat(descriptor)
        if not stat.S_ISREG(information.st_mode):
            raise OSError(22, "not a regular file", path)
        content = b""
        while chunk := os.read(descriptor, limit + 1 - len(content)):
            content += chunk
            if len(content) > limit:
                raise OSError(27, f"larger than {limit} bytes", path)
        return content
    finally:
        os.close(descriptor)
