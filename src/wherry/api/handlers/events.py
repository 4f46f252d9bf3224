"""GET /events: JSON objects, one a line, as Docker's clients read them.

What Docker's form has no place for stands in the object "Wherry". A subscriber that read too slowly gets an event of
type "daemon" with the action "missed" and the number in its attribute "count".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from wherry.api.docker.filters import decode_filters
from wherry.api.http.delivery import write_lines
from wherry.api.http.pace import Pace
from wherry.api.http.query import Query
from wherry.api.http.replies import encode
from wherry.api.http.router import Call
from wherry.errors import InvalidRequest, NotSupported, quoted
from wherry.supervisor.events import Event, Missed

Test = Callable[[Event], bool]
_TYPES = frozenset(
    {"builder", "config", "container", "daemon", "image", "network", "node", "plugin", "secret", "service", "volume"}
)


class EventQuery:
    """Which events a request asks for; values of one filter are alternatives, but labels must all match."""

    def __init__(self, query: Query) -> None:
        """Raises InvalidRequest, NotSupported."""
        query.only("since", "until", "filters")
        self.since_ns = query.nanoseconds("since")
        self.until_ns = query.nanoseconds("until")
        if self.since_ns is not None and self.until_ns is not None and self.since_ns > self.until_ns:
            raise InvalidRequest("since is after until")
        self._tests: list[Test] = []
        for key, values in decode_filters(query.text("filters")).items():
            if values:
                self._tests.append(_test(key, values))

    def wants(self, event: Event) -> bool:
        return event.instant.wall_ns >= (self.since_ns or 0) and all(test(event) for test in self._tests)

    def seconds_left(self) -> float | None:
        """Until the end of what was asked for; None when it has no end."""
        return None if self.until_ns is None else (self.until_ns - time.time_ns()) / 1e9


def _test(key: str, values: list[str]) -> Test:
    match key:
        case "type":
            return _by_type(values)
        case "event":
            return lambda event: event.action in values
        case "container":
            # Docker takes the beginning of an id; a name is taken whole, since one may begin another.
            names = {value.removeprefix("/") for value in values}
            prefixes = tuple(value for value in values if value)
            return lambda event: event.name in names or event.container_id.startswith(prefixes)
        case "image":
            return lambda event: event.image in values
        case "label":
            wanted = [value.partition("=") for value in values]
            return lambda event: all(
                name in event.labels and (not equals or event.labels[name] == value) for name, equals, value in wanted
            )
        case "scope":
            return lambda _event: "local" in values
        case "config" | "daemon" | "network" | "node" | "plugin" | "secret" | "service" | "volume":
            return lambda _event: False  # Docker's filters for what does not exist here
    raise InvalidRequest(f"invalid filter {quoted(key)}")


def _by_type(values: list[str]) -> Test:
    unknown = [value for value in values if value not in _TYPES]
    if unknown:
        raise NotSupported(f"invalid filter 'type={quoted(unknown[0])}'")
    return lambda _event: "container" in values


async def stream(call: Call) -> web.StreamResponse:
    """Events from now on, or from ``since``; ends at ``until``, else with the client or the supervisor."""
    wanted = EventQuery(call.query)
    # Registered before the client sees the headers: what it causes after that is among the events.
    following: Any = call.engine.events().follow(history=wanted.since_ns is not None)
    response = call.replies.late_json()
    await response.prepare(call.request)
    with call.lifetime.watching(ends_cleanly=True):
        async with aclosing(following) as events:
            if wanted.until_ns is not None and wanted.until_ns <= time.time_ns():
                await write_lines(call.request, response, call.pace, _past(call, wanted))
            else:
                await _forward(call.pace, events, wanted, response)
    return response


def _past(call: Call, wanted: EventQuery) -> Iterator[bytes]:
    until = wanted.until_ns or 0
    chosen = (event for event in call.engine.events().past() if wanted.wants(event))
    return (line(event) for event in chosen if event.instant.wall_ns <= until)


async def _forward(pace: Pace, events: Any, wanted: EventQuery, response: web.StreamResponse) -> None:
    try:
        async with asyncio.timeout(wanted.seconds_left()):
            async for event in events:
                await pace.turn()
                if isinstance(event, Missed) or wanted.wants(event):
                    await response.write(line(event))
    except TimeoutError:
        return


def line(event: Event | Missed) -> bytes:
    """One event as JSON with a newline behind it."""
    if isinstance(event, Missed):
        kind: dict[str, Any] = {
            "Type": "daemon",
            "Action": "missed",
            "Actor": {"ID": "", "Attributes": {"count": str(event.number)}},
        }
    else:
        # status, id and from are of API versions before 1.22; docker-py's users still read them.
        kind = {
            "status": event.action,
            "id": event.container_id,
            "from": event.image,
            "Type": "container",
            "Action": event.action,
            "Actor": {"ID": event.container_id, "Attributes": event.attributes},
        }
    wall = event.instant.wall_ns
    times = {"scope": "local", "time": wall // 1_000_000_000, "timeNano": wall}
    return encode({**kind, **times, "Wherry": {"MonotonicNano": event.instant.monotonic_ns}}) + b"\n"
