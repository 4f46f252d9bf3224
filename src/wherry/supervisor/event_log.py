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

from wherry.supervisor.events import Action, Event, Instant

_log = logging.getLogger(__name__)
FILE_MAX = 4 << 20
LINE_MAX = 16 << 10
"""Bytes of one event; one that is longer is kept without its labels."""
KEPT_SECONDS = 7 * 24 * 3600
_VALUE_MAX = 4096
_FLAGS = os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC

_Line = tuple[Action, str, str, int, int, dict[str, str], dict[str, str]]


class EventLog:
    """All of it belongs to the loop."""

    def __init__(self, path: Path, most_bytes: int = FILE_MAX) -> None:
        """Raises OSError when the file cannot be opened or made."""
        self._path = path
        self._older = path.with_name(path.name + ".1")
        self._most = most_bytes
        self._encode = msgspec.json.Encoder().encode
        self._decoder = msgspec.json.Decoder(_Line)
        self._pending: list[Event] = []
        self._is_torn = False
        self._file = -1
        self._open()

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | _FLAGS, 0o600)
        self._size = os.fstat(self._file).st_size
        self._is_torn = self._size > 0  # perhaps: an empty line does no harm

    def load(self) -> Iterator[Event]:
        """What earlier supervisors have kept, oldest first. A line that is none, or only half of one, is left out."""
        oldest = time.time_ns() - KEPT_SECONDS * 1_000_000_000
        for path in (self._older, self._path):
            for line in _lines(path):
                try:
                    action, identity, name, wall, monotonic, labels, attributes = self._decoder.decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    continue
                if wall >= oldest:
                    shown = {**labels, **attributes}
                    yield Event(action, identity, name, Instant(wall, monotonic), labels, shown)

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
        fields = _fields(event)
        line = self._encode(fields) + b"\n"
        if len(line) <= LINE_MAX:
            return line
        action, identity, name, wall, monotonic, _, attributes = fields
        short = {key: value[:_VALUE_MAX] for key, value in attributes.items()}
        return self._encode((action, identity, name, wall, monotonic, {}, short)) + b"\n"

    def close(self) -> None:
        self.flush()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _fields(event: Event) -> _Line:
    labels = dict(event.labels)
    own = {key: value for key, value in event.attributes.items() if labels.get(key) != value}
    wall, monotonic = event.instant
    return event.action, event.container_id, event.name, wall, monotonic, labels, own


def _lines(path: Path) -> list[bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return []
    with os.fdopen(descriptor, "rb") as file:
        return file.read(2 * FILE_MAX + LINE_MAX).splitlines()
