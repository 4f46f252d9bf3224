"""What the threads of the pipeline share: one mutex, the two conditions, and the work of each.

The mutex protects everything in Exchange, the fields of a Job below "shared", and all buffers. What is not shared is
one thread's alone: pipes are the producer's, files the consumer's.

- *not_empty*: the consumer waits until a job is `ready`. A job is put there in the same critical section in which bytes
  are committed to its buffer, so it cannot go to sleep between the look and the wait.
- *not_full*: the producer may not wait for one container's buffer, as the others' pipes would wait with it. So it takes
  the pipes of a full one out of its epoll and marks the job `is_full`, in the critical section in which it found no
  room; the consumer, when it makes room, finds the mark and wakes the producer by the eventfd, which the epoll watches.

Neither thread holds the mutex while it moves bytes, waits, or calls back; and neither ever waits for the other with
something in its hands that the other needs. So a full buffer stops its own container and nothing else.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from wherry.logs.buffer import Buffer, BufferStats
from wherry.logs.log import Log
from wherry.logs.pipes import Pipe


class Job:
    """The capture of one log."""

    def __init__(self, log: Log, buffer: Buffer, done: Callable[[], None], pipes: list[Pipe]) -> None:
        self.log = log
        self.buffer = buffer
        self.done = done
        # The producer's.
        self.pipes = pipes
        self.is_cut_off = False
        self.is_parked = False
        # The consumer's.
        self.failing_since: float | None = None  # seconds of CLOCK_MONOTONIC, as the next two
        self.failed_at = 0.0
        self.retry_at = 0.0
        self.pause = 0.0
        # Shared.
        self.is_full = False
        self.is_ready = False
        self.is_failing = False
        self.is_held_back = False
        self.has_ended = False
        self.is_abandoned = False
        self.is_closed = False


class Exchange:
    """The meeting point of callers, producer and consumer."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.not_empty = threading.Condition(self.mutex)
        self.not_full = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.jobs: dict[Log, Job] = {}
        self.ready: deque[Job] = deque()
        self.with_room: list[Job] = []
        self.is_closing = False
        self.producer_has_ended = False

    def close(self) -> None:
        os.close(self.not_full)

    def make_ready(self, job: Job) -> None:
        """The consumer has to look at the job. With the mutex."""
        if not job.is_ready:
            job.is_ready = True
            self.ready.append(job)
            self.not_empty.notify()

    def on_room(self, job: Job) -> None:
        """A reader that held the job's log back has got on, or has gone."""
        with self.mutex:
            if not job.is_closed:
                self.make_ready(job)

    def wake_producer(self) -> None:
        os.eventfd_write(self.not_full, 1)

    def commit(self, job: Job, moved: int) -> None:
        with self.mutex:
            job.buffer.commit(moved)
            if moved:
                self.make_ready(job)

    def end(self, job: Job) -> None:
        """No more bytes will come from its pipes."""
        with self.mutex:
            job.has_ended = True
            self.make_ready(job)

    def abandon(self, job: Job) -> None:
        """Let the consumer throw away what is in the buffer."""
        with self.mutex:
            job.has_ended = job.is_abandoned = True
            # Even if it waits for its next try.
            job.is_ready = False
            self.make_ready(job)

    def stats(self, job: Job) -> BufferStats:
        with self.mutex:
            return job.buffer.stats()
