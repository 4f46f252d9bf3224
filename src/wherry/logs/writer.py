"""The writing side of one log file: moves bytes from a buffer into it, and names them in the index before it does.

Exact across SIGKILL: sendfile(2) from the buffer moves the file's size together with its bytes, in one system call that
a fatal signal ends between two pages but never between these two effects; and the buffer's progress record says from
which size on the move began. What only this process knew is found again from the files: Writer() is the recovery.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from wherry import errors
from wherry.logs import index as ix
from wherry.logs.buffer import Buffer, Piece
from wherry.logs.buffer_file import Progress
from wherry.logs.files import ReadFile, create_file, open_file, write_at
from wherry.logs.segments import damaged_path, index_path, rotated_numbers, rotated_path

LOCK_SECONDS = 2.0
_LOCK_RETRY_SECONDS = 0.002
NEWLINE = b"\n"

logger = logging.getLogger(__name__)


def marker(lost: int, begins_line: bool) -> bytes:
    """What stands in a log for bytes that are not in it: a line of its own."""
    return (b"" if begins_line else NEWLINE) + b"[wherry: %d bytes lost here]\n" % lost


def create_index(path: Path, header: ix.IndexHeader) -> int:
    """Make a new index with its header and return its descriptor; on failure no file is left."""
    with ExitStack() as undo:
        fd = create_file(path)
        undo.callback(os.close, fd)
        undo.callback(path.unlink, missing_ok=True)
        write_at(fd, ix.pack_header(header), 0, path)
        undo.pop_all()
        return fd


class Writer:
    """Used by one thread at a time; ``on_cut`` is called with the new size when somebody has truncated the file.

    ``pending`` reads the progress of the buffer that this log was being written from, if any. It is called with the
    lock held: before that, a predecessor may still get on. ``settled`` is what is true then, with no move under way.

    Raises OSError that names the file, Conflict (the path is no regular file, another process writes to the log, or
    the index is of another container) and NotSupported (index of another version).
    """

    def __init__(
        self,
        path: Path,
        container_id: str,
        on_cut: Callable[[int], None],
        pending: Callable[[], Progress] = Progress,
    ) -> None:
        self._path = path
        self._on_cut = on_cut
        self._count = 0
        self._last: ix.IndexRecord | None = None
        self._before: ix.IndexRecord | None = None  # what was last before this object came
        self._at_line_start: dict[int, bool] = {}
        with ExitStack() as undo:
            self._log = _open_or_create(path)
            undo.callback(os.close, self._log)
            _lock(self._log, path)
            self._index, self.header = _open_index(path, container_id)
            undo.callback(os.close, self._index)
            self.settled = self._settle(pending())
            self.size = os.lseek(self._log, 0, os.SEEK_END)
            self._recover(self.size)
            undo.pop_all()

    def append(self, buffer: Buffer, piece: Piece, limit: int, *, has_new_time: bool = False) -> int:
        """Move up to ``limit`` bytes of a piece of the buffer to the end of the log; returns their number, at least 1.

        With ``has_new_time`` they are a run of their own, later than the last one, however they were captured. Raises
        OSError (ENOSPC, EDQUOT, EIO, ...) when none could be written.
        """
        size = self._find_end()
        self._mark(ix.IndexRecord(size, piece.stream, piece.wall_ns, piece.monotonic_ns, None), has_new_time)
        buffer.moving(size, self.header.sequence, limit)
        try:
            moved = os.sendfile(self._log, piece.fd, piece.offset, limit)
        except OSError as error:
            buffer.moved(0)  # or what somebody else appends until the next try would count as moved after a kill
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        if not moved:
            buffer.moved(0)
            raise OSError(errno.EIO, "nothing could be moved from the log buffer", str(self._path))
        buffer.moved(moved)
        self.size = size + moved
        return moved

    def append_gap(self, buffer: Buffer, lost: int) -> int:
        """Write a marker that stands for ``lost`` bytes; returns its length.

        Raises OSError, and then it is not there.
        """
        size = self._find_end()
        self._note_line_end(size)
        begins_line = size == 0 or (self._ends_line(size) and all(self._at_line_start.values()))
        text = marker(lost, begins_line)
        self._mark(ix.IndexRecord(size, ix.GAP, time.time_ns(), 0, begins_line, lost))
        buffer.moving(size, self.header.sequence, len(text), lost)
        try:
            write_at(self._log, text, size, self._path)
        except OSError:
            os.ftruncate(self._log, size)
            buffer.moved(0)
            raise
        buffer.moved(0, lost)
        self.size = size + len(text)
        self._at_line_start = dict.fromkeys((ix.STDOUT, ix.STDERR), True)
        return len(text)

    def go_on_from(self, older: Writer) -> None:
        """This file follows another one, whose last run may go on in it, under a later time."""
        self._before = older._last or older._before

    def stable_size(self, *, is_moving: bool) -> int:
        """The size up to which no byte has a time that a later one will have too.

        May be called from any thread, by whoever knows whether append() is at work, and keeps it from ending.
        """
        if not is_moving:
            return os.fstat(self._log).st_size
        last = self._last
        return self.size if last is None or last.offset >= self.size else last.offset

    @property
    def at_boundary(self) -> bool:
        """Whether a new file may begin here without a line of one stream, the last one's, being cut."""
        return self.size == 0 or self._ends_line(self.size)

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

    def _find_end(self) -> int:
        """Go to the end of the file, which an administrator may have moved: its position is where sendfile writes."""
        size = os.lseek(self._log, 0, os.SEEK_END)
        if size < self.size:
            self._accept_cut(size)
        return size

    def _mark(self, record: ix.IndexRecord, has_new_time: bool = False) -> None:
        """Write a record ahead of its bytes, unless the run in force is the same."""
        last = self._last
        if _is_same_run(last or self._before, record):
            if last is not None and not has_new_time:
                return
            # Nobody knows when in these 5 ms its bytes came, but readers have seen the time of the last ones.
            record = record._replace(wall_ns=(last or self._before or record).wall_ns + 1)
        if last is not None and last.offset == record.offset:
            self._count -= 1  # got no bytes (their write failed): overwrite it, or a full disk would grow the index
            self._last = None
        else:
            self._note_line_end(record.offset)
        if record.stream != ix.GAP:
            record = record._replace(begins_line=self._at_line_start.get(record.stream))
        # By position, never by appending: half a record that a full disk left is overwritten by the next try.
        position = ix.HEADER_SIZE + self._count * ix.RECORD_SIZE
        write_at(self._index, ix.pack_record(record), position, index_path(self._path))
        self._count += 1
        self._last = record

    def _note_line_end(self, size: int) -> None:
        """Whether the last run's stream is at the beginning of a line, now that all its bytes are there."""
        if self._last is not None and self._last.stream != ix.GAP and self._last.offset < size:
            self._at_line_start[self._last.stream] = self._ends_line(size)

    def _accept_cut(self, size: int) -> None:
        logger.warning("log %s was truncated from %d to %d bytes by somebody else", self._path, self.size, size)
        self._recover(size)
        self.size = size
        self._on_cut(size)

    def _settle(self, pending: Progress) -> Progress:
        """Find out how far the move went that a killed writer was in the middle of; half a marker is taken off."""
        position, lost_before, size_before, segment, limit, lost = pending
        if not limit or segment != self.header.sequence:
            return Progress(position, lost_before)
        grown = os.fstat(self._log).st_size - size_before
        if not lost:
            return Progress(position + max(0, min(grown, limit)), lost_before)
        if grown >= limit:
            return Progress(position + lost, lost_before + lost)
        if grown > 0:
            os.ftruncate(self._log, size_before)
        return Progress(position, lost_before)

    def _recover(self, size: int) -> None:
        """Cut the index to what is true of a log of ``size`` bytes: drop what is torn, rotten, or behind it."""
        self._last = None  # whatever comes next gets a record, and thus a time, of its own
        is_first = size == 0 and self.header.sequence == 1
        self._at_line_start = dict.fromkeys((ix.STDOUT, ix.STDERR), True) if is_first else {}
        file = ReadFile(os.dup(self._index))
        try:
            index = ix.Index(file)
            self._count = min(_valid_count(index), index.last_at(size - 1) + 1)
            last = index.record(self._count - 1) if self._count else None
        finally:
            file.close()
        self._before = last
        if last is not None and last.stream == ix.GAP:
            self._at_line_start = dict.fromkeys((ix.STDOUT, ix.STDERR), True)
        elif last is not None:
            self._at_line_start[last.stream] = self._ends_line(size)
        end = ix.HEADER_SIZE + self._count * ix.RECORD_SIZE
        if os.fstat(self._index).st_size != end:  # a file system journals even a truncation to the same size
            os.ftruncate(self._index, end)

    def _ends_line(self, size: int) -> bool:
        return os.pread(self._log, 1, size - 1) == NEWLINE


def _is_same_run(last: ix.IndexRecord | None, record: ix.IndexRecord) -> bool:
    """Whether both name bytes of one run of the buffer; the time of the last one may have been put off."""
    if last is None or last.stream == ix.GAP:
        return False
    return (last.stream, last.monotonic_ns) == (record.stream, record.monotonic_ns) and last.wall_ns >= record.wall_ns


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


def _open_index(path: Path, container_id: str) -> tuple[int, ix.IndexHeader]:
    where = index_path(path)
    try:
        fd = open_file(where, os.O_RDWR)
    except FileNotFoundError:
        logger.warning("index %s is gone; starting a new one", where)
        return _new_index(path, container_id)
    try:
        return fd, _checked_header(fd, where, container_id)
    except ix.DamagedIndex as error:
        os.close(fd)
        logger.warning("%s; moved to %s, starting a new one", error, damaged_path(path))
        where.replace(damaged_path(path))
        return _new_index(path, container_id)
    except BaseException:
        os.close(fd)
        raise


def _new_index(path: Path, container_id: str) -> tuple[int, ix.IndexHeader]:
    header = following_header(path, container_id)
    return create_index(index_path(path), header), header


def following_header(path: Path, container_id: str) -> ix.IndexHeader:
    """For a file that comes after all rotated ones that are there."""
    for number in reversed(rotated_numbers(path)):
        older = rotated_path(path, number)
        try:
            header = read_header_of(older)
            size = older.stat().st_size
        except (OSError, ix.DamagedIndex, errors.WherryError):
            continue
        if header.container_id == container_id:
            return ix.IndexHeader(container_id, time.time_ns(), header.sequence + 1, header.start + size)
    return ix.IndexHeader(container_id, time.time_ns())


def read_header_of(path: Path) -> ix.IndexHeader:
    """The header of the index of the log file ``path``. Raises OSError, DamagedIndex, NotSupported, Conflict."""
    file = ReadFile(open_file(index_path(path), os.O_RDONLY))
    try:
        return ix.read_header(file, index_path(path))
    finally:
        file.close()


def _checked_header(fd: int, path: Path, container_id: str) -> ix.IndexHeader:
    file = ReadFile(os.dup(fd))
    try:
        header = ix.read_header(file, path)
    finally:
        file.close()
    if header.container_id != container_id:
        raise errors.Conflict(f"log index {path} is of container {header.container_id}, not of {container_id}")
    return header


def _lock(fd: int, path: Path) -> None:
    """Keep a second writer out.

    A supervisor killed in the middle of a sendfile goes on writing until that call returns; its locks go when it is
    gone. Its successor must not look at the size before that.
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
