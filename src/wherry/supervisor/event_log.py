"""Events in a file, so that the next supervisor still knows them.

One JSON array a line, appended in one write(2) for all events of a turn of the loop: that costs a start some
microseconds, and what a client has been told of is in the file before it is told. There is no fsync: the page cache
survives the supervisor, and a power failure ends the containers too. At FILE_MAX bytes the file becomes ``.1``, in the
place of the one before it, so that the two hold at least as many bytes of the newest events. What cannot be written is
only remembered as long as the supervisor lives.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from wherry.errors import InvalidRequest
from wherry.kernel import trust
from wherry.supervisor.events import Action, Event, Events, Instant

_log = logging.getLogger(__name__)
FILE_MAX = 4 << 20
LINE_MAX = 16 << 10
"""Bytes of one event; one that is longer is kept without its labels."""
KEPT_SECONDS = 7 * 24 * 3600
_VALUE_MAX = 4096

_Line = tuple[Action, str, str, str, int, int, dict[str, str], dict[str, str]]
"""Action, id, name, image, times on both clocks, own attributes, labels."""


class EventLog:
    """All of it belongs to the loop."""

    def __init__(self, path: Path, most_bytes: int = FILE_MAX) -> None:
        """Raises OSError when the file cannot be opened or made, InvalidRequest when somebody else prepared it."""
        self._path = path
        self._older = path.with_name(path.name + ".1")
        self._most = most_bytes
        self._encode = msgspec.json.Encoder().encode
        self._decoder = msgspec.json.Decoder(_Line)
        self._pending: list[Event] = []
        self._is_torn = False
        self._file = -1
        self._open()

    @classmethod
    def of(cls, events: Events, path: Path) -> EventLog:
        """Let ``events`` begin with what is in the file, and keep what they tell from now on."""
        log = cls(path)
        events.restore(log.load())
        events.keep = log.keep
        return log

    def _open(self) -> None:
        self._file = _open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._size = os.fstat(self._file).st_size
        self._is_torn = self._size > 0  # perhaps: an empty line does no harm

    def load(self) -> Iterator[Event]:
        """What earlier supervisors have kept, oldest first. A line that is none, or only half of one, is left out."""
        oldest = time.time_ns() - KEPT_SECONDS * 1_000_000_000
        for path in (self._older, self._path):
            for line in _lines(path):
                try:
                    action, identity, name, image, wall, monotonic, own, labels = self._decoder.decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    continue
                if wall >= oldest:
                    yield Event(action, identity, name, Instant(wall, monotonic), labels, own, image)

    def keep(self, event: Event) -> None:
        """Write it before the loop's next turn."""
        if not self._pending:
            asyncio.get_running_loop().call_soon(self.flush)
        self._pending.append(event)

    def flush(self) -> None:
        events, self._pending = self._pending, []
        if not events or self._file < 0:
            return
        data = b"".join(map(self._line, events))
        try:
            if self._size >= self._most:
                self._rotate()
            written = os.write(self._file, b"\n" + data if self._is_torn else data)
        except OSError as error:
            self._complain(str(error))
            return
        self._size += written
        self._is_torn = written < len(data)

    def _rotate(self) -> None:
        os.replace(self._path, self._older)
        os.close(self._file)
        self._file = -1
        self._open()

    def _complain(self, reason: str) -> None:
        if not self._is_torn:
            _log.error("events are not kept on disk: %s", reason)
        self._is_torn = True

    def _line(self, event: Event) -> bytes:
        head = (event.action, event.container_id, event.name, event.image, *event.instant)
        line = self._encode((*head, dict(event.own), dict(event.labels))) + b"\n"
        if len(line) <= LINE_MAX:
            return line
        own = {key: value[:_VALUE_MAX] for key, value in event.own.items()}
        return self._encode((*head, own, {})) + b"\n"

    def close(self) -> None:
        self.flush()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _open(path: Path, flags: int) -> int:
    try:
        return trust.open_file(str(path), flags)
    except trust.DistrustedError as error:
        raise InvalidRequest(f"events: {error}") from None


def _lines(path: Path) -> list[bytes]:
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return []
    with os.fdopen(descriptor, "rb") as file:
        return file.read(2 * FILE_MAX + LINE_MAX).splitlines()
