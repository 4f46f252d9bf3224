"""New starts that restart policies want: each after its delay, and not before nothing is left of the run before."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable

from wherry.errors import WherryError
from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.restart_policy import RestartPolicy
from wherry.supervisor.events import Events
from wherry.supervisor.records import Records

_log = logging.getLogger(__name__)


class Restarts:
    """``start`` starts a container whose lock is held, and books it when that fails; ``begin`` runs something in the
    background.
    """

    def __init__(
        self,
        records: Records,
        events: Events,
        start: Callable[[Container], Awaitable[None]],
        begin: Callable[[Coroutine[object, object, None]], None],
    ) -> None:
        self._records = records
        self._events = events
        self._start = start
        self._begin = begin
        self._timers: dict[Container, asyncio.TimerHandle] = {}
        self._is_closed = False

    def schedule(self, container: Container) -> None:
        """The start of one that is restarting, when its delay is over; of no other one, and once."""
        record = container.record
        if self._is_closed or container in self._timers or not states.can_give_up(record):
            return
        # The clock may have been set meanwhile: never wait longer than the delay.
        left_ns = min(record.finished_ns + record.restart_delay_ns - time.time_ns(), record.restart_delay_ns)
        loop = asyncio.get_running_loop()
        self._timers[container] = loop.call_later(max(left_ns, 0) / 1e9, self._due, container)

    def resume(self, containers: Iterable[Container], *, is_new_shim: bool) -> None:
        """What an earlier supervisor did not come to, and those that its shutdown has stopped."""
        for container in containers:
            if states.owed_start(container.record, is_new_shim=is_new_shim):
                self._records.keep(container.record)
            if container.settled.is_set():  # else it is scheduled when nothing is left of the last run
                self.schedule(container)

    def give_up(self, container: Container) -> None:
        """Somebody wants it down, or takes its start upon himself. It is restarting: ``states.can_give_up``."""
        self._cancel(container)
        states.gave_up_restart(container.record)
        states.kept_down(container.record)
        self._records.keep(container.record)
        container.wake_exit_waiters()

    def close(self) -> None:
        """Start nothing any more: who is restarting is the next supervisor's."""
        self._is_closed = True
        for container in tuple(self._timers):
            self._cancel(container)

    def _cancel(self, container: Container) -> None:
        timer = self._timers.pop(container, None)
        if timer is not None:
            timer.cancel()

    def _due(self, container: Container) -> None:
        del self._timers[container]
        self._begin(self._restart(container))

    async def _restart(self, container: Container) -> None:
        async with container.lock:
            if self._is_closed or container.removed.is_set() or not states.can_give_up(container.record):
                return
            record = container.record
            if record.request.restart == RestartPolicy.NO:  # it has been updated meanwhile
                self.give_up(container)
                return
            _log.info("%s: restart %d", record.name, record.restart_count)
            try:
                await self._start(container)
            except WherryError as error:
                _log.warning("%s: could not be restarted: %s", record.name, error)
