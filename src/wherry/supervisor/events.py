"""What has happened to containers: a bounded history in memory, and subscribers who read it at their own pace.

The history is one ring that all share. A subscriber is a position in it, so a slow one holds nobody up and costs
nothing: when the ring has gone round, it is told how many events it missed (``Missed``). All of it belongs to the
loop; ``event_log`` keeps the history for the next supervisor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from wherry.supervisor.model import Record

_CAPACITY = 8192
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Action(StrEnum):
    """What events are called, on the wire too; docker's words where docker has one."""

    CREATE = "create"
    START = "start"
    KILL = "kill"
    UPDATE = "update"
    SOFT_LIMIT = "soft-limit"
    SOFT_LIMIT_CLEARED = "soft-limit-cleared"
    HARD_LIMIT = "hard-limit"
    OOM = "oom"
    OOM_CHILD = "oom-child"
    DIE = "die"
    STOP = "stop"
    DESTROY = "destroy"
    LOG_GAP = "log-gap"
    LOG_ERROR = "log-error"
    LOG_RECOVERED = "log-recovered"


class Instant(NamedTuple):
    """The same moment on two clocks: nanoseconds since the epoch, and of CLOCK_MONOTONIC."""

    wall_ns: int
    monotonic_ns: int

    @classmethod
    def now(cls) -> Instant:
        return cls(time.time_ns(), time.monotonic_ns())


class Event(NamedTuple):
    """``attributes`` are what docker shows beside the action: image, name, the labels, and the event's own."""

    action: Action
    container_id: str
    name: str
    instant: Instant
    labels: Mapping[str, str]
    attributes: Mapping[str, str]


class Missed(NamedTuple):
    """In the place of ``number`` events that were overwritten before this subscriber came to read them."""

    number: int
    instant: Instant


class Events:
    """``capacity`` events are kept."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._ring: list[Event | None] = [None] * capacity
        self._next = 0
        """How many events there have ever been; event N lies at N modulo the capacity."""
        self._changed = asyncio.Event()
        self.keep: Callable[[Event], None] | None = None
        """Called with each event, to have it outlive the supervisor."""

    def restore(self, history: Iterable[Event]) -> None:
        """Begin with what earlier supervisors have told, oldest first."""
        for event in history:
            self._ring[self._next % len(self._ring)] = event
            self._next += 1

    def emit(
        self,
        action: Action,
        record: Record,
        attributes: Mapping[str, str] = _NOTHING,
        instant: Instant | None = None,
    ) -> None:
        """Tell everybody that ``action`` has happened to the container of ``record``; ``instant`` None is now.

        Call it on the loop; a thread uses ``loop.call_soon_threadsafe``.
        """
        labels = record.request.labels
        shown = {**labels, **attributes, "image": record.request.rootfs, "name": record.name}
        event = Event(action, record.id, record.name, instant or Instant.now(), labels, shown)
        self._ring[self._next % len(self._ring)] = event
        self._next += 1
        if self.keep is not None:
            self.keep(event)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def past(self) -> Iterator[Event]:
        """What is still in the history, oldest first."""
        for number in range(self._oldest(), self._next):
            event = self._ring[number % len(self._ring)]
            if event is not None:
                yield event

    def follow(self, *, history: bool) -> AsyncIterator[Event | Missed]:
        """Every event from now on, after those of the history when it is wanted; never ends by itself.

        Registers when it is called, not at the first iteration.
        """
        return self._follow(self._oldest() if history else self._next)

    async def _follow(self, position: int) -> AsyncIterator[Event | Missed]:
        while True:
            changed = self._changed
            while position < self._next:
                oldest = self._oldest()
                if position < oldest:
                    yield Missed(oldest - position, Instant.now())
                    position = oldest
                event = self._ring[position % len(self._ring)]
                position += 1
                if event is not None:
                    yield event
            if changed is self._changed:
                await changed.wait()

    def _oldest(self) -> int:
        return max(self._next - len(self._ring), 0)
