"""One container as the supervisor holds it in memory: its record, its live process, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wherry.logs import Log
from wherry.supervisor.containers.record import End, Record
from wherry.supervisor.containers.stdin import Stdin
from wherry.supervisor.processes.children import Child


class Container:
    """``lock`` orders what waits for something: start, pause, rename, update, removal. All else happens in single turns
    of the loop.
    """

    def __init__(self, record: Record, log: Log) -> None:
        self.record = record
        self.log = log
        self.lock = asyncio.Lock()
        self.child: Child | None = None
        self.stdin: Stdin | None = None
        """Of a run whose request wants one."""
        self.settled = asyncio.Event()
        """Nothing is left of the last run: mount, control group, process."""
        self.settled.set()
        self.log_ended = asyncio.Event()
        self.restarts = 0
        """Restarts under way: an end in the middle of one is no reason for automatic removal."""
        self.held = False
        """A client of ``run`` still needs its record and its log: automatic removal waits for ``released``."""
        self.released = asyncio.Event()
        self._exit_waiters: set[asyncio.Future[End]] = set()
        self.removed = asyncio.Event()

    @property
    def is_to_go(self) -> bool:
        """Whether it is, or was just now, removed because it has ended."""
        record = self.record
        return record.request.auto_remove and record.finished_ns != 0 and not record.is_live and not self.restarts

    def log_ended_in_thread(self) -> Callable[[], None]:
        """What the log pipeline is to call, in a thread of its own, at the end of the log."""
        loop, ended = asyncio.get_running_loop(), self.log_ended

        def tell() -> None:
            loop.call_soon_threadsafe(ended.set)

        return tell

    @property
    def running(self) -> bool:
        return self.record.is_active

    def begin(self, child: Child) -> None:
        """A run, with this first process."""
        self.child = child
        self.settled.clear()

    def close_stdin(self) -> None:
        if self.stdin is not None:
            self.stdin.close()
            self.stdin = None

    def exit_waiter(self) -> asyncio.Future[End]:
        """Completes when the next end has been booked, or the container is removed."""
        waiter: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._exit_waiters.add(waiter)
        waiter.add_done_callback(self._exit_waiters.discard)  # also when who waits has gone away
        return waiter

    def wake_exit_waiters(self) -> None:
        end = End.of(self.record)  # now: who waits may come to its turn after the next start
        for waiter in tuple(self._exit_waiters):
            if not waiter.done():
                waiter.set_result(end)

    async def wait_until_released(self) -> None:
        """Returns at once when nobody holds it."""
        if self.held:
            await self.released.wait()
