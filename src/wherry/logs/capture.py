"""The producer: one thread that moves the bytes of all containers from their pipes into their buffers.

It sleeps in epoll over all pipes and one eventfd, by which other threads wake it. A ready pipe gets one splice of at
most a block before the next pipe has its turn, so that a container writing at full speed delays the others by one turn.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from wherry.logs.capture_pauses import Pauses
from wherry.logs.jobs import Exchange, Job
from wherry.logs.pipes import Pipe

NO_MEMORY_SECONDS = 0.05

logger = logging.getLogger(__name__)


class _Reserved(NamedTuple):
    """Where the next bytes of a pipe go: ``room`` bytes of its job's buffer."""

    job: Job
    pipe: Pipe
    room: int


class Producer:
    """run() is the thread; add() and request() may be called from any other.

    The mutex of the exchange protects `_pipes` and `_requests` too, and the first registration of a pipe with the
    epoll: an event could come for a pipe that nobody knows yet.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._pipes: dict[int, tuple[Job, Pipe]] = {}
        self._requests: list[Callable[[], None]] = []
        self._pauses = Pauses()
        self._is_leaving = False
        self._epoll = select.epoll()
        self._epoll.register(exchange.not_full, select.EPOLLIN)

    def add(self, job: Job) -> None:
        """Begin to serve the pipes of a job. With the mutex; raises OSError, and then serves none."""
        registered: list[int] = []
        try:
            for pipe in job.pipes:
                os.set_blocking(pipe.fd, False)
                self._epoll.register(pipe.fd, select.EPOLLIN)
                registered.append(pipe.fd)
        except BaseException:
            for fd in registered:
                self._epoll.unregister(fd)
            raise
        self._pipes.update((pipe.fd, (job, pipe)) for pipe in job.pipes)

    def request(self, work: Callable[[], None]) -> None:
        """Have something done in this thread. With the mutex."""
        self._requests.append(work)
        self._exchange.wake_producer()

    def close(self) -> None:
        self._epoll.close()

    def run(self) -> None:
        """Until the exchange is closing; then takes what is in the pipes at that moment, and returns."""
        while not self._exchange.is_closing:
            self._round()
        self._serve()  # what was asked for before it was closed
        self._begin_leaving()
        while self._has_work():
            self._round()
        self._end_leaving()

    def finish(self, job: Job) -> None:
        """Take what is in the job's pipes now, and no more: somebody may go on writing. In this thread."""
        for pipe in list(job.pipes):
            pipe.left = pipe.waiting_bytes() if pipe.left is None else pipe.left
            if not pipe.left:
                self._end_pipe(job, pipe)

    def abandon(self, job: Job) -> None:
        """Let go of the job's pipes and throw away what is in them and in its buffer. In this thread."""
        lost = self._exchange.stats(job).held_bytes + sum(pipe.waiting_bytes() for pipe in job.pipes)
        if lost:  # said before the job is handed over: afterwards its end may come at any time
            logger.warning("log %s is given up; %d bytes on their way to it are lost", job.log.path, lost)
            job.log.give_up(lost)
        for pipe in list(job.pipes):
            self._release(job, pipe)
        self._exchange.abandon(job)

    def _begin_leaving(self) -> None:
        self._is_leaving = True
        for job, _ in list(self._pipes.values()):
            self.finish(job)

    def _end_leaving(self) -> None:
        for job, pipe in list(self._pipes.values()):
            logger.warning("log %s lacks %d bytes that stay in their pipe", job.log.path, pipe.waiting_bytes())
            self._release(job, pipe)

    def _has_work(self) -> bool:
        """Whether a pipe has to be emptied that can be: the log of its container is being written."""
        with self._exchange.mutex:
            return any(not (job.is_parked and (job.is_failing or job.is_held_back)) for job, _ in self._pipes.values())

    def _round(self) -> None:
        ready = self._epoll.poll()
        self._pauses.begin_round()
        has_more = False
        for fd, events in ready:
            if fd == self._exchange.not_full:
                self._serve()
            else:
                has_more |= self._turn(fd, events)
        self._pauses.end_round(has_more)

    def _turn(self, fd: int, events: int) -> bool:
        """One splice from one pipe, in three steps. Whether there is more in it."""
        reserved = self._reserve(fd, events)
        if reserved is None:
            return False
        moved = self._splice(reserved)
        self._commit(reserved, moved)
        return moved == reserved.room

    def _reserve(self, fd: int, events: int) -> _Reserved | None:
        with self._exchange.mutex:
            job, pipe = self._pipes.get(fd, (None, None))
            if job is None or pipe is None or job.is_parked:
                return None  # ended, or found its buffer full, earlier in this round
            room = job.buffer.reserve(pipe.stream) if events & select.EPOLLIN else 0
            job.is_full = bool(events & select.EPOLLIN) and not room
        if room:
            return _Reserved(job, pipe, room)
        if job.is_full:
            self._park(job)
        elif pipe.is_at_end():  # or the event was for a pipe that had this number when the round began
            self._end_pipe(job, pipe)
        return None

    def _splice(self, reserved: _Reserved) -> int:
        job, pipe, room = reserved
        try:
            return job.buffer.splice(pipe.fd, room if pipe.left is None else min(room, pipe.left))
        except BlockingIOError:
            return 0
        except OSError as error:  # ENOMEM: the bytes stay in the pipe, and the epoll calls again
            logger.error("cannot buffer output for log %s: %s; trying on", job.log.path, error)
            time.sleep(NO_MEMORY_SECONDS)
            return 0

    def _commit(self, reserved: _Reserved, moved: int) -> None:
        job, pipe, _ = reserved
        self._exchange.commit(job, moved)
        if pipe.left is not None and moved:
            pipe.left -= moved
            if not pipe.left:
                self._end_pipe(job, pipe)

    def _park(self, job: Job) -> None:
        """Look away from the job until its buffer has room."""
        job.is_parked = True
        # Out of the epoll, not just without events: a hang-up is reported all the same and would keep us awake.
        for pipe in job.pipes:
            self._epoll.unregister(pipe.fd)

    def _serve(self) -> None:
        """Requests, and jobs whose buffers have room again."""
        with self._exchange.mutex:
            requests, self._requests = self._requests, []
            jobs, self._exchange.with_room = self._exchange.with_room, []
            with suppress(BlockingIOError):
                os.eventfd_read(self._exchange.not_full)
        for job in jobs:
            job.is_parked = False
            for pipe in job.pipes:
                self._epoll.register(pipe.fd, select.EPOLLIN)
        for request in requests:
            request()

    def _end_pipe(self, job: Job, pipe: Pipe) -> None:
        if self._is_leaving and not pipe.is_at_end():
            self._release(job, pipe)  # its container runs on, for whoever has the pipe too
            job.is_cut_off = True
            return
        self._release(job, pipe)
        if not job.pipes and not job.is_cut_off:
            self._exchange.end(job)

    def _release(self, job: Job, pipe: Pipe) -> None:
        if not job.is_parked:
            # Closing is not enough: the shim has the same pipe open, and epoll(7) forgets only files closed everywhere.
            self._epoll.unregister(pipe.fd)
        with self._exchange.mutex:
            del self._pipes[pipe.fd]
        job.pipes.remove(pipe)
        os.close(pipe.fd)
