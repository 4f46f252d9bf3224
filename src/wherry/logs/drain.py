"""The consumer: one thread that moves the bytes of all buffers into their logs.

A log that cannot be written (ENOSPC, EIO, ...) is tried again by a timer; meanwhile its buffer fills up, and then what
its mode says happens to that container alone. Each job has one turn, a piece of at most a block, before the next one.

So it is with a log that is held back by a reader (holds.py), only that no timer but the reader wakes it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from wherry.logs.buffer import Gap, Piece
from wherry.logs.holds import HeldBack
from wherry.logs.jobs import Exchange, Job
from wherry.logs.log import Log

FIRST_RETRY_SECONDS = 0.05
LAST_RETRY_SECONDS = 1.0
IDLE_SECONDS = 1.0
"""After that long without a byte a buffer gives its memory back, and its log is called healthy."""

logger = logging.getLogger(__name__)


class Consumer:
    """run() is the thread. `_failing` and `_warm` are its own.

    ``on_gap(log, lost)`` and ``on_trouble(log, reason)`` are called when a marker has been written, and when a log
    cannot be written or can again (reason "").
    """

    def __init__(
        self, exchange: Exchange, on_gap: Callable[[Log, int], None], on_trouble: Callable[[Log, str], None]
    ) -> None:
        self._exchange = exchange
        self._on_gap = on_gap
        self._on_trouble = on_trouble
        self._failing: set[Job] = set()
        self._warm: dict[Job, float] = {}  # jobs with nothing to do, and since when

    def run(self) -> None:
        """Until the producer has ended and nothing is left to write that can be written."""
        self._work()
        for job in list(self._failing):
            self._try_again(job)
        self._work()
        for job in list(self._exchange.jobs.values()):
            self._leave(job)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._turn(job)

    def _next(self) -> Job | None:
        """The next job to look at; None at the end."""
        exchange = self._exchange
        while True:
            with exchange.mutex:
                if not exchange.ready and not exchange.producer_has_ended:
                    exchange.not_empty.wait(self._seconds_to_wait())
                job = exchange.ready.popleft() if exchange.ready else None
                if job is not None:
                    job.is_ready = False
                elif exchange.producer_has_ended:
                    return None
            self._retry()
            self._give_back()
            if job is not None and not job.is_closed:
                return job

    def _turn(self, job: Job) -> None:
        """One piece of one job, in three steps."""
        claim = self._claim(job)
        if claim is not None:
            self._release(job, self._write(job, claim))

    def _claim(self, job: Job) -> Piece | Gap | None:
        if job.is_abandoned:
            self._complete(job)
            return None
        with self._exchange.mutex:
            job.is_held_back = False
            claim = job.buffer.claim()
        if claim is not None:
            self._warm.pop(job, None)
        elif job.has_ended:
            self._complete(job)
        return claim

    def _release(self, job: Job, moved: int) -> None:
        exchange = self._exchange
        with exchange.mutex:
            job.buffer.release(moved)
            if job.is_full and job.buffer.has_room:
                job.is_full = False
                exchange.with_room.append(job)
                exchange.wake_producer()
            if job in self._failing or job.is_held_back:
                return
            if job.has_ended or not job.buffer.is_empty:
                exchange.make_ready(job)
            else:
                self._warm[job] = time.monotonic()

    def _write(self, job: Job, claim: Piece | Gap) -> int:
        """Bytes moved; 0 for a gap, or when the log cannot take it (the job then is in `_failing`, or held back)."""
        moved = 0
        try:
            if isinstance(claim, Gap):
                job.log.append_gap(job.buffer, claim.lost)
                self._on_gap(job.log, claim.lost)
            else:
                moved = job.log.append(job.buffer, claim)
        except HeldBack:
            self._hold_back(job)
            return 0
        except Exception as error:  # whatever it is, the other containers' logs go on
            self._suspend(job, error)
            return 0
        self._note_success(job)
        return moved

    def _complete(self, job: Job) -> None:
        self._close(job)
        job.log.finish()
        try:
            job.done()
        except Exception:
            logger.exception("after the end of log %s", job.log.path)

    def _leave(self, job: Job) -> None:
        """Close the log of a container that runs on; its buffer stays with whoever has it too."""
        held = self._exchange.stats(job).held_bytes
        if held:
            logger.warning("log %s lacks %d bytes that stay in their buffer", job.log.path, held)
        self._close(job)

    def _close(self, job: Job) -> None:
        self._failing.discard(job)
        self._warm.pop(job, None)
        with self._exchange.mutex:
            job.log.set_stats(job.buffer.stats())
            job.is_closed = True
            del self._exchange.jobs[job.log]
            job.buffer.close()
        job.log.trouble = ""
        job.log.close()

    def _give_back(self) -> None:
        until = time.monotonic() - IDLE_SECONDS
        for job in [job for job, since in self._warm.items() if since <= until]:
            del self._warm[job]
            self._note_success(job)
            with self._exchange.mutex:
                job.buffer.give_back()

    def _seconds_to_wait(self) -> float | None:
        moments = [job.retry_at for job in self._failing]
        if self._warm:
            moments.append(min(self._warm.values()) + IDLE_SECONDS)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _hold_back(self, job: Job) -> None:
        """Its reader calls, or has called already: then the job is ready again, and its next turn comes at once."""
        with self._exchange.mutex:
            job.is_held_back = True
            if self._exchange.is_closing:
                self._exchange.wake_producer()  # as in _suspend

    # A log that cannot be written.

    def _suspend(self, job: Job, error: Exception) -> None:
        now = time.monotonic()
        # A log that goes on failing does so once a pause; a failure long after the last one is another one.
        if job.failing_since is None or now - job.failed_at > 2 * LAST_RETRY_SECONDS:
            job.failing_since = now
            job.pause = FIRST_RETRY_SECONDS
            logger.error("cannot write log %s: %s; trying on", job.log.path, error)
            self._set_trouble(job, str(error))
        else:
            job.pause = min(2 * job.pause, LAST_RETRY_SECONDS)
        job.failed_at = now
        job.retry_at = now + job.pause
        self._failing.add(job)
        with self._exchange.mutex:
            job.is_ready = True  # so that the producer does not make it so
            if self._exchange.is_closing:
                self._exchange.wake_producer()  # which need not wait for room any more

    def _retry(self) -> None:
        if self._exchange.producer_has_ended:
            return  # the last try is run()'s: a full disk must not keep us from coming to an end
        now = time.monotonic()
        for job in [job for job in self._failing if job.retry_at <= now]:
            self._try_again(job)

    def _try_again(self, job: Job) -> None:
        self._failing.discard(job)
        with self._exchange.mutex:
            job.is_ready = False
            self._exchange.make_ready(job)

    def _note_success(self, job: Job) -> None:
        """A disk that takes a block now and then is not well yet, and must not fill our own log."""
        now = time.monotonic()
        if job.failing_since is not None and now - job.failed_at > LAST_RETRY_SECONDS:
            logger.warning("log %s is written again after %.1f s", job.log.path, now - job.failing_since)
            job.failing_since = None
            self._set_trouble(job, "")

    def _set_trouble(self, job: Job, reason: str) -> None:
        job.log.trouble = reason
        with self._exchange.mutex:
            job.is_failing = bool(reason)
        self._on_trouble(job.log, reason)
