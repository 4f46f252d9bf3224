"""Whom the kernel's OOM killer has chosen: the container's first process, which ends it, or another one of it.

An enforcer that names victims says it at once. Else the group's count of kills is looked at after the signal; when the
first process lives on, it was another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from wherry.kernel import cgroup_memory, procfs
from wherry.kernel.cgroups import Group
from wherry.memory import MemoryEvent, MemoryLimiter
from wherry.memory.oom import OomWatch
from wherry.supervisor.containers import states
from wherry.supervisor.containers.record import Record
from wherry.supervisor.events import Action, Events
from wherry.supervisor.memory_watch.watched import Watched
from wherry.supervisor.processes.children import Child
from wherry.supervisor.records import Records

_log = logging.getLogger(__name__)

_CHILD_SECONDS = 0.25
"""When the first process has not ended that long after an OOM kill, another process was the victim."""
_SURE_SECONDS = 0.05
"""After which it is looked at once more: between a thread's signal and its exit is a moment that shows neither."""
_COUNT_SECONDS = (0.001, 0.01, 0.1, 0.5)
"""When to look at the count of OOM kills after the signal, which may come before the kill."""


class Victims:
    """Belongs to the loop. ``watched`` are the armed containers by id; ``drain`` hears what an enforcer has to say."""

    def __init__(
        self,
        events: Events,
        records: Records,
        watched: Mapping[str, Watched],
        drain: Callable[[MemoryLimiter], None],
    ) -> None:
        self._events = events
        self._records = records
        self._watched = watched
        self._drain = drain
        self._kills = OomWatch()
        self._timers: set[asyncio.TimerHandle] = set()
        self._looking: dict[str, bool] = {}
        """Containers whose OOM kills are about to be counted, and whether there was another signal since."""

    def open(self) -> None:
        asyncio.get_running_loop().add_reader(self._kills.fileno(), self._look_for_kills)

    def add(self, container_id: str, group: Group) -> None:
        """Raises OSError."""
        self._kills.add(container_id, group)

    def remove(self, container_id: str) -> None:
        self._kills.remove(container_id)

    def explain(self, record: Record, kills: int) -> None:
        """Of a container that has ended, and not by the OOM killer: whoever was killed was another process of it."""
        self._book(record, {}, kills)

    def hear(self, watched: Watched, event: MemoryEvent) -> None:
        """An enforcer has named the victim. Of a container with our init, any process may be the command."""
        if event.pid == watched.child.pid:
            watched.victim = event
        elif watched.container.record.request.init:
            self._later(_CHILD_SECONDS, watched, event)
        else:
            self._book(watched.container.record, self._described(event, watched.child), 1)

    def _look_for_kills(self) -> None:
        for container_id in self._kills.changed():
            if container_id in self._looking:
                self._looking[container_id] = True
            else:
                self._look_soon(container_id)

    def _look_soon(self, container_id: str) -> None:
        """A container that has its processes killed all the time is looked at once for many kills."""
        watched = self._watched.get(container_id)
        if watched is None:
            return
        self._looking[container_id] = False
        for delay in _COUNT_SECONDS:
            self._later(delay + _CHILD_SECONDS, watched, None)

        def over() -> None:
            self._timers.discard(timer)
            if self._looking.pop(container_id, False):
                self._look_soon(container_id)

        timer = asyncio.get_running_loop().call_later(_CHILD_SECONDS, over)
        self._timers.add(timer)

    def _later(self, seconds: float, watched: Watched, event: MemoryEvent | None, *, seems_alive: bool = False) -> None:
        before = procfs.running_threads(watched.child.pid)

        def due() -> None:
            self._timers.discard(timer)
            if self._watched.get(watched.container.record.id) is not watched or watched.child.exited.done():
                return
            if watched.limiter is not None:
                self._drain(watched.limiter)  # kills for a hard limit are its own business, and make the first one die
            # On a slow machine it takes longer to end than we wait. The kernel counts a kill before it signals it, and
            # a thread takes its signal off the list before it exits: one that has not got on since may be there.
            now = procfs.running_threads(watched.child.pid)
            stands_still = any(before.get(thread) == ran for thread, ran in now.items())
            if stands_still or procfs.is_dying(watched.child.pid):
                self._later(seconds, watched, event)
            elif not seems_alive:
                self._later(_SURE_SECONDS, watched, event, seems_alive=True)
            else:
                self._explain(watched, event)

        timer = asyncio.get_running_loop().call_later(seconds, due)
        self._timers.add(timer)

    def _explain(self, watched: Watched, event: MemoryEvent | None) -> None:
        """The container lives on: whoever was killed was not its first process."""
        unexplained = cgroup_memory.oom_kills(watched.child.group) - watched.container.record.oom_children
        if watched.victim is None and unexplained > 0:
            number = unexplained if event is None else 1
            self._book(watched.container.record, self._described(event, watched.child), number)

    @staticmethod
    def _described(victim: MemoryEvent | None, child: Child) -> dict[str, str]:
        limit = cgroup_memory.limit(child.group)
        found = {} if limit is None else {"limit": str(limit)}
        return found if victim is None else {**found, "pid": str(victim.pid), "comm": victim.comm}

    def _book(self, record: Record, attributes: dict[str, str], number: int) -> None:
        if not number:
            return
        states.lost_children(record, number)
        self._records.keep(record)
        for _ in range(number):
            self._events.emit(Action.OOM_CHILD, record, attributes)
        _log.warning("%s: the kernel's OOM killer killed %d processes of it: %s", record.name, number, attributes)

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        asyncio.get_running_loop().remove_reader(self._kills.fileno())
        self._kills.close()
