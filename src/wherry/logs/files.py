"""Opening a log's files: regular files only, never through a symbolic link, mode 0640.

0640 is what docker gives its logs; that nobody else gets at them is the business of the directory (0700).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

from wherry import errors
from wherry.kernel import trust

MODE = 0o640


def create_file(path: Path) -> int:
    """Make an empty file, open for reading and writing; FileExistsError also when a (dangling) link is there."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)


def open_file(path: Path, access: int) -> int:
    """Open an existing regular file; FileNotFoundError when there is none, Conflict when it is anything else.

    ``access`` is O_RDONLY or O_RDWR. A file that is to be written must be root's or ours and have no other name, or it
    is a Conflict too: as a hard link it would be somebody else's file.
    """
    try:
        # O_NONBLOCK: a FIFO planted at the path must not hold us up before fstat has shown what it is.
        fd = os.open(path, access | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
            raise
        raise errors.Conflict(f"{path} is not a regular file") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise errors.Conflict(f"{path} is not a regular file")
        if access != os.O_RDONLY:
            trust.check_only_name(status, str(path))
    except trust.DistrustedError as error:
        os.close(fd)
        raise errors.Conflict(str(error)) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_at(fd: int, data: bytes, offset: int, path: Path) -> None:
    """Write all of ``data`` or raise OSError that names ``path``; a short write means a full disk (write(2))."""
    try:
        written = os.pwrite(fd, data, offset)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    if written != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


class ReadFile:
    """An open file to read from; it owns its descriptor.

    ``_lock`` protects the descriptor: it is held over each read and over close(), because a follower that is cancelled
    closes here while its last read may still run in a thread, and the number could by then belong to another file.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def read(self, count: int, offset: int) -> bytes:
        """Up to ``count`` bytes at ``offset``, fewer at the end of the file; ValueError once closed."""
        with self._lock:
            return os.pread(self._open_fd(), count, offset)

    def send_to(self, target: int, offset: int, count: int) -> int:
        """Send up to ``count`` bytes at ``offset`` to the socket ``target``: sendfile(2). 0 at the end of the file."""
        with self._lock:
            return os.sendfile(target, self._open_fd(), offset, count)

    def size(self) -> int:
        with self._lock:
            return os.fstat(self._open_fd()).st_size

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise ValueError("this reader of a log is closed")
        return self._fd
