"""What a soft limit does beside being told: an action at its crossing, and whether the container stalls above it.

- ``none``: the crossing is told, and nothing else.
- ``reclaim``: the kernel is asked to take from the container what it has more than the point at which a crossing is
  over (``Limits.clear_bytes``): page cache and what can be swapped. At the crossing, and then once a second while it
  stays above, until the kernel has not found so much: asking on would only take from a container what it needs.
- ``throttle``: the group's memory.high stands at the soft limit, so that whoever allocates above it is slowed down.

A trigger on the group's memory.pressure is made at the first look after the first crossing, and kept: making one takes
the kernel milliseconds (it starts a thread), in which others would wait to be told of theirs. It is heard of a
container that is above, or has been since it was last heard, and told once each crossing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from wherry.errors import NotSupported
from wherry.kernel import cgroup_memory
from wherry.kernel.cgroups import Group
from wherry.kernel.libc import describe
from wherry.memory import Kind, Limits, MemoryEvent, MemoryUsage, pressure
from wherry.supervisor.containers.record import Record
from wherry.supervisor.containers.request import SoftAction
from wherry.supervisor.events import Action, Events

_log = logging.getLogger(__name__)
_TRIGGERS_AT_ONCE = 8


_NEEDS = {
    SoftAction.RECLAIM: (cgroup_memory.can_reclaim, "memory.reclaim (control groups version 2, Linux 5.19)"),
    SoftAction.THROTTLE: (cgroup_memory.can_throttle, "memory.high (control groups version 2)"),
}


def check(action: str, group: Group) -> None:
    """Raises NotSupported when this host cannot do it, for a container with this group."""
    if action in _NEEDS:
        can_do, what = _NEEDS[SoftAction(action)]
        if not can_do(group):
            raise NotSupported(f"soft action {action} is not supported on this host: it needs {what}")


def throttle(record: Record, limits: Limits, group: Group) -> None:
    """Have the group's memory.high stand at the soft limit where that was asked for; an enforcer
    that is the group has put it there itself. Raises OSError.
    """
    if throttles(record) and not record.traits.is_group and limits.soft_bytes is not None:
        cgroup_memory.throttle(group, limits.soft_bytes)


def throttles(record: Record) -> bool:
    return record.request.soft_action == SoftAction.THROTTLE


class _Above:
    """A container that is above its soft limit, or has been."""

    def __init__(self, record: Record, group: Group) -> None:
        self.record = record
        self.group = group
        self.is_above = False
        self.was_above = False
        """Since the trigger was last heard: one that goes up and down may be below just when it is."""
        self.is_told = False
        self.stalled_ns = pressure.stalled_ns(group)
        """By the first crossing."""
        self.reclaiming: asyncio.Future[bool] | None = None


class SoftLimits:
    """Belongs to the loop. ``usage_of`` says what the enforcer counts of a container, by its id; None when it is just
    ending.
    """

    def __init__(self, events: Events, usage_of: Callable[[str], MemoryUsage | None]) -> None:
        self._events = events
        self._usage_of = usage_of
        self._pressure = pressure.PressureWatch()
        self._above: dict[str, _Above] = {}
        self._without_trigger: dict[str, None] = {}
        """Those to make one for, in the order of their crossings."""
        self._closing: set[asyncio.Future[None]] = set()

    def hear(self, event: MemoryEvent, record: Record, group: Group) -> None:
        """Of any event."""
        if event.kind is Kind.SOFT_CLEARED and record.id in self._above:
            self._above[record.id].is_above = False
        if event.kind is not Kind.SOFT:
            return
        found = self._begin(record, group)
        if found.reclaiming is None or found.reclaiming.done():
            self._reclaim(found, event.rss_bytes)

    @staticmethod
    def _reclaim(found: _Above, resident: int) -> None:
        excess = resident - Limits(found.record.request.soft_bytes).clear_bytes
        if found.record.request.soft_action == SoftAction.RECLAIM and excess > 0:
            loop = asyncio.get_running_loop()
            found.reclaiming = loop.run_in_executor(None, cgroup_memory.reclaim, found.group, excess)

    def adopt(self, record: Record, group: Group) -> None:
        """Of an earlier supervisor, which may have told of a crossing that is not over."""
        usage = None if record.request.soft_bytes is None else self._usage_of(record.id)
        if usage is not None and usage.rss_bytes >= (record.request.soft_bytes or 0):
            self._begin(record, group)

    def _begin(self, record: Record, group: Group) -> _Above:
        found = self._above.get(record.id)
        if found is None:
            found = self._above[record.id] = _Above(record, group)
        found.is_above, found.was_above, found.is_told = True, True, False
        self._without_trigger[record.id] = None
        return found

    def _make_triggers(self) -> None:
        for container_id in list(self._without_trigger)[:_TRIGGERS_AT_ONCE]:
            del self._without_trigger[container_id]
            found = self._above[container_id]
            if pressure.path_of(found.group) is None:
                continue
            try:
                self._pressure.add(container_id, found.group)
            except OSError as error:
                _log.warning("%s: nobody will tell whether it stalls: %s", found.record.name, describe(error))

    def tick(self) -> None:
        """Once a second."""
        self._make_triggers()
        for container_id, found in self._above.items():
            if (
                found.is_above
                and found.reclaiming is not None
                and found.reclaiming.done()
                and found.reclaiming.result()
            ):
                usage = self._usage_of(container_id)
                self._reclaim(found, usage.rss_bytes if usage is not None else 0)
        for container_id in self._pressure.changed():
            found = self._above[container_id]
            was_above, found.was_above = found.was_above, found.is_above
            if was_above and not found.is_told:
                found.is_told = True
                self._tell(found)

    def _tell(self, found: _Above) -> None:
        usage, record = self._usage_of(found.record.id), found.record
        if usage is None:
            return
        stalled = max(pressure.stalled_ns(found.group) - found.stalled_ns, 0) / 1e9
        attributes = {
            "enforcer": record.enforcer,
            "rss": str(usage.rss_bytes),
            "limit": str(record.request.soft_bytes),
            "peak": str(usage.peak_bytes),
            "stalled": f"{stalled:.3f}",
        }
        if self._events.emit(Action.MEMORY_PRESSURE, record, attributes):
            text = "%s: above its soft limit, and processes have waited for memory: %.3f s since it first was"
            _log.warning(text, record.name, stalled)

    def remove(self, container_id: str) -> None:
        """The container has ended."""
        self._above.pop(container_id, None)
        self._without_trigger.pop(container_id, None)
        descriptor = self._pressure.remove(container_id)
        if descriptor >= 0:
            closing = asyncio.get_running_loop().run_in_executor(None, os.close, descriptor)
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def close(self) -> None:
        self._pressure.close()
