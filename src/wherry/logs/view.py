"""The reading side of one log: its bytes as runs of one stream and one time, forwards and backwards.

A log may lie in several files (segments.py). A view makes one of them: offsets count from the beginning of the first
file that ever was, whether or not it is still there, so that a position means the same before and after a rotation.

A view is taken as of a size: the caller asks the log for its size *first* and the index afterwards. Since a record is
written before its bytes, the index then covers all bytes below that size, however far the writer has got meanwhile.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from wherry.logs.files import ReadFile
from wherry.logs.index import UNRECORDED, Index, IndexRecord

BLOCK = 256 * 1024
"""The most that is read from a log at once; readers need a small multiple of it, however long a line or a log is."""


class Run(NamedTuple):
    """Bytes ``start`` to ``end`` of the log, or of those the part that is asked for; the rest as in IndexRecord.

    ``lost`` is 0 in the part of a marker that is not its beginning, so that adding up counts each marker once.
    """

    start: int
    end: int
    stream: int
    wall_ns: int
    begins_line: bool | None
    lost: int = 0


class Part:
    """An open file of a log, which begins at ``start``; ``index`` is None for a file without one."""

    def __init__(self, start: int, log: ReadFile, index: ReadFile | None) -> None:
        self.start = start
        self.log = log
        self.index = Index(index)
        self._index_file = index

    def close(self) -> None:
        self.log.close()
        if self._index_file is not None:
            self._index_file.close()


class View:
    """Open files of one log, oldest first; close() it. ``is_whole`` is false when there are younger ones."""

    def __init__(self, parts: Sequence[Part], *, is_whole: bool = True) -> None:
        self.parts = parts
        self.is_whole = is_whole
        self._starts = [part.start for part in parts]

    @property
    def start(self) -> int:
        """Where the oldest file begins: what was before has been rotated away."""
        return self.parts[0].start

    def size(self) -> int:
        """Where the newest file ends now."""
        last = self.parts[-1]
        return last.start + last.log.size()

    def read(self, count: int, offset: int) -> bytes:
        """Up to ``count`` bytes, all of one file; none of what has been rotated away."""
        if offset < self.start:
            return b""
        number = self.number_at(offset)
        part = self.parts[number]
        return part.log.read(min(count, self.end_of(number, offset + count) - offset), offset - part.start)

    def place_of(self, offset: int) -> tuple[ReadFile, int]:
        """The file that has the byte at ``offset``, and where in it that is."""
        part = self.parts[self.number_at(offset)]
        return part.log, offset - part.start

    def close(self) -> None:
        for part in self.parts:
            part.close()

    def number_at(self, offset: int) -> int:
        """Which part has the byte at ``offset``."""
        return max(0, bisect.bisect_right(self._starts, offset) - 1)

    def end_of(self, number: int, limit: int) -> int:
        """Where a part ends, at most ``limit``."""
        return min(limit, self._starts[number + 1]) if number + 1 < len(self._starts) else limit

    def part(self, number: int) -> Part | None:
        return self.parts[number] if 0 <= number < len(self.parts) else None


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
            # Not from before the file that has them: a read ends with its file.
            part = self._view.part(self._view.number_at(start))
            self._load(max(0 if part is None else part.start, end - BLOCK))
        return self._cut(start, end)

    def _has(self, start: int, end: int) -> bool:
        return self._start <= start and end <= self._start + len(self._data)

    def _load(self, start: int) -> None:
        self._start = start
        self._data = self._view.read(BLOCK, start)

    def _cut(self, start: int, end: int) -> bytes:
        if start == self._start and end - start == len(self._data):
            return self._data
        return self._data[start - self._start : end - self._start]


class Runs:
    """The runs from ``position`` on, as the log grows."""

    def __init__(self, view: View, position: int) -> None:
        self._view = view
        self.position = max(position, view.start)
        self._number = view.number_at(self.position)
        self._inner = _PartRuns(view, self._number, self.position)

    def take(self, size: int) -> Run | None:
        """The next run, as far as the log's first ``size`` bytes have it; None at their end."""
        while self.position < size:
            run = self._inner.take(self._view.end_of(self._number, size))
            if run is not None:
                self.position = run.end
                return run
            self._number += 1
            self._inner = _PartRuns(self._view, self._number, self.position)
        return None


class _PartRuns:
    """The runs of one part."""

    def __init__(self, view: View, number: int, position: int) -> None:
        part = view.part(number)
        if part is None:
            raise IndexError(f"a log has no part {number}")
        self._start = part.start
        self._index = part.index
        self._position = position
        record = self._index.last_at(position - part.start)
        self._current = (self._index.record(record) if record >= 0 else None) or UNRECORDED
        self._number = record + 1
        self._ahead: deque[IndexRecord] = deque()
        self._known_to = 0

    def take(self, size: int) -> Run | None:
        if self._position >= size:
            return None
        following = self._peek(size - self._start)
        while following is not None and self._start + following.offset <= self._position:
            self._current = self._ahead.popleft()
            following = self._peek(size - self._start)
        start, self._position = self._position, size if following is None else self._start + following.offset
        return _run(self._current, start, self._position, self._start)

    def _peek(self, size: int) -> IndexRecord | None:
        if not self._ahead and self._known_to < size:
            records, self._number = self._index.following(self._number, size)
            self._ahead.extend(records)
            if not records:
                self._known_to = size
        return self._ahead[0] if self._ahead else None


def runs_backwards(view: View, size: int) -> Iterator[Run]:
    """The runs of the log's first ``size`` bytes, last one first."""
    for number in range(view.number_at(size - 1), -1, -1):
        part = view.part(number)
        if part is None:
            return
        end = view.end_of(number, size)
        for record in part.index.preceding(part.index.last_at(end - part.start - 1) + 1):
            yield _run(record, part.start + record.offset, end, part.start)
            end = part.start + record.offset
        if end > part.start:
            yield _run(UNRECORDED, part.start, end, part.start)


def _run(record: IndexRecord, start: int, end: int, part_start: int) -> Run:
    lost = record.lost if start == part_start + record.offset else 0
    return Run(start, end, record.stream, record.wall_ns, record.begins_line, lost)
