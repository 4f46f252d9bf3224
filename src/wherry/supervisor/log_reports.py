"""What the log pipeline's threads have to say, brought to the loop and told as events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wherry.logs import Log
from wherry.supervisor.containers.record import Record
from wherry.supervisor.events import Action, Events

GAP_SECONDS = 1.0
"""A container that outruns its log in non-blocking mode makes gaps by the thousand; their events come added up."""


class LogReports:
    """``find(container_id)`` gives a record, None when it is gone."""

    def __init__(self, events: Events, find: Callable[[str], Record | None]) -> None:
        self._events = events
        self._find = find
        self._loop = asyncio.get_running_loop()
        self._lost: dict[str, int] = {}

    # Called in the pipeline's threads.

    def on_gap(self, log: Log, lost: int) -> None:
        self._call(lambda: self._gap(log.container_id, lost))

    def on_trouble(self, log: Log, reason: str) -> None:
        self._call(lambda: self._trouble(log.container_id, reason))

    def _call(self, report: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(report)
        except RuntimeError:
            pass  # the loop is closed, and nobody is left to be told

    # On the loop.

    def _gap(self, container_id: str, lost: int) -> None:
        if container_id in self._lost:
            self._lost[container_id] += lost
            return
        self._lost[container_id] = 0
        self._tell_gap(container_id, lost)
        self._loop.call_later(GAP_SECONDS, self._tell_rest, container_id)

    def _tell_rest(self, container_id: str) -> None:
        lost = self._lost.pop(container_id)
        if lost:
            self._gap(container_id, lost)

    def _tell_gap(self, container_id: str, lost: int) -> None:
        record = self._find(container_id)
        if record is not None:
            self._events.emit(Action.LOG_GAP, record, {"lostBytes": str(lost)})

    def _trouble(self, container_id: str, reason: str) -> None:
        record = self._find(container_id)
        if record is not None and reason:
            self._events.emit(Action.LOG_ERROR, record, {"error": reason})
        elif record is not None:
            self._events.emit(Action.LOG_RECOVERED, record)
