"""The log pipeline: pipes -> capture (producer) -> bounded buffers -> drain (consumer) -> log files.

jobs.py says what the two threads share and why they cannot wait for each other for ever.
"""

from __future__ import annotations

import enum
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

from wherry import errors
from wherry.logs.buffer import Buffer
from wherry.logs.buffer_file import BufferFile
from wherry.logs.capture import Producer
from wherry.logs.drain import Consumer
from wherry.logs.jobs import Exchange, Job
from wherry.logs.log import Log
from wherry.logs.pipes import distinct_pipes

logger = logging.getLogger(__name__)


class _State(enum.Enum):
    NEW = "not started"
    RUNNING = "running"
    CLOSED = "closed"


def make_buffer(log: Log) -> int:
    """A new buffer for ``log``, to be given to add(), and to the shim. Raises InvalidRequest for an impossible size."""
    return BufferFile.create(log.options.buffer_bytes).fd


class Pipeline:
    """start(), then add() a log with its pipes; close() at the end. All methods may be called from any thread.

    Also a context manager that does both. ``on_gap(log, lost)`` and ``on_trouble(log, reason)`` are called in the
    consumer's thread: bytes have given way, and a log cannot be written, or can again (reason "").
    """

    def __init__(
        self,
        on_gap: Callable[[Log, int], None] = lambda _log, _lost: None,
        on_trouble: Callable[[Log, str], None] = lambda _log, _reason: None,
    ) -> None:
        self._exchange = Exchange()
        self._producer = Producer(self._exchange)
        self._consumer = Consumer(self._exchange, on_gap, on_trouble)
        self._state = _State.NEW
        self._adding: set[Log] = set()
        # No daemon threads: an interpreter that goes down would freeze them anywhere, and containers block unseen.
        self._producing = threading.Thread(target=self._guarded, args=(self._producer.run,), name="wherry-capture")
        self._consuming = threading.Thread(target=self._guarded, args=(self._consumer.run,), name="wherry-logging")

    def __enter__(self) -> Pipeline:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        with self._exchange.mutex:
            if self._state is not _State.NEW:
                raise errors.InternalError(f"the log pipeline cannot start: it is {self._state.value}")
            self._producing.start()
            self._consuming.start()
            self._state = _State.RUNNING

    def add(self, log: Log, stdout: int, stderr: int, done: Callable[[], None], buffer: int = -1) -> None:
        """Capture two pipes (read ends; -1 = no such stream) into ``log``, which is opened, mended and continued.

        ``buffer`` is a descriptor from make_buffer(), perhaps one that an earlier process has used: then what is in it
        comes first. -1 makes one that nobody else has, and that is lost with this process.

        Takes the descriptors over: they are closed when the log has ended, and are the caller's again only if this
        raises. Two ends of one pipe are captured as stdout. ``done`` is called in the consumer's thread when all pipes
        are at their end and every byte is in the file, and the log is closed and finished.

        Raises InvalidRequest (a descriptor is no pipe), Conflict (already captured), InternalError (not running, or no
        buffer), and what Log.open raises.
        """
        pipes = distinct_pipes(stdout, stderr, log.path)
        # Asked before the producer knows the job: it takes a pipe that is at its end out of the list and closes it.
        has_second_end = stderr not in (-1, stdout, *(pipe.fd for pipe in pipes))
        with self._reserved(log), ExitStack() as undo:
            file = BufferFile.create(log.options.buffer_bytes) if buffer < 0 else BufferFile.open(buffer)
            if buffer < 0:
                undo.callback(file.close)
            settled = log.open(file.read_progress)
            undo.callback(log.close)
            drops = log.options.mode == "non-blocking"
            self._publish(Job(log, Buffer.recover(file, settled, drops=drops), done, pipes))
            undo.pop_all()
        if has_second_end:
            os.close(stderr)

    def finish(self, log: Log) -> None:
        """Write what is in the pipes of ``log`` now, and complete it even though somebody still has a writing end.

        For a container whose first process is gone but whose pipe was passed on. ``done`` is called as ever, later.
        Nothing happens if the log is not being captured (any more).
        """
        self._request(log, self._producer.finish)

    def abandon(self, log: Log) -> None:
        """Complete ``log`` at once and throw away what is on its way to it: to remove a container from a full disk."""
        self._request(log, self._producer.abandon)

    def close(self) -> None:
        """Write what is in pipes and buffers now, then stop the threads and wait for them. Later calls do nothing.

        Logs whose pipes have not ended are closed but not finished, without ``done``: their containers run on, for
        whoever has the pipes too. The same goes for bytes that a full disk does not take.
        """
        exchange = self._exchange
        with exchange.mutex:
            was, self._state = self._state, _State.CLOSED
            exchange.is_closing = True
        if was is _State.RUNNING:
            exchange.wake_producer()
            self._producing.join()
            with exchange.mutex:
                exchange.producer_has_ended = True
                exchange.not_empty.notify()
            self._consuming.join()
        if was is not _State.CLOSED:
            self._producer.close()
            exchange.close()

    @contextmanager
    def _reserved(self, log: Log) -> Iterator[None]:
        """Nobody else adds ``log`` meanwhile. Not by holding the mutex: opening a log may take time on a slow disk."""
        with self._exchange.mutex:
            if log in self._exchange.jobs or log in self._adding:
                raise errors.Conflict(f"log {log.path} is being captured already")
            self._adding.add(log)
        try:
            yield
        finally:
            with self._exchange.mutex:
                self._adding.discard(log)

    def _publish(self, job: Job) -> None:
        """Registers from the calling thread: a request would cost each start of a container a thread switch."""
        with self._exchange.mutex:
            if self._state is not _State.RUNNING:
                raise errors.InternalError(f"the log pipeline cannot take {job.log.path}: it is {self._state.value}")
            self._producer.add(job)
            self._exchange.jobs[job.log] = job
            job.log.measure = lambda: self._exchange.stats(job)
            job.log.on_room = lambda: self._exchange.on_room(job)
            job.has_ended = not job.pipes
            if job.has_ended or not job.buffer.is_empty:
                self._exchange.make_ready(job)

    def _request(self, log: Log, work: Callable[[Job], None]) -> None:
        def act() -> None:
            with self._exchange.mutex:
                job = self._exchange.jobs.get(log)
            if job is not None:
                work(job)

        with self._exchange.mutex:
            if self._state is _State.RUNNING:
                self._producer.request(act)

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException:
            logger.critical("a log thread ended by a fault of its own; containers that write will block", exc_info=True)
            raise
