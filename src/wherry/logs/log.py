"""One container's log: its files, and the state that its capture and its readers share.

`Log._lock` protects `_writer` and `_older` (so that a reader does not duplicate a descriptor while it is being closed,
and never sees a rotation half done), `_size`, `_finished`, `_generation`, `_cuts`, `_trouble` and `_waiters`; it makes
"look, and wait if there is nothing new" one step, without which a wake-up between the look and the wait would be lost.
Waiters are called with the lock released, as they may take others. Bytes are written outside of the lock: only the
consumer thread of the pipeline does that, and only that thread rotates and closes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from wherry import errors
from wherry.logs import rotation
from wherry.logs.buffer import Buffer, BufferStats, Piece
from wherry.logs.buffer_file import Progress
from wherry.logs.files import ReadFile, create_file, open_file
from wherry.logs.index import DamagedIndex, Header, read_header
from wherry.logs.options import LogOptions
from wherry.logs.segments import (
    Rotated,
    all_files_of,
    finish_rotation,
    index_path,
    new_path,
    rotated_numbers,
    rotated_path,
)
from wherry.logs.view import Part, View
from wherry.logs.writer import Writer, create_index

DEFAULT_OPTIONS = LogOptions()

_LARGE_FILE = 1 << 20

logger = logging.getLogger(__name__)


class LogState(NamedTuple):
    """``generation`` goes up when the files were opened anew, rotated or truncated: a reader has to open them again."""

    size: int
    finished: bool
    generation: int


class Log:
    """The log at ``path`` (its index beside it, ``path`` + ".idx") of the container ``container_id``.

    Making the object touches no file. create(), remove() and the readers may be used from any thread; open(), append(),
    append_gap(), close() and finish() belong to the pipeline, except that finish() is also how a supervisor says of a
    log it finds on disk that its container has ended.
    """

    def __init__(self, path: Path, container_id: str, options: LogOptions = DEFAULT_OPTIONS) -> None:
        self.path = path
        self.container_id = container_id
        self.options = options
        self.measure: Callable[[], BufferStats] = BufferStats
        """The counters of its buffer: those of the last one when it is not being captured."""
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._older: list[Rotated] = []
        self._is_new = False
        self._size = 0
        self._finished = False
        self._generation = 0
        self._cuts: list[tuple[int, int]] = []
        self._trouble = ""
        self._waiters: set[Callable[[], None]] = set()

    def create(self) -> None:
        """Make both files, mode 0640. Raises FileExistsError (also for a link) or OSError, and then leaves nothing."""
        with ExitStack() as undo:
            os.close(create_file(self.path))
            undo.callback(self.path.unlink, missing_ok=True)
            os.close(create_index(index_path(self.path), Header(self.container_id, time.time_ns())))
            undo.pop_all()
        self._is_new = True

    def hold(self) -> list[int]:
        """Descriptors of its large files, for the caller to close: until then a removal does not give blocks back."""
        descriptors: list[int] = []
        files = [
            path for number in rotated_numbers(self.path) for path in all_files_of(rotated_path(self.path, number))
        ]
        for path in (*files, *all_files_of(self.path)):
            with suppress(OSError):
                if path.lstat().st_size > _LARGE_FILE:
                    descriptors.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
        return descriptors

    def remove(self) -> None:
        """Unlink all files of the log, those that are there. Readers that have it open read on."""
        for number in rotated_numbers(self.path):
            rotation.remove_files(rotated_path(self.path, number))
        rotation.remove_files(new_path(self.path))
        for path in reversed(all_files_of(self.path)):  # the log last: it tells of a removal cut short
            path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes captured so far; 0 before open()."""
        return self.state().size

    @property
    def finished(self) -> bool:
        """Whether no more bytes will come."""
        return self.state().finished

    @property
    def is_open(self) -> bool:
        with self._lock:
            return self._writer is not None

    def state(self) -> LogState:
        with self._lock:
            return self._state()

    def _state(self) -> LogState:
        return LogState(self._size, self._finished, self._generation)

    def lowest_cut(self, generation: int) -> int:
        """The smallest size that the log has had since ``generation``: what lies behind it is not what it was."""
        with self._lock:
            return min((size for number, size in self._cuts if number > generation), default=self._size)

    @property
    def trouble(self) -> str:
        """Why the log cannot be written just now; "" when it can."""
        with self._lock:
            return self._trouble

    @trouble.setter
    def trouble(self, reason: str) -> None:
        with self._lock:
            self._trouble = reason

    def set_stats(self, stats: BufferStats) -> None:
        """What ``measure`` gives from now on: there is no buffer any more."""
        self.measure = lambda: stats

    # For the pipeline.

    def open(self, pending: Callable[[], Progress] = Progress) -> Progress:
        """Open for writing, after mending what a crash or an administrator left. Arguments and errors as Writer's."""
        if not self._is_new:
            finish_rotation(self.path)
        writer = Writer(self.path, self.container_id, self._was_cut, pending)
        # The first file of a log has none before it. Looking costs a walk over the directory, which holds the logs of
        # all containers: to take over a thousand would be to read a million names.
        has_older = not self._is_new and writer.header.sequence > 1
        older = rotation.find_rotated(self.path, self.container_id) if has_older else []
        self._is_new = False
        with self._lock:
            self._writer = writer
            self._older = older
            self._finished = False
            self._note_cut(writer)
        self._wake()
        return writer.settled

    def append(self, buffer: Buffer, piece: Piece) -> int:
        """Move bytes of a piece of the buffer into the log, as many as the current file takes, at least one.

        Readers see the bytes and followers are woken before it returns. Raises OSError, and then none were moved.
        """
        writer = self._open_writer()
        count = self._room(writer, piece)
        if not count:
            writer = self._rotate(writer)
            count = self._room(writer, piece)
        moved = writer.append(buffer, piece, count)
        self._grown(writer)
        return moved

    def append_gap(self, buffer: Buffer, lost: int) -> None:
        """Write the marker for lost bytes. Raises OSError, and then it is not there."""
        writer = self._open_writer()
        writer.append_gap(buffer, lost)
        self._grown(writer)

    def close(self) -> None:
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def finish(self) -> None:
        """Say that no more bytes come: followers read what there is and end."""
        with self._lock:
            self._finished = True
        self._wake()

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise ValueError(f"log {self.path} is not open")
        return self._writer

    def _room(self, writer: Writer, piece: Piece) -> int:
        """How much of a piece goes into the current file: all that fits, but whole lines if it must be cut; 0: none."""
        room = (self.options.max_bytes or 1 << 63) - writer.size
        if piece.size <= room:
            return piece.size
        if room <= 0:
            return 0
        whole_lines = os.pread(piece.fd, room, piece.offset).rfind(b"\n") + 1
        if whole_lines:
            return whole_lines
        return 0 if writer.size and writer.at_boundary else room

    def _rotate(self, old: Writer) -> Writer:
        aside = rotation.rotate(self.path, old.header, old.size)
        writer = Writer(self.path, self.container_id, self._was_cut)
        with self._lock:
            self._writer = writer
            self._older.append(aside)
            surplus = self._older[: max(0, len(self._older) + 1 - self.options.max_files)]
            del self._older[: len(surplus)]
            self._generation += 1
        old.close()
        for rotated in surplus:
            rotation.remove_files(rotated.path)
        return writer

    def _grown(self, writer: Writer) -> None:
        with self._lock:
            self._size = writer.header.start + writer.size
        self._wake()

    def _was_cut(self, _size: int) -> None:
        with self._lock:
            if self._writer is not None:
                self._note_cut(self._writer)

    def _note_cut(self, writer: Writer) -> None:
        self._size = writer.header.start + writer.size
        self._generation += 1
        self._cuts.append((self._generation, self._size))

    # For readers.

    def view(self) -> View:
        """Open for reading. Raises NotFound when the file is gone, OSError when it cannot be opened."""
        with ExitStack() as undo:
            older, newest = self._current_files() or self._files_on_disk()
            undo.callback(newest.close)
            parts = []
            for part in map(_open_older, older):
                if part is not None:
                    undo.callback(part.close)
                    parts.append(part)
            undo.pop_all()
            return View([*parts, newest])

    def _current_files(self) -> tuple[list[Rotated], Part] | None:
        with self._lock:
            if self._writer is None:
                return None
            log, index = self._writer.duplicates()
            return list(self._older), Part(self._writer.header.start, ReadFile(log), ReadFile(index))

    def _files_on_disk(self) -> tuple[list[Rotated], Part]:
        newest = _open_newest(self.path)
        older = rotation.find_rotated(self.path, self.container_id)
        if newest.index.is_missing and older:
            newest.start = older[-1].end
        return older, newest

    def end(self) -> int:
        """The position behind its last byte; 0 for a log that has no file yet. Raises what view() raises otherwise."""
        try:
            view = self.view()
        except errors.NotFound:
            return 0
        try:
            return view.size()
        finally:
            view.close()

    def wait(self, wake: Callable[[], None], seen: LogState) -> bool:
        """Call ``wake`` once, from any thread, as soon as the state differs from ``seen``; False if it already does."""
        with self._lock:
            if self._state() != seen:
                return False
            self._waiters.add(wake)
            return True

    def stop_waiting(self, wake: Callable[[], None]) -> None:
        with self._lock:
            self._waiters.discard(wake)

    def _wake(self) -> None:
        with self._lock:
            if not self._waiters:
                return
            waiters, self._waiters = self._waiters, set()
        for wake in waiters:
            try:
                wake()
            except Exception:  # one follower's trouble is not the container's, nor the other followers'
                logger.exception("a follower of log %s cannot be woken", self.path)


def _open_newest(path: Path) -> Part:
    try:
        log = ReadFile(open_file(path, os.O_RDONLY))
    except FileNotFoundError as error:
        raise errors.NotFound(f"log {path} is gone") from error
    try:
        index, header = _open_index(index_path(path))
    except BaseException:
        log.close()
        raise
    return Part(header.start, log, index)


def _open_older(rotated: Rotated) -> Part | None:
    """None when it has been rotated away, or removed, in this moment."""
    try:
        log = ReadFile(open_file(rotated.path, os.O_RDONLY))
    except (FileNotFoundError, errors.Conflict):
        return None
    try:
        index, _ = _open_index(index_path(rotated.path))
    except BaseException:
        log.close()
        raise
    return Part(rotated.start, log, index)


def _open_index(path: Path) -> tuple[ReadFile | None, Header]:
    """None when there is none, or none that can be read: the log then counts as a bare file."""
    nothing = Header("", 0)
    try:
        file = ReadFile(open_file(path, os.O_RDONLY))
    except FileNotFoundError:
        return None, nothing
    try:
        header = read_header(file, path)
    except DamagedIndex as error:
        file.close()
        logger.warning("%s; reading the log without it", error)
        return None, nothing
    except BaseException:
        file.close()
        raise
    return file, header
