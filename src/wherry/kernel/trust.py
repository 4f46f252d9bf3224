"""Whether somebody else can have prepared a file or directory, or can change it: owners, modes, links.

What root opens by a path is what the owner of any directory on that path wants it to be, and so is what lies in a
directory that others may write to. A path that passes ``open_directory`` can afterwards be used by its name: nobody but
root and our own user can put anything else there. Access control lists need no look of their own: their mask is what
the mode shows as the group's permissions (acl(5)).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from wherry.kernel.libc import call_error

_FOUND = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40  # as the kernel's own limit, path_resolution(7)
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class DistrustedError(Exception):
    """``str()`` says what path is wrong, in which way, and how to mend it."""


def is_ours(uid: int) -> bool:
    """Whether it is root or the user we run as."""
    return uid in (0, os.geteuid())


def check_owner(status: os.stat_result, path: str) -> None:
    """Raises DistrustedError unless it belongs to root or to us."""
    if not is_ours(status.st_uid):
        raise DistrustedError(
            f"{path} belongs to user {status.st_uid}, who can have prepared it: remove it, or, if you know what is in "
            f"it, chown it to user {os.geteuid()}"
        )


def check_directory(status: os.stat_result, path: str, *, may_be_shared: bool = False) -> None:
    """Raises DistrustedError unless it is a directory of ours in which nobody else can make or rename anything.

    With ``may_be_shared`` others may make files in it as in /tmp: with the sticky bit they can rename only their own.
    """
    _check_kind(status, stat.S_IFDIR, path)
    check_owner(status, path)
    if not (may_be_shared and status.st_mode & stat.S_ISVTX):
        _check_writers(status, path)


def check_file(status: os.stat_result, path: str) -> None:
    """Raises DistrustedError unless it is a regular file of ours, by this one name, that nobody else can write to."""
    _check_kind(status, stat.S_IFREG, path)
    check_only_name(status, path)
    _check_writers(status, path)


def _check_writers(status: os.stat_result, path: str) -> None:
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise DistrustedError(
            f"{path} can be written to by its group or by others (mode {mode:04o}): look at what is in it, then chmod "
            "go-w it"
        )


def check_only_name(status: os.stat_result, path: str) -> None:
    """Raises DistrustedError for a file of another owner, or a hard link: written to, another's file would change."""
    check_owner(status, path)
    if status.st_nlink > 1:
        raise DistrustedError(f"{path} is a hard link, its file has {status.st_nlink} names: remove this one")


def _check_kind(status: os.stat_result, wanted: int, path: str) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != wanted:
        raise DistrustedError(f"{path} is {_KINDS.get(kind, 'something else')}, not {_KINDS[wanted]}: remove it")


def check_socket(status: os.stat_result, path: str) -> None:
    """Raises DistrustedError unless it is a socket's file of ours."""
    _check_kind(status, stat.S_IFSOCK, path)
    check_owner(status, path)


def open_directory(path: str, mode: int = 0o755, *, may_be_shared: bool = False) -> int:
    """An O_PATH descriptor of the directory at an absolute path; what is missing is made, the last with ``mode``.

    Every directory on the way, and every symbolic link, must be root's or ours, and writable by nobody else; /tmp and
    its kind may be on the way, and with ``may_be_shared`` be the end. Raises DistrustedError, OSError with the path.
    """
    waiting = [(name, True) for name in _reversed_components(path)]  # and whether it may be made
    links = 0
    walk = _Walk(may_be_shared=bool(waiting) or may_be_shared)
    try:
        while waiting:
            name, is_made = waiting.pop()
            make = (0o755 if waiting else mode) if is_made else None
            target = walk.enter(name, make, may_be_shared=bool(waiting) or may_be_shared)
            if target is None:
                continue
            links += 1
            if links > _MOST_LINKS:
                raise call_error(errno.ELOOP, "open", path)
            waiting += [(part, False) for part in _reversed_components(target)]
            if target.startswith("/"):
                walk.restart()
    except BaseException:
        os.close(walk.directory)
        raise
    return walk.directory


def _reversed_components(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


class _Walk:
    """From the root directory on, one component at a time, so that no link is followed that has not been looked at."""

    def __init__(self, *, may_be_shared: bool) -> None:
        self.directory = os.open("/", _FOUND | os.O_DIRECTORY)
        self._path = "/"
        try:
            check_directory(os.fstat(self.directory), self._path, may_be_shared=may_be_shared)
        except BaseException:
            os.close(self.directory)
            raise

    def restart(self) -> None:
        self._move(os.open("/", _FOUND | os.O_DIRECTORY), "/")

    def enter(self, name: str, make: int | None, *, may_be_shared: bool) -> str | None:
        """Into a directory, made with mode ``make`` if missing; where a link leads, and then it is not entered."""
        path = os.path.join(self._path, name)
        found = _open(self.directory, name, path, make)
        try:
            status = os.fstat(found)
            if stat.S_ISLNK(status.st_mode):
                check_owner(status, path)
                target = os.readlink("", dir_fd=found)
                os.close(found)
                return target
            if not stat.S_ISDIR(status.st_mode):
                raise call_error(errno.ENOTDIR, "open", path)
            check_directory(status, path, may_be_shared=may_be_shared)
        except BaseException:
            os.close(found)
            raise
        self._move(found, path)
        return None

    def _move(self, directory: int, path: str) -> None:
        os.close(self.directory)
        self.directory, self._path = directory, path


def _open(directory: int, name: str, path: str, make: int | None) -> int:
    """What is there, opened itself when it is a link; with a mode ``make`` a directory is made when nothing is."""
    try:
        try:
            return os.open(name, _FOUND, dir_fd=directory)
        except FileNotFoundError:
            if make is None:
                raise
        with contextlib.suppress(FileExistsError):  # somebody was quicker: who, is looked at
            os.mkdir(name, make, dir_fd=directory)
        return os.open(name, _FOUND, dir_fd=directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def open_part(parent: int, name: str, path: str, mode: int = 0o700) -> int:
    """The directory ``name`` in ``parent``, made when missing; ``path`` is what messages call it.

    Never through a link. Raises DistrustedError, OSError with the path.
    """
    part = _open(parent, name, path, mode)
    try:
        check_directory(os.fstat(part), path)
    except BaseException:
        os.close(part)
        raise
    return part


def open_file(path: str, flags: int, mode: int = 0o600) -> int:
    """As open(2), for a file in a directory that is trusted: a regular file of ours, by its only name, not a link.

    Raises DistrustedError, OSError.
    """
    try:
        # O_NONBLOCK: a FIFO is not waited for.
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        check_if_there(path)
        raise OSError(error.errno, error.strerror, path) from error
    try:
        check_file(os.fstat(file), path)
        os.set_blocking(file, True)
    except BaseException:
        os.close(file)
        raise
    return file


def check_if_there(path: str) -> None:
    """``check_file`` of what is at a path in a trusted directory, if anything is."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    check_file(status, path)
