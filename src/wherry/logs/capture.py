"""Capture: one thread that moves the bytes of all containers from their pipes into their logs.

The thread sleeps in epoll over all pipes and one eventfd, by which other threads wake it. A ready pipe gets one splice
of at most TURN bytes before the next pipe has its turn, so that a container writing at full speed delays the others by
one turn each. A log that cannot be written (ENOSPC, EIO, ...) is taken out of the epoll with both its pipes and tried
again by a timer; its bytes stay in the pipes, which fill up and block that container alone.

`Capture._lock` protects what other threads and the capture thread share: `_jobs`, `_adding`, `_pipes`, `_requests`,
`_state`, and the first registration of a pipe with the epoll. Without it an add() that races with close() would leave
descriptors behind, a log could be captured twice, and an event could come for a pipe that nobody knows yet. All else of
a _Job is the capture thread's alone once add() has published it, and so is `_failing`. Order: no call-back (`done`, a
follower's waker) runs with the lock held, and nobody who holds a Log's lock asks for this one, so none can deadlock.
"""

from __future__ import annotations

import enum
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

from wherry import errors
from wherry.logs.log import Log
from wherry.logs.pace import Pace
from wherry.logs.pipes import Pipe, distinct_pipes

TURN = 1024 * 1024
FIRST_RETRY_SECONDS = 0.05
LAST_RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)


class _Job:
    """The capture of one log."""

    def __init__(self, log: Log, done: Callable[[], None], pipes: list[Pipe]) -> None:
        self.log = log
        self.done = done
        self.pipes = pipes
        self.is_finishing = False
        self.failing_since: float | None = None  # seconds of CLOCK_MONOTONIC, as failed_at
        self.failed_at = 0.0
        self.pause = FIRST_RETRY_SECONDS


class _State(enum.Enum):
    NEW = "not started"
    RUNNING = "running"
    CLOSED = "closed"


class Capture:
    """start(), then add() a log with its pipes; close() at the end. All methods may be called from any thread.

    Also a context manager that does both.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = _State.NEW
        self._jobs: dict[Log, _Job] = {}
        self._pipes: dict[int, tuple[_Job, Pipe]] = {}
        self._adding: set[Log] = set()
        self._requests: list[Callable[[], None]] = []
        self._failing: set[_Job] = set()  # the capture thread's own; their pipes are not in the epoll
        self._pace = Pace()
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wakeup, select.EPOLLIN)
        # No daemon thread: an interpreter that goes down would freeze it anywhere, and containers would block unseen.
        self._thread = threading.Thread(target=self._run, name="wherry-capture")

    def __enter__(self) -> Capture:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        with self._lock:
            if self._state is not _State.NEW:
                raise errors.InternalError(f"log capture cannot start: it is {self._state.value}")
            self._thread.start()
            self._state = _State.RUNNING

    def add(self, log: Log, stdout: int, stderr: int, done: Callable[[], None]) -> None:
        """Capture two pipes (read ends; -1 = no such stream) into ``log``, which is opened, mended and continued.

        Takes the descriptors over: they become non-blocking, are closed at their end of file, and are the caller's
        again only if this raises. Two ends of one pipe are captured as stdout. ``done`` is called in the capture thread
        when all pipes are at their end and every byte is in the file, and the log is closed and finished.

        Raises InvalidRequest (a descriptor is no pipe), Conflict (already captured), InternalError (not running), and
        what Log.open raises.
        """
        job = _Job(log, done, distinct_pipes(stdout, stderr, log.path))
        # Asked before the thread knows the job: it takes a pipe that is at its end out of the list and closes it.
        has_second_end = stderr not in (-1, stdout, *(pipe.fd for pipe in job.pipes))
        has_none = not job.pipes
        with self._reserved(log):
            log.open()
            try:
                self._publish(job)
            except BaseException:
                log.close()
                raise
        if has_second_end:
            os.close(stderr)
        if has_none:
            self._request(lambda: self._complete(job))

    def finish(self, log: Log) -> None:
        """Write what is in the pipes of ``log`` now, and complete it even though somebody still has a writing end.

        For a container whose first process is gone but whose pipe was passed on. ``done`` is called as ever, later.
        Nothing happens if the log is not being captured (any more).
        """
        self._request(lambda: self._finish(log))

    def abandon(self, log: Log) -> None:
        """Complete ``log`` at once and throw away what is in its pipes: to remove a container when the disk is full."""
        self._request(lambda: self._abandon(log))

    def close(self) -> None:
        """Write what is in the pipes now, then stop the thread and wait for it. Later calls do nothing.

        Logs whose pipes have not ended are closed but not finished, without ``done``: their containers run on, for
        whoever has the pipes too. The same goes for bytes that a full disk does not take.
        """
        with self._lock:
            was, self._state = self._state, _State.CLOSED
        if was is _State.RUNNING:
            os.eventfd_write(self._wakeup, 1)
            self._thread.join()
        if was is not _State.CLOSED:
            self._epoll.close()
            os.close(self._wakeup)

    # In the calling thread.

    @contextmanager
    def _reserved(self, log: Log) -> Iterator[None]:
        """Nobody else adds ``log`` meanwhile. Not by holding the lock: opening a log may take time on a slow disk."""
        with self._lock:
            if log in self._jobs or log in self._adding:
                raise errors.Conflict(f"log {log.path} is being captured already")
            self._adding.add(log)
        try:
            yield
        finally:
            with self._lock:
                self._adding.discard(log)

    def _publish(self, job: _Job) -> None:
        """Registers from the calling thread: a request would cost each start of a container a thread switch."""
        with self._lock, ExitStack() as undo:
            if self._state is not _State.RUNNING:
                raise errors.InternalError(f"log capture cannot take {job.log.path}: it is {self._state.value}")
            for pipe in job.pipes:
                os.set_blocking(pipe.fd, False)
                self._epoll.register(pipe.fd, select.EPOLLIN)
                undo.callback(self._epoll.unregister, pipe.fd)
            undo.pop_all()
            self._pipes.update((pipe.fd, (job, pipe)) for pipe in job.pipes)
            self._jobs[job.log] = job

    def _request(self, request: Callable[[], None]) -> None:
        with self._lock:
            if self._state is not _State.RUNNING:
                return
            self._requests.append(request)
            os.eventfd_write(self._wakeup, 1)

    # In the capture thread.

    def _run(self) -> None:
        try:
            while self._is_running():
                self._take_turns()
            self._drain()
        except BaseException:
            logger.critical("log capture ended by a fault of its own; containers that write will block", exc_info=True)
            raise

    def _is_running(self) -> bool:
        with self._lock:
            return self._state is _State.RUNNING

    def _take_turns(self) -> None:
        ready = self._epoll.poll(self._seconds_to_retry())
        self._pace.begin_round()
        moved = sum(self._take_turn(fd, events) for fd, events in ready)
        self._serve_requests()
        self._retry()
        self._pace.end_round(len(ready), moved)

    def _take_turn(self, fd: int, events: int) -> int:
        with self._lock:
            job, pipe = self._pipes.get(fd, (None, None))
        if job is None or pipe is None or job in self._failing:
            return 0  # the eventfd, or a log that failed earlier in this round
        if events & select.EPOLLIN:
            return self._append(job, pipe, TURN)
        self._end_pipe(job, pipe)  # EPOLLHUP alone: no byte left, and nobody has the writing end (poll(2))
        return 0

    def _append(self, job: _Job, pipe: Pipe, limit: int) -> int:
        """Bytes moved; 0 when there is nothing to move, or the log cannot take it (it then is in `_failing`)."""
        try:
            moved = job.log.append(pipe.fd, pipe.stream, limit)
        except BlockingIOError:
            return 0
        except Exception as error:  # whatever it is, the other containers' logs go on
            self._suspend(job, error)
            return 0
        if job.failing_since is not None:
            self._note_success(job)
        return moved

    def _end_pipe(self, job: _Job, pipe: Pipe) -> None:
        self._release(job, pipe)
        if not job.pipes:
            self._complete(job)

    def _release(self, job: _Job, pipe: Pipe) -> None:
        if job not in self._failing:
            # Closing is not enough: the shim has the same pipe open, and epoll(7) forgets only files closed everywhere.
            self._epoll.unregister(pipe.fd)
        with self._lock:
            del self._pipes[pipe.fd]
        job.pipes.remove(pipe)
        os.close(pipe.fd)

    def _complete(self, job: _Job) -> None:
        self._failing.discard(job)
        with self._lock:
            del self._jobs[job.log]
        job.log.close()
        job.log.finish()
        try:
            job.done()
        except Exception:
            logger.exception("after the end of log %s", job.log.path)

    def _serve_requests(self) -> None:
        with self._lock:
            requests, self._requests = self._requests, []
            if requests:
                os.eventfd_read(self._wakeup)
        for request in requests:
            request()

    def _finish(self, log: Log) -> None:
        job = self._job(log)
        if job is None:
            return
        job.is_finishing = True
        for pipe in list(job.pipes):
            if job not in self._failing and self._empty(job, pipe):
                self._release(job, pipe)
        if not job.pipes:
            self._complete(job)

    def _abandon(self, log: Log) -> None:
        job = self._job(log)
        if job is None:
            return
        lost = sum(pipe.waiting_bytes() for pipe in job.pipes)
        if lost:
            logger.warning("log %s was given up; %d bytes in its pipes are lost", log.path, lost)
        for pipe in list(job.pipes):
            self._release(job, pipe)
        self._complete(job)

    def _job(self, log: Log) -> _Job | None:
        with self._lock:
            return self._jobs.get(log)

    def _empty(self, job: _Job, pipe: Pipe) -> bool:
        """Move what is in the pipe now, and no more: somebody may go on writing. Whether all of it went."""
        left = pipe.waiting_bytes()
        while left > 0:
            moved = self._append(job, pipe, min(left, TURN))
            if not moved:
                return job not in self._failing
            left -= moved
        return True

    # A log that cannot be written.

    def _suspend(self, job: _Job, error: Exception) -> None:
        now = time.monotonic()
        # A log that goes on failing does so once a pause; a failure long after the last one is another one.
        if job.failing_since is None or now - job.failed_at > 2 * LAST_RETRY_SECONDS:
            job.failing_since = now
            job.pause = FIRST_RETRY_SECONDS
            logger.error("cannot write log %s: %s; its container waits, trying on", job.log.path, error)
        else:
            job.pause = min(2 * job.pause, LAST_RETRY_SECONDS)
        job.failed_at = now
        if job not in self._failing:
            self._failing.add(job)
            # Out of the epoll, not just without events: a hang-up is reported all the same and would keep us awake.
            for pipe in job.pipes:
                self._epoll.unregister(pipe.fd)

    def _resume(self, job: _Job) -> None:
        self._failing.discard(job)
        for pipe in job.pipes:
            self._epoll.register(pipe.fd, select.EPOLLIN)

    def _note_success(self, job: _Job) -> None:
        """A disk that takes a block now and then is not well yet, and must not fill our own log."""
        now = time.monotonic()
        if job.failing_since is not None and now - job.failed_at > LAST_RETRY_SECONDS:
            logger.warning("log %s is written again after %.1f s", job.log.path, now - job.failing_since)
            job.failing_since = None

    def _seconds_to_retry(self) -> float | None:
        if not self._failing:
            return None
        return max(0.0, min(job.failed_at + job.pause for job in self._failing) - time.monotonic())

    def _retry(self) -> None:
        now = time.monotonic()
        for job in [job for job in self._failing if job.failed_at + job.pause <= now]:
            self._resume(job)
            if job.is_finishing:
                self._finish(job.log)

    # Shutdown.

    def _drain(self) -> None:
        self._serve_requests()
        for job in list(self._failing):
            self._resume(job)
        for job, pipe in list(self._pipes.values()):
            if job in self._failing or not self._empty(job, pipe):
                logger.warning("log %s lacks %d bytes that stay in their pipe", job.log.path, pipe.waiting_bytes())
        for fd, events in self._epoll.poll(0):
            if not events & select.EPOLLIN and fd in self._pipes:
                self._end_pipe(*self._pipes[fd])
        for job in list(self._jobs.values()):
            self._leave(job)

    def _leave(self, job: _Job) -> None:
        for pipe in list(job.pipes):
            self._release(job, pipe)
        with self._lock:
            del self._jobs[job.log]
        job.log.close()
