"""One container's log: its files, and the state that its capture and its readers share.

`Log._lock` protects `_writer` (so that a reader does not duplicate a descriptor while it is being closed), `_size`,
`_finished`, `_cuts` and `_waiters`; it makes "look, and wait if there is nothing new" one step, without which a wake-up
between the look and the wait would be lost. Waiters are called with the lock released, as they may take others.
`Writer.append` runs outside of the lock: only the capture thread calls it, and only that thread closes the writer.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from wherry import errors
from wherry.logs.files import ReadFile, create_file, open_file
from wherry.logs.index import DamagedIndex, read_header
from wherry.logs.view import View
from wherry.logs.writer import Writer, create_index, damaged_path, index_path

logger = logging.getLogger(__name__)


class LogState(NamedTuple):
    """``generation`` goes up when the files were opened anew or truncated: a reader's position may be past the end."""

    size: int
    finished: bool
    generation: int


class Log:
    """The log at ``path`` (its index beside it, ``path`` + ".idx") of the container ``container_id``.

    Making the object touches no file. create(), remove() and the readers may be used from any thread; open(), append(),
    close() and finish() belong to Capture, except that finish() is also how a supervisor says of a log it finds on
    disk that its container has ended.
    """

    def __init__(self, path: Path, container_id: str) -> None:
        self.path = path
        self.container_id = container_id
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._size = 0
        self._finished = False
        self._cuts: list[int] = []
        self._waiters: set[Callable[[], None]] = set()

    def create(self) -> None:
        """Make both files, mode 0640. Raises FileExistsError (also for a link) or OSError, and then leaves nothing."""
        with ExitStack() as undo:
            os.close(create_file(self.path))
            undo.callback(self.path.unlink, missing_ok=True)
            os.close(create_index(index_path(self.path), self.container_id))
            undo.pop_all()

    def remove(self) -> None:
        """Unlink all files of the log, those that are there. Readers that have it open read on."""
        for path in (self.path, index_path(self.path), damaged_path(self.path)):
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
            return LogState(self._size, self._finished, len(self._cuts))

    def lowest_cut(self, generation: int) -> int:
        """The smallest size that the log has had since ``generation``: what lies behind it is not what it was."""
        with self._lock:
            return min(self._cuts[generation:], default=self._size)

    # For Capture.

    def open(self) -> None:
        """Open for writing, after mending what a crash or an administrator left. Raises what Writer() raises."""
        writer = Writer(self.path, self.container_id, self._was_cut)
        with self._lock:
            self._writer = writer
            self._size = writer.size
            self._finished = False
            self._cuts.append(writer.size)
        self._wake()

    def append(self, pipe: int, stream: int, limit: int) -> int:
        """As Writer.append; readers see the bytes and followers are woken before it returns."""
        writer = self._writer
        if writer is None:
            raise ValueError(f"log {self.path} is not open")
        moved = writer.append(pipe, stream, limit)
        with self._lock:
            self._size = writer.size
        self._wake()
        return moved

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

    def _was_cut(self, size: int) -> None:
        with self._lock:
            self._size = size
            self._cuts.append(size)

    # For readers.

    def view(self) -> View:
        """Open for reading. Raises NotFound when the file is gone, OSError when it cannot be opened."""
        with self._lock:
            descriptors = None if self._writer is None else self._writer.duplicates()
        if descriptors is None:
            return self._view_of_files()
        log, index = descriptors
        return View(ReadFile(log), ReadFile(index))

    def _view_of_files(self) -> View:
        try:
            log = ReadFile(open_file(self.path, os.O_RDONLY))
        except FileNotFoundError as error:
            raise errors.NotFound(f"log {self.path} is gone") from error
        try:
            return View(log, _open_index(index_path(self.path)))
        except BaseException:
            log.close()
            raise

    def wait(self, wake: Callable[[], None], seen: LogState) -> bool:
        """Call ``wake`` once, from any thread, as soon as the state differs from ``seen``; False if it already does."""
        with self._lock:
            if LogState(self._size, self._finished, len(self._cuts)) != seen:
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


def _open_index(path: Path) -> ReadFile | None:
    """None when there is none, or none that can be read: the log then counts as a bare file."""
    try:
        file = ReadFile(open_file(path, os.O_RDONLY))
    except FileNotFoundError:
        return None
    try:
        read_header(file, path)
    except DamagedIndex as error:
        file.close()
        logger.warning("%s; reading the log without it", error)
        return None
    except BaseException:
        file.close()
        raise
    return file
