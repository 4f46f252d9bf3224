"""The reading side of one log: its bytes as runs of one stream and one time, forwards and backwards.

A view is taken as of a size: the caller asks the log for its size *first* and the index afterwards. Since a record is
written before its bytes, the index then covers all bytes below that size, however far the writer has got meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from wherry.logs.files import ReadFile
from wherry.logs.index import UNRECORDED, Index, Record

BLOCK = 256 * 1024
"""The most that is read from a log at once; readers need a small multiple of it, however long a line or a log is."""


class Run(NamedTuple):
    """Bytes ``start`` to ``end`` of the log, or of those the part that is asked for; the rest as in Record."""

    start: int
    end: int
    stream: int
    wall_ns: int
    begins_line: bool | None


class View:
    """Open files of one log; close() it. ``index`` is None for a log without index."""

    def __init__(self, log: ReadFile, index: ReadFile | None) -> None:
        self._log = log
        self._index = index
        self.index = Index(index)

    def size(self) -> int:
        return self._log.size()

    def read(self, count: int, offset: int) -> bytes:
        return self._log.read(count, offset)

    def close(self) -> None:
        self._log.close()
        if self._index is not None:
            self._index.close()


class Window:
    """The block read last, so that many short runs in a row cost one read."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._start = 0
        self._data = b""

    def forwards(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``, at most BLOCK; fewer if the log has been truncated meanwhile."""
        if not self._has(start, end):
            self._load(start)
        return self._cut(start, end)

    def backwards(self, start: int, end: int) -> bytes:
        """The same for a reader who goes towards the beginning."""
        if not self._has(start, end):
            self._load(max(0, end - BLOCK))
        return self._cut(start, end)

    def _has(self, start: int, end: int) -> bool:
        return self._start <= start and end <= self._start + len(self._data)

    def _load(self, start: int) -> None:
        self._start = start
        self._data = self._view.read(BLOCK, start)

    def _cut(self, start: int, end: int) -> bytes:
        return self._data[start - self._start : end - self._start]


class Runs:
    """The runs from ``position`` on, as the log grows."""

    def __init__(self, index: Index, position: int) -> None:
        self._index = index
        self.position = position
        number = index.last_at(position)
        self._current = (index.record(number) if number >= 0 else None) or UNRECORDED
        self._number = number + 1
        self._ahead: deque[Record] = deque()
        self._known_to = 0

    def take(self, size: int) -> Run | None:
        """The next run, as far as the log's first ``size`` bytes have it; None at their end."""
        if self.position >= size:
            return None
        following = self._peek(size)
        while following is not None and following.offset <= self.position:
            self._current = self._ahead.popleft()
            following = self._peek(size)
        start, self.position = self.position, size if following is None else following.offset
        return _run(self._current, start, self.position)

    def _peek(self, size: int) -> Record | None:
        if not self._ahead and self._known_to < size:
            records, self._number = self._index.following(self._number, size)
            self._ahead.extend(records)
            if not records:
                self._known_to = size
        return self._ahead[0] if self._ahead else None


def runs_backwards(index: Index, size: int) -> Iterator[Run]:
    """The runs of the log's first ``size`` bytes, last one first."""
    end = size
    for record in index.preceding(index.last_at(size - 1) + 1):
        yield _run(record, record.offset, end)
        end = record.offset
    if end > 0:
        yield _run(UNRECORDED, 0, end)


def _run(record: Record, start: int, end: int) -> Run:
    return Run(start, end, record.stream, record.wall_ns, record.begins_line)
