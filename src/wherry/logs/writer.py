"""The writing side of one log: splices bytes from pipes into the file, and names them in the index before it does.

Exact across SIGKILL: splice(2) takes the bytes out of the pipe and moves the file's size in one system call, which a
fatal signal ends between two pages but never between these two effects. What only this process knew (its idea of the
size, its last record) is found again from the files: Writer() is the recovery.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from wherry import errors
from wherry.logs import index as ix
from wherry.logs.files import ReadFile, create_file, open_file, write_at

RECORD_INTERVAL_NS = 5_000_000
"""A run is cut after this time. It bounds the error of a time stamp, and the index's growth to 6.4 kB/s per log."""

LOCK_SECONDS = 2.0
_LOCK_RETRY_SECONDS = 0.002

logger = logging.getLogger(__name__)


def index_path(path: Path) -> Path:
    return path.with_name(path.name + ".idx")


def damaged_path(path: Path) -> Path:
    """Where an unreadable index is moved to, for whoever wants to look into it."""
    return path.with_name(path.name + ".idx.damaged")


def create_index(path: Path, container_id: str) -> int:
    """Make a new index with its header and return its descriptor; on failure no file is left."""
    header = ix.pack_header(ix.Header(container_id, time.time_ns()))
    with ExitStack() as undo:
        fd = create_file(path)
        undo.callback(os.close, fd)
        undo.callback(path.unlink, missing_ok=True)
        write_at(fd, header, 0, path)
        undo.pop_all()
        return fd


class Writer:
    """Used by one thread at a time; ``on_cut`` is called with the new size when somebody has truncated the log.

    Raises OSError that names the file, Conflict (the path is no regular file, another process writes to the log, or
    the index is of another container) and NotSupported (index of a later version).
    """

    def __init__(self, path: Path, container_id: str, on_cut: Callable[[int], None]) -> None:
        self._path = path
        self._on_cut = on_cut
        self._count = 0
        self._last: ix.Record | None = None
        self._at_line_start: dict[int, bool] = {}
        with ExitStack() as undo:
            self._log = _open_or_create(path)
            undo.callback(os.close, self._log)
            _lock(self._log, path)
            self._index = _open_index(path, container_id)
            undo.callback(os.close, self._index)
            self.size = os.lseek(self._log, 0, os.SEEK_END)
            self._recover(self.size)
            undo.pop_all()

    def append(self, pipe: int, stream: int, limit: int) -> int:
        """Move up to ``limit`` bytes from a pipe to the end of the log; returns their number, 0 at the end of file.

        Raises BlockingIOError when the pipe is empty, and OSError (ENOSPC, EDQUOT, EIO, ...) with all bytes that were
        not written still in the pipe.
        """
        # splice(2) refuses O_APPEND, so the position is ours to set; and an administrator may have changed the size.
        size = os.lseek(self._log, 0, os.SEEK_END)
        if size < self.size:
            self._accept_cut(size)
        self._mark(stream, size)
        try:
            moved = os.splice(pipe, self._log, limit, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self.size = size + moved
        return moved

    def close(self) -> None:
        # Unlocked by name: readers' duplicates of the descriptor share its lock and may live on.
        fcntl.flock(self._log, fcntl.LOCK_UN)
        os.close(self._log)
        os.close(self._index)

    def duplicates(self) -> tuple[int, int]:
        """Descriptors of log and index for a reader, which thus reads on even when the files have lost their names."""
        log = os.dup(self._log)
        try:
            return log, os.dup(self._index)
        except OSError:
            os.close(log)
            raise

    def _mark(self, stream: int, size: int) -> None:
        """Write a record ahead of the bytes, unless the run in force covers them."""
        last, now = self._last, time.monotonic_ns()
        if last is not None and last.stream == stream and now - last.monotonic_ns < RECORD_INTERVAL_NS:
            return
        if last is not None and last.offset == size:
            self._count -= 1  # got no bytes (their write failed): overwrite it, or a full disk would grow the index
            self._last = None
        elif last is not None:
            self._at_line_start[last.stream] = self._ends_line(size)
        record = ix.Record(size, stream, time.time_ns(), now, self._at_line_start.get(stream))
        # By position, never by appending: half a record that a full disk left is overwritten by the next try.
        position = ix.HEADER_SIZE + self._count * ix.RECORD_SIZE
        write_at(self._index, ix.pack_record(record), position, index_path(self._path))
        self._count += 1
        self._last = record

    def _accept_cut(self, size: int) -> None:
        logger.warning("log %s was truncated from %d to %d bytes by somebody else", self._path, self.size, size)
        self._recover(size)
        self.size = size
        self._on_cut(size)

    def _recover(self, size: int) -> None:
        """Cut the index to what is true of a log of ``size`` bytes: drop what is torn, rotten, or behind it."""
        self._last = None  # whatever comes next gets a record, and thus a time, of its own
        self._at_line_start = {} if size else dict.fromkeys((ix.STDOUT, ix.STDERR), True)
        file = ReadFile(os.dup(self._index))
        try:
            index = ix.Index(file)
            self._count = min(_valid_count(index), index.last_at(size - 1) + 1)
            last = index.record(self._count - 1) if self._count else None
        finally:
            file.close()
        if last is not None:
            self._at_line_start[last.stream] = self._ends_line(size)
        end = ix.HEADER_SIZE + self._count * ix.RECORD_SIZE
        if os.fstat(self._index).st_size != end:  # a file system journals even a truncation to the same size
            os.ftruncate(self._index, end)

    def _ends_line(self, size: int) -> bool:
        return os.pread(self._log, 1, size - 1) == b"\n"


def _valid_count(index: ix.Index) -> int:
    count = index.count()
    while count and index.record(count - 1) is None:
        count -= 1
    return count


def _open_or_create(path: Path) -> int:
    try:
        return open_file(path, os.O_RDWR)
    except FileNotFoundError:
        logger.warning("log %s is gone; starting a new one", path)
        return create_file(path)


def _open_index(path: Path, container_id: str) -> int:
    where = index_path(path)
    try:
        fd = open_file(where, os.O_RDWR)
    except FileNotFoundError:
        logger.warning("index %s is gone; starting a new one", where)
        return create_index(where, container_id)
    try:
        _check_owner(fd, where, container_id)
    except ix.DamagedIndex as error:
        os.close(fd)
        logger.warning("%s; moved to %s, starting a new one", error, damaged_path(path))
        where.replace(damaged_path(path))
        return create_index(where, container_id)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_owner(fd: int, path: Path, container_id: str) -> None:
    file = ReadFile(os.dup(fd))
    try:
        owner = ix.read_header(file, path).container_id
    finally:
        file.close()
    if owner != container_id:
        raise errors.Conflict(f"log index {path} is of container {owner}, not of {container_id}")


def _lock(fd: int, path: Path) -> None:
    """Keep a second writer out.

    A supervisor killed in the middle of a splice goes on writing until that call returns; its locks go when it is gone.
    Its successor must not look at the size before that.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise errors.Conflict(f"another process writes to log {path}") from error
            time.sleep(_LOCK_RETRY_SECONDS)
        else:
            return
