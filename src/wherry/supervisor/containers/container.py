"""One container as the supervisor holds it in memory: its record, its live process, and who waits for it."""

from __future__ import annotations

import asyncio
import copy
import signal
import time
from collections.abc import Callable

from wherry.errors import WherryError
from wherry.logs import Log
from wherry.runtime.exit_status import ExitStatus
from wherry.supervisor.containers.cause import MemoryEvidence, decide
from wherry.supervisor.containers.record import End, Reason, Record, State
from wherry.supervisor.lifecycle import killing
from wherry.supervisor.processes.children import Child

_NOTHING_SEEN = MemoryEvidence()


class Container:
    """``lock`` orders start and remove; everything else happens in single turns of the loop."""

    def __init__(self, record: Record, log: Log) -> None:
        self.record = record
        self.log = log
        self.lock = asyncio.Lock()
        self.child: Child | None = None
        self.settled = asyncio.Event()
        """Nothing is left of the last run: mount, control group, process."""
        self.settled.set()
        self.log_ended = asyncio.Event()
        self.held = False
        """A client of ``run`` still needs its record and its log: automatic removal waits for ``released``."""
        self.released = asyncio.Event()
        self._exit_waiters: set[asyncio.Future[End]] = set()
        self.removed = asyncio.Event()

    def log_ended_in_thread(self) -> Callable[[], None]:
        """What the log pipeline is to call, in a thread of its own, at the end of the log."""
        loop, ended = asyncio.get_running_loop(), self.log_ended

        def tell() -> None:
            loop.call_soon_threadsafe(ended.set)

        return tell

    @property
    def running(self) -> bool:
        return self.record.state is State.RUNNING

    def running_record(self, child: Child) -> Record:
        """A copy of the record that says that the command runs from now on."""
        running = copy.copy(self.record)
        running.state, running.pid, running.started_ns = State.RUNNING, child.pid, time.time_ns()
        return running

    def started(self, child: Child, running: Record) -> None:
        """``running`` is what ``running_record`` gave."""
        self.child = child
        self.settled.clear()
        record = self.record
        record.state, record.pid, record.started_ns = running.state, running.pid, running.started_ns

    def reset(self) -> None:
        """Forget how an earlier run ended."""
        record = self.record
        record.reason, record.error = Reason.NONE, ""
        record.exit_code = record.signal = None
        record.peak_memory_bytes = record.peak_pids = record.peak_rss_bytes = None
        record.backstop_bytes = None
        record.enforcer, record.oom_children, record.memory_death = "", 0, None
        record.finished_ns = record.killed_ns = 0
        record.stop_requested = False
        self.log_ended.clear()

    def ended(self, status: ExitStatus | None, evidence: MemoryEvidence = _NOTHING_SEEN) -> None:
        """Book the end of the process; ``None`` is an end whose status nobody could collect."""
        record = self.record
        record.state = State.EXITED
        record.pid = 0
        if self.log_ended.is_set():
            record.slot = ""  # else the shim still has what is on its way to the log
        record.finished_ns = time.time_ns()
        record.reason, record.memory_death = decide(
            status,
            evidence,
            start_failed=record.reason is Reason.START_FAILED,  # found out after a takeover
            stop_requested=record.stop_requested,
            with_init=record.request.init,
            limit_lost=record.reason is Reason.LIMIT_LOST,  # as well
        )
        record.peak_rss_bytes = evidence.peak_bytes
        if record.reason is Reason.HARD_LIMIT:
            # What killed it is known. Its first process may have been quicker to end than to be killed.
            record.exit_code, record.signal = 128 + signal.SIGKILL, int(signal.SIGKILL)
        elif status is not None:
            record.exit_code, record.signal = status.exit_code, status.signal
        else:
            record.error = record.error or "its parent, the shim, died; the exit status is not known"

    def start_failed(self, error: WherryError) -> Record:
        """Book a start that left nothing but the record."""
        record = self.record
        record.state, record.reason = State.EXITED, Reason.START_FAILED
        record.error, record.exit_code = str(error), error.exit_code
        record.finished_ns = time.time_ns()
        return record

    def send_signal(self, number: int) -> None:
        """To the first process; no error when it has just ended."""
        if self.child is not None and self.child.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.child.pidfd, number)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        """SIGKILL, and whatever it takes to make that one work (``killing``)."""
        if self.child is not None:
            self.record.killed_ns = self.record.killed_ns or time.time_ns()
            killing.kill(self.child)

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
