"""The API's listening socket in the file system."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from wherry.errors import Conflict, InvalidRequest
from wherry.kernel import trust

PATH_MAX = 107
"""sizeof(sockaddr_un.sun_path) is 108, with the terminating NUL (unix(7))."""

BACKLOG = 1024

_LOCK_SECONDS = 5.0


class ListeningSocket:
    """A bound, listening socket that knows which file is its own."""

    def __init__(self, path: str, sock: socket.socket) -> None:
        self.path = path
        self.socket = sock
        self._inode = _inode(path)

    def hand_over(self) -> tuple[int, tuple[str, int, int]]:
        """A descriptor that goes on listening when the socket is closed, and the file it listens on: for ``adopt``."""
        return os.dup(self.socket.fileno()), (self.path, *self._inode)

    def remove(self) -> None:
        """Remove the socket's file, unless somebody else has put another one there. The socket itself stays open."""
        with suppress(FileNotFoundError), ExitStack() as held:
            with suppress(Conflict):
                held.enter_context(_locked(os.path.dirname(self.path)))
            if _inode(self.path) == self._inode:
                os.unlink(self.path)


def listen(path: str) -> ListeningSocket:
    """Listen on ``path`` (mode 0600); its directory is made if need be, a socket that nobody serves is replaced.

    Raises:
        InvalidRequest: the path is too long or has a NUL byte, or others could replace the socket there.
        Conflict: another supervisor listens there, or something that is not a socket is there.
        OSError: the directory cannot be made or written.
    """
    path = os.path.abspath(path)
    _check_path(path)
    directory = os.path.dirname(path)
    try:
        # Clients may send secrets. In /tmp and its kind nobody can replace our file; ``engine`` asks who listens, too.
        os.close(trust.open_directory(directory, may_be_shared=True))
    except trust.DistrustedError as error:
        raise InvalidRequest(f"cannot listen on {path}: {error}, or choose another place with --socket") from None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        # bind(2) makes the file with the mode of the socket's own inode: 0600 from the first moment, whatever the umask
        os.fchmod(sock.fileno(), 0o600)
        with _locked(directory):
            _clear(path)
            sock.bind(path)
            sock.listen(BACKLOG)
            return ListeningSocket(path, sock)
    except BaseException:
        sock.close()
        raise


def adopt(path: str, descriptor: int, file: tuple[str, int, int]) -> ListeningSocket | None:
    """Go on listening with what ``hand_over`` gave, and takes it over; None when that listens elsewhere, or when its
    file is not there any more.
    """
    path = os.path.abspath(path)
    sock = socket.socket(fileno=descriptor)
    with suppress(OSError):
        if file == (path, *_inode(path)) and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.setblocking(False)
            return ListeningSocket(path, sock)
    sock.close()
    return None


def _check_path(path: str) -> None:
    if "\0" in path:
        raise InvalidRequest(f"invalid socket path {path!r}: it contains a NUL byte")
    size = len(os.fsencode(path))
    if size > PATH_MAX:
        raise InvalidRequest(
            f"socket path {path!r} is too long: {size} bytes, and a UNIX socket's path can have at most {PATH_MAX}"
        )


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Two supervisors that find the same stale socket must not remove each other's new one: one at a time.

    Raises Conflict when the lock is not to be had: who can read a directory such as /tmp can hold it for ever.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(fd):
            if time.monotonic() > deadline:
                raise Conflict(f"cannot listen in {directory}: another process holds a lock on that directory")
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise Conflict(f"cannot listen on {path}: it exists and is not a socket")
    if _is_served(path):
        owner = "" if trust.is_ours(status.st_uid) else f" of user {status.st_uid}"
        raise Conflict(f"cannot listen on {path}: in use by another supervisor{owner}")
    os.unlink(path)


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        code = probe.connect_ex(path)
    # EAGAIN is a listener whose backlog is full; EPROTOTYPE a socket of another type that somebody has open
    if code in (errno.ECONNREFUSED, errno.ENOENT):
        return False
    if code in (0, errno.EAGAIN, errno.EPROTOTYPE):
        return True
    raise OSError(code, os.strerror(code), path)


def _inode(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
