"""The end of a container: collect the last bytes and figures, book it, wake who waits, leave nothing behind."""

from __future__ import annotations

import asyncio
import logging

from wherry.logs import Pipeline
from wherry.runtime import cgroup_limits
from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import MEMORY_REASONS
from wherry.supervisor.events import Events
from wherry.supervisor.lifecycle.starting import Starter
from wherry.supervisor.memory_watch.memory import MemoryWatch
from wherry.supervisor.processes.children import Child, Children
from wherry.supervisor.records import Records

_log = logging.getLogger(__name__)
_OUTPUT_SECONDS = 1.0


class Ender:
    def __init__(
        self,
        children: Children,
        records: Records,
        pipeline: Pipeline,
        starter: Starter,
        events: Events,
        memory: MemoryWatch,
    ) -> None:
        self._children = children
        self._records = records
        self._pipeline = pipeline
        self._starter = starter
        self._events = events
        self._memory = memory
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Wait no longer for logs that cannot be written: there is nobody who could keep what is missing in them."""
        self._closing.set()

    async def book(self, container: Container, child: Child) -> None:
        """Until the container has ended, and its end is booked and told to who waits for it."""
        status = await child.exited
        container.close_stdin()
        evidence = self._memory.disarm(container)
        container.log.expect_end()
        await self._wait_for_output(container)
        record = container.record
        memory_bytes, pids = cgroup_limits.peak_memory(child.group), cgroup_limits.peak_pids(child.group)
        states.measured(record, memory_bytes=memory_bytes, pids=pids)
        states.log_measured(record, container.log.measure())
        told = states.ended(record, status, evidence, log_is_written=container.log_ended.is_set())
        if record.reason not in MEMORY_REASONS:
            self._memory.explain_kills(container, evidence.unexplained_kills)
        # The record before the shim's: killed in between, the next supervisor finds an exit that it books once more,
        # not none.
        self._records.keep(record)
        self._starter.release_rootfs(container)
        container.child = None
        self._events.tell(record, *told)
        container.wake_exit_waiters()
        _log.info("%s: ended: %s, exit code %s", record.name, record.reason, record.exit_code)

    async def clean_up(self, container: Container, child: Child) -> None:
        """Nothing of the run is left when this returns, but its log and layer."""
        if not container.log_ended.is_set():
            await self._wait_for_log(container)
        await self._children.discard(child)
        if container.record.id_map is not None:
            states.gave_ids_back(container.record)  # others may have them: none of its processes is left
            if not container.removed.is_set():
                self._records.keep(container.record)
        container.settled.set()
        self._starter.refill()

    async def _wait_for_output(self, container: Container) -> None:
        """The pipes close with the last process of the pid namespace, unless one of their ends was handed out of it."""
        if await _within(_OUTPUT_SECONDS, container.log_ended):
            return
        self._pipeline.finish(container.log)
        if not await _within(_OUTPUT_SECONDS, container.log_ended):
            # The pipeline goes on trying; the end of the container does not wait for an administrator to make space.
            _log.error("%s: has ended, but its log cannot be written", container.record.name)

    async def _wait_for_log(self, container: Container) -> None:
        """The shim keeps the buffer as long as not all of it is in the log: we may be killed meanwhile."""
        waits = [asyncio.ensure_future(event.wait()) for event in (container.log_ended, self._closing)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        states.log_written(container.record, container.log.measure())
        if not container.removed.is_set():
            self._records.keep(container.record)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
