"""One container's log: its files, and the state that its capture and its readers share.

`Log._lock` protects `_writer` and `_older` (so that a reader does not duplicate a descriptor while it is being closed,
and never sees a rotation half done) and all that is below them in __init__; it makes "look, and wait if there is
nothing new" one step, without which a wake-up between the look and the wait would be lost, and so with a log that is
held back and the reader who gets on. Waiters and `on_room` are called with the lock released, as they may take others.
Bytes are written outside of the lock: only the consumer thread of the pipeline does that, and only that thread rotates
and closes. Files that have lost their place in `_older` are deleted by whoever took them out.
"""

from __future__ import annotations

import logging
import os
import sys
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
from wherry.logs.files import ReadFile, create_file
from wherry.logs.holds import ENDING_BYTES, HeldBack, Hold, Holds
from wherry.logs.index import IndexHeader
from wherry.logs.options import LogOptions
from wherry.logs.parts import open_newest, open_older
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


class _Cut(NamedTuple):
    """The log was truncated from ``before`` to ``size`` bytes; ``generation`` is what came of it."""

    generation: int
    size: int
    before: int


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
        self.on_room: Callable[[], None] = lambda: None
        """To be called, from any thread, when a log that was held back can be written again."""
        self._is_new = False
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._older: list[Rotated] = []
        self._size = 0
        self._finished = False
        self._generation = 0
        self._openings = 0
        self._begin = 0  # where the run of the container begins that was captured last
        self._cuts: list[_Cut] = []
        self._given_up = 0
        self._trouble = ""
        self._waiters: set[Callable[[], None]] = set()
        self._holds = Holds(options)
        self._kept: Hold | None = None
        self._is_held_back = False
        self._is_ending = False
        self._is_read = False  # a reader was shown the end, with its time, since bytes were written last
        self._is_moving = False

    def create(self) -> None:
        """Make both files, mode 0640. Raises FileExistsError (also for a link) or OSError, and then leaves nothing."""
        with ExitStack() as undo:
            os.close(create_file(self.path))
            undo.callback(self.path.unlink, missing_ok=True)
            os.close(create_index(index_path(self.path), IndexHeader(self.container_id, time.time_ns())))
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

    @property
    def is_live(self) -> bool:
        """Whether it is being captured, and expect_end() has not been called: its container has been or is started."""
        with self._lock:
            return self._writer is not None and not self._is_ending

    def state(self) -> LogState:
        with self._lock:
            return self._state()

    def _state(self) -> LogState:
        return LogState(self._size, self._finished, self._generation)

    def lowest_cut(self, generation: int) -> int:
        """The smallest size that the log was cut to since ``generation``: what lies behind it is not what it was.

        Without a cut it is beyond every position: a reader may be further than ``size``, which tells of bytes later.
        """
        with self._lock:
            return min((cut.size for cut in self._cuts if cut.generation > generation), default=sys.maxsize)

    def cut_away(self, generation: int, position: int) -> int:
        """How many bytes from ``position`` on have been truncated since ``generation``."""
        lost = 0
        with self._lock:
            for cut in self._cuts:
                if cut.generation > generation:
                    lost += max(0, cut.before - max(position, cut.size))
                    position = min(position, cut.size)
        return lost

    @property
    def openings(self) -> int:
        """How often this object has begun to capture."""
        with self._lock:
            return self._openings

    @property
    def begin(self) -> int:
        """The position at which the last of these times began."""
        with self._lock:
            return self._begin

    @property
    def given_up(self) -> int:
        """Bytes of the last of these times that never came to the log, as its container was removed first."""
        with self._lock:
            return self._given_up

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
            self._finished = self._is_ending = False
            self._is_read = writer.size > 0  # for all that this process knows
            self._given_up = 0
            self._openings += 1
            self._note_cut(writer, 0)
            self._begin = self._size
        self._wake()
        self.prune()
        return writer.settled

    def append(self, buffer: Buffer, piece: Piece) -> int:
        """Move bytes of a piece of the buffer into the log, as many as the current file takes, at least one.

        Readers see the bytes and followers are woken before it returns. Raises OSError, or HeldBack when a reader that
        is owed every byte has to get on first; then none were moved.
        """
        writer, count = self._find_room(piece)
        with self._lock:
            is_read, self._is_read = self._is_read, False
            self._is_moving = True
        try:
            return writer.append(buffer, piece, count, has_new_time=is_read)
        finally:
            self._grown(writer)

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

    def expect_end(self) -> None:
        """The container has ended: what is still to come is bounded, and no reader holds it back."""
        with self._lock:
            self._is_ending = True
            is_free = self._end_holding_back()
        if is_free:
            self.on_room()

    def give_up(self, lost: int) -> None:
        """Say that so many bytes will never come to the log; before finish()."""
        with self._lock:
            self._given_up += lost

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

    def _find_room(self, piece: Piece) -> tuple[Writer, int]:
        """The file for some bytes of a piece, and how many of them."""
        writer = self._open_writer()
        count = self._room(writer, piece)
        if count:
            return writer, count
        with self._lock:
            may_rotate = self._holds.allow_rotation(self._older, writer.header.start + writer.size)
            beyond = self.options.max_bytes + ENDING_BYTES - writer.size if self._is_ending else 0
            self._is_held_back = not may_rotate and beyond <= 0
        if may_rotate:
            writer = self._rotate(writer)
            return writer, self._room(writer, piece)
        if beyond <= 0:
            raise HeldBack
        return writer, min(piece.size, beyond)

    def _rotate(self, old: Writer) -> Writer:
        aside = rotation.rotate(self.path, old.header, old.size)
        writer = Writer(self.path, self.container_id, self._was_cut)
        writer.go_on_from(old)
        with self._lock:
            self._writer = writer
            self._older.append(aside)
            self._generation += 1
        old.close()
        self.prune()
        return writer

    def prune(self) -> None:
        """Delete what is beyond the log's limit and held by no reader."""
        with self._lock:
            surplus = self._older[: self._holds.count_to_delete(self._older)]
            del self._older[: len(surplus)]
        for rotated in surplus:
            rotation.remove_files(rotated.path)

    def _end_holding_back(self) -> bool:
        """Whether the log was held back, and is to be tried again."""
        was, self._is_held_back = self._is_held_back, False
        return was

    def _grown(self, writer: Writer) -> None:
        with self._lock:
            self._is_moving = False
            self._size = writer.header.start + writer.size
        self._wake()

    def _was_cut(self, _size: int) -> None:
        with self._lock:
            if self._writer is not None:
                self._note_cut(self._writer, self._size)

    def _note_cut(self, writer: Writer, before: int) -> None:
        self._size = writer.header.start + writer.size
        self._generation += 1
        self._cuts.append(_Cut(self._generation, self._size, before))

    # For readers that are owed every byte.

    def watch(self, position: int | None = None) -> Hold:
        """Keep all from ``position`` on, None: from the end on, of what is there. Raises what end() raises."""
        if position is None and not self.is_open:
            position = self.end()
        with self._lock:
            if position == 0 and self._kept is not None:
                kept, self._kept = self._kept, None
                return kept
            if self._writer is not None:
                oldest = self._older[0].start if self._older else self._writer.header.start
                position = self._size if position is None else max(position, oldest)
            hold = Hold(position or 0, self._change_hold)
            self._holds.add(hold)
            return hold

    def keep(self) -> None:
        """Keep all from the beginning on, for the reader that asks for it next: before the container is started."""
        kept = self.watch(0)
        with self._lock:
            self._kept = kept

    def stop_keeping(self) -> None:
        """That reader will not come, if it has not."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            kept.release()
            self.prune()

    def _change_hold(self, hold: Hold, position: int | None) -> None:
        with self._lock:
            is_free = self._holds.change(hold, position) and self._end_holding_back()
        if is_free:
            self.on_room()

    # For readers.

    def view(self, position: int = 0, most: int | None = None) -> View:
        """Open for reading, from ``position`` on, no more than ``most`` older files.

        Raises NotFound when the file is gone, OSError when it cannot be opened.
        """
        with ExitStack() as undo:
            older, newest = self._current_files() or self._files_on_disk()
            undo.callback(newest.close)
            wanted = [rotated for rotated in older if rotated.end > position]
            parts = []
            for part in map(open_older, wanted[:most]):
                if part is not None:
                    undo.callback(part.close)
                    parts.append(part)
            undo.pop_all()
        if most is not None and parts and len(wanted) > most:
            newest.close()
            return View(parts, is_whole=False)
        return View([*parts, newest])

    def readable_end(self) -> int | None:
        """How far a reader may go that tells the times of what it reads; None: to the end of what it has open.

        What comes to the log later gets a later time, even if it was captured together with what comes last here.
        Without that, whoever asks for what came after the last time that he knows would not get it. Bytes that are
        being written at this moment may have the time of those before them, so that both have to wait.
        """
        with self._lock:
            if self._writer is None:
                return None
            self._is_read = True
            return self._writer.header.start + self._writer.stable_size(is_moving=self._is_moving)

    def _current_files(self) -> tuple[list[Rotated], Part] | None:
        with self._lock:
            if self._writer is None:
                return None
            log, index = self._writer.duplicates()
            return list(self._older), Part(self._writer.header.start, ReadFile(log), ReadFile(index))

    def _files_on_disk(self) -> tuple[list[Rotated], Part]:
        newest = open_newest(self.path)
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
