"""What ``GET /events`` sends, as objects."""

from __future__ import annotations

from wherry import errors
from wherry.client import jsontext
from wherry.client.replies import MAKES_SENSE, Value
from wherry.client.stream import ClosableStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

MISSED = "missed"
MAX_LINE = 1 << 20
"""Bytes of one event; a line that has no end by then is no event."""


class Event(Value):
    """Something that happened to a container.

    ``kind`` is "create", "start", "kill", "soft-limit", "soft-limit-cleared", "memory-pressure", "hard-limit", "oom",
    "oom-child", "die", "stop", "destroy", "log-gap", "log-error" or "log-recovered"; "missed" (with no container) says
    that ``attributes["count"]`` events were lost because they were read too slowly. ``id`` and ``name`` are the
    container's; ``wall_ns`` is nanoseconds since the epoch, ``monotonic_ns`` the same instant of CLOCK_MONOTONIC
    (``time.monotonic_ns()`` of this machine). ``attributes`` maps names to strings: docker's (image, name, labels,
    exitCode, signal) and ours (reason, pid, comm, rss, limit, peak, enforcer, stalled).
    """

    __slots__ = ("kind", "id", "name", "wall_ns", "monotonic_ns", "attributes")  # noqa: RUF023

    def __init__(self, fields: Any) -> None:
        """``fields`` is one JSON object of the stream; KeyError and TypeError say that it is none."""
        actor = fields["Actor"]
        self.kind: str = fields["Action"]
        self.id: str = actor["ID"]
        self.attributes: dict[str, str] = dict(actor["Attributes"])
        self.name: str = self.attributes.get("name", "")
        self.wall_ns: int = int(fields["timeNano"])
        self.monotonic_ns: int = int(fields["Wherry"]["MonotonicNano"])


class EventStream(ClosableStream):
    """An iterator of events; ``close``, from any thread, or leaving a ``with`` block ends it."""

    def __init__(self, pieces: Iterator[memoryview], close: Callable[[], None]) -> None:
        super().__init__(_events(pieces), close)

    def __next__(self) -> Event:
        event: Event = super().__next__()
        return event


def _events(pieces: Iterator[memoryview]) -> Iterator[Event]:
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while (end := buffer.find(b"\n")) >= 0:
            with MAKES_SENSE:
                event = Event(jsontext.decode(bytes(buffer[:end])))
            del buffer[: end + 1]
            yield event
        if len(buffer) > MAX_LINE:
            raise errors.InternalError(f"the supervisor's reply makes no sense: an event of more than {MAX_LINE} bytes")
