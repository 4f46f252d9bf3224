"""What has happened to containers: a bounded history in memory, and subscribers who read it at their own pace.

The history is one, shared by all (``history``), and a container has a share of it: one that storms pushes out its own
events. What a container can provoke at will is told ``BURST`` times at once and then once a second: the latest, with
the number of those before it that were not told in its attribute ``suppressed``. A subscriber is a position in the
history, so a slow one holds nobody up and costs nothing: it is told how many events it missed (``Missed``). All of it
belongs to the loop; ``event_log`` keeps the history for the next supervisor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from wherry.supervisor.containers.record import Record
from wherry.supervisor.history import History
from wherry.supervisor.quota import Quota

_CAPACITY = 8192
_SHARES = 64
"""A container may have that part of the history before others' events are worth more than its own."""
BURST = 16
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Action(StrEnum):
    """What events are called, on the wire too; docker's words where docker has one."""

    CREATE = "create"
    START = "start"
    KILL = "kill"
    RENAME = "rename"
    RESTART = "restart"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    UPDATE = "update"
    SOFT_LIMIT = "soft-limit"
    SOFT_LIMIT_CLEARED = "soft-limit-cleared"
    MEMORY_PRESSURE = "memory-pressure"
    HARD_LIMIT = "hard-limit"
    OOM = "oom"
    OOM_CHILD = "oom-child"
    DIE = "die"
    STOP = "stop"
    DESTROY = "destroy"
    LOG_GAP = "log-gap"
    LOG_ERROR = "log-error"
    LOG_RECOVERED = "log-recovered"


_PROVOKED = {
    Action.SOFT_LIMIT: "memory",
    Action.SOFT_LIMIT_CLEARED: "memory",
    Action.MEMORY_PRESSURE: "pressure",
    Action.OOM_CHILD: "oom",
    Action.LOG_GAP: "gap",
    Action.LOG_ERROR: "log",
    Action.LOG_RECOVERED: "log",
}
"""What a container causes as often as it likes; those of one word are one quota: the last of them is the state."""


class Instant(NamedTuple):
    """The same moment on two clocks: nanoseconds since the epoch, and of CLOCK_MONOTONIC."""

    wall_ns: int
    monotonic_ns: int

    @classmethod
    def now(cls) -> Instant:
        return cls(time.time_ns(), time.monotonic_ns())


class Notice(NamedTuple):
    """What has happened to a container, before it is told: the record has the rest of its event."""

    action: Action
    attributes: Mapping[str, str] = _NOTHING


class Event(NamedTuple):
    """``own`` are the attributes that only an event of this action has."""

    action: Action
    container_id: str
    name: str
    instant: Instant
    labels: Mapping[str, str]
    own: Mapping[str, str]
    image: str

    @property
    def attributes(self) -> dict[str, str]:
        """What docker shows beside the action. Made anew for who asks: labels may be large, and are the record's."""
        return {**self.labels, **self.own, "image": self.image, "name": self.name}


class Missed(NamedTuple):
    """In the place of ``number`` events that were overwritten before this subscriber came to read them."""

    number: int
    instant: Instant


class _HeldBack:
    """The latest event of those above a quota, and how many there were before it."""

    def __init__(self, event: Event, timer: asyncio.TimerHandle) -> None:
        self.event = event
        self.timer = timer
        self.suppressed = 0


class Events:
    """``capacity`` events are kept."""

    def __init__(self, capacity: int = _CAPACITY, quota: Quota | None = None) -> None:
        self._history: History[Event] = History(capacity, max(capacity // _SHARES, 1))
        self._changed = asyncio.Event()
        self._quota = quota or Quota(BURST, 1)
        self._held_back: dict[str, dict[str, _HeldBack]] = {}
        """By container, and by kind."""
        self.keep: Callable[[Event], None] | None = None
        """Called with each event, to have it outlive the supervisor."""

    def restore(self, history: Iterable[Event]) -> None:
        """Begin with what earlier supervisors have told, oldest first."""
        for event in history:
            self._history.add(event.name, event)

    def emit(
        self,
        action: Action,
        record: Record,
        attributes: Mapping[str, str] = _NOTHING,
        instant: Instant | None = None,
    ) -> bool:
        """Tell everybody that ``action`` has happened to the container of ``record``; ``instant`` None is now.

        False when it is above the container's quota, and is told later or not at all. Call it on the loop; a thread
        uses ``loop.call_soon_threadsafe``.
        """
        request = record.request
        when = instant or Instant.now()
        event = Event(action, record.id, record.name, when, request.labels, attributes, request.rootfs)
        kind = _PROVOKED.get(action)
        if kind is None:
            self._tell_all_held_back(record.id)  # in their order
        elif not self._may_be_told(event, kind):
            return False
        self._add(event)
        return True

    def tell(self, record: Record, *notices: Notice) -> None:
        for notice in notices:
            self.emit(notice.action, record, notice.attributes)

    def _may_be_told(self, event: Event, kind: str) -> bool:
        held = self._held_back.get(event.container_id, {}).get(kind)
        if held is not None:
            held.event = event
            held.suppressed += 1
            return False
        key = (event.container_id, kind)
        if self._quota.take(key):
            return True
        delay = self._quota.seconds_left(key)
        timer = asyncio.get_running_loop().call_later(delay, self._tell_held_back, event.container_id, kind)
        self._held_back.setdefault(event.container_id, {})[kind] = _HeldBack(event, timer)
        return False

    def _tell_all_held_back(self, container_id: str) -> None:
        for kind in tuple(self._held_back.get(container_id, ())):
            self._tell_held_back(container_id, kind)

    def _tell_held_back(self, container_id: str, kind: str) -> None:
        of_container = self._held_back[container_id]
        held = of_container.pop(kind)
        if not of_container:
            del self._held_back[container_id]
        held.timer.cancel()
        self._quota.take((container_id, kind))
        own = {**held.event.own, "suppressed": str(held.suppressed)} if held.suppressed else held.event.own
        self._add(held.event._replace(own=own))

    def _add(self, event: Event) -> None:
        # By name: one that is run again and again under one name is one that storms.
        self._history.add(event.name, event)
        if self.keep is not None:
            self.keep(event)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def past(self) -> Iterator[Event]:
        """What is still in the history, oldest first."""
        return iter(self._history.items())

    def follow(self, *, history: bool) -> AsyncIterator[Event | Missed]:
        """Every event from now on, after those of the history when it is wanted; never ends by itself.

        Registers when it is called, not at the first iteration.
        """
        return self._follow(0 if history else self._history.next, self._history.next)

    async def _follow(self, position: int, begin: int) -> AsyncIterator[Event | Missed]:
        """What is missing before ``begin`` had gone before this subscriber came."""
        while True:
            changed = self._changed
            while (found := self._history.after(position)) is not None:
                number, event = found
                if (missed := number - max(position, begin)) > 0:
                    yield Missed(missed, Instant.now())
                position = number + 1
                yield event
            if changed is self._changed:
                await changed.wait()
