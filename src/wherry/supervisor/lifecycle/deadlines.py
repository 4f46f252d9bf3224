"""``--timeout``: the end of containers whose time is over, by SIGKILL to all that is in them.

The time is of CLOCK_MONOTONIC, from the execution of the command on, and stands in the record: the next supervisor goes
on with it, and ends at once what has outlived its time while there was none.
"""

from __future__ import annotations

import asyncio
import logging
import time

from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.events import Events
from wherry.supervisor.lifecycle import stopping
from wherry.supervisor.records import Records

_log = logging.getLogger(__name__)


class Deadlines:
    def __init__(self, records: Records, events: Events) -> None:
        self._records = records
        self._events = events
        self._timers: dict[Container, asyncio.TimerHandle] = {}

    def begin(self, container: Container) -> None:
        """Of one that runs, if its time is limited."""
        deadline_ns = container.record.deadline_ns
        if deadline_ns:
            seconds = max(deadline_ns - time.monotonic_ns(), 0) / 1e9
            self._timers[container] = asyncio.get_running_loop().call_later(seconds, self._over, container)

    def end(self, container: Container) -> None:
        """Of its run."""
        timer = self._timers.pop(container, None)
        if timer is not None:
            timer.cancel()

    def _over(self, container: Container) -> None:
        self._timers.pop(container, None)
        record = container.record
        if states.can_signal(record):
            _log.info("%s: its time of %g s is over", record.name, record.request.timeout_seconds)
            states.timed_out(record)
            stopping.kill(container, self._records, self._events)

    def close(self) -> None:
        for container in tuple(self._timers):
            self.end(container)
