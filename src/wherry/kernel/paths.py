"""Opening paths of an untrusted tree: openat2(2), never string joining.

A container may have replaced any component with a symbolic link, also between two of our calls, so every path inside
a root file system is resolved by the kernel in one call, confined to a root descriptor.
"""

from __future__ import annotations

import errno
import os
import stat

from wherry.kernel import libc
from wherry.kernel.libc import call_error

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_ATTEMPTS = 64
_LINKS_MAX = 40  # MAXSYMLINKS (include/linux/namei.h)
_STEPS_MAX = 4096  # components of a path and of all links in it
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


def make_directories(root: int, path: str) -> int:
    """mkdir -p inside ``root``, through dangling symbolic links; returns an O_PATH descriptor of the last directory.
    Existing directories keep their mode.

    Raises OSError: ENOTDIR when something else is in the way, ELOOP, EROFS and so on.
    """
    return make_mount_point(root, path, directory=True)


def make_mount_point(root: int, path: str, directory: bool) -> int:
    """An O_PATH descriptor of a directory or file at ``path`` inside ``root``, made when missing (as docker does for
    ``-v``); what a dangling symbolic link points to is made inside the root as well.

    Raises OSError: EISDIR or ENOTDIR when it is there and of the other kind, ELOOP, EROFS and so on.
    """
    try:
        found = open_in_root(root, path)
    except FileNotFoundError:
        found = _make(root, path, directory)
    if stat.S_ISDIR(os.fstat(found).st_mode) == directory:
        return found
    os.close(found)
    if directory:
        raise NotADirectoryError(errno.ENOTDIR, "it is a file, not a directory", path)
    raise IsADirectoryError(errno.EISDIR, "it is a directory, not a file", path)


def _make(root: int, path: str, directory: bool) -> int:
    """Walk ``path`` from the root, making what is missing.

    Links are read and followed here, a bounded number of times, because the kernel follows none that dangles when it
    makes a directory. Where a link leads is only a name again: each step is resolved by the kernel, confined, so that
    somebody who changes the tree meanwhile can make us fail but not leave the root.
    """
    waiting = components(path)
    links, steps, current = 0, 0, ""
    while waiting:
        name = waiting.pop(0)
        steps += 1
        target = None
        if name != "..":
            target = _make_one(root, current or "/", name, directory or bool(waiting))
            links += target is not None
        if links > _LINKS_MAX or steps > _STEPS_MAX:
            raise call_error(errno.ELOOP, "openat2", path)
        if target is None:
            current = f"{current}/{name}"
        else:
            current = "" if target.startswith("/") else current
            waiting = components(target) + waiting
    return open_in_root(root, current or "/")


def _make_one(root: int, directory: str, name: str, as_directory: bool) -> str | None:
    """Make ``name`` in a directory if it is not there; if it is a symbolic link, where that leads."""
    parent = open_in_root(root, directory, _DIRECTORY)
    try:
        if as_directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            # O_EXCL: O_CREAT alone would follow a link.
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
    except FileExistsError:
        try:
            return os.readlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno != errno.EINVAL:  # readlink(2): it is no symbolic link
                raise
    except OSError as error:
        error.filename = f"{directory.rstrip('/')}/{name}"  # all of it, not the last component
        raise
    finally:
        os.close(parent)
    return None


def read_small_file(root: int, path: str, limit: int = 1 << 20) -> bytes:
    """The content of a regular file inside ``root``. A FIFO or device does not block; more than ``limit`` bytes are
    EFBIG.
    """
    descriptor = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        information = os.fstat(descriptor)
        if not stat.S_ISREG(information.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        content = b""
        while chunk := os.read(descriptor, limit + 1 - len(content)):
            content += chunk
            if len(content) > limit:
                raise OSError(errno.EFBIG, f"larger than {limit} bytes", path)
        return content
    finally:
        os.close(descriptor)
