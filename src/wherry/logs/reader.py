"""Reading a log's files, from the beginning or its last lines on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, TypeVar

from wherry.logs.files import ReadFile
from wherry.logs.index import STDERR, STDOUT
from wherry.logs.log import Log
from wherry.logs.selection import Query, TimeFilter, make_query, starts
from wherry.logs.view import BLOCK, Run, Runs, View, Window

T = TypeVar("T")
BOTH = frozenset({STDOUT, STDERR})
LONG_RUN = 16 * 1024
"""Below that, reading several runs at once is cheaper than sending each by a call of its own."""


class Chunk(NamedTuple):
    """Consecutive bytes of one stream (1 stdout, 2 stderr), at most BLOCK of them, of any part of a line.

    ``wall_ns`` is when the run that they belong to began to be captured, nanoseconds since the epoch; 0 = unknown.
    """

    stream: int
    wall_ns: int
    data: bytes


class Extent(NamedTuple):
    """As a Chunk, but not read yet: ``size`` bytes at ``offset`` in ``file``, which its reader closes at the end."""

    stream: int
    wall_ns: int
    file: ReadFile
    offset: int
    size: int

    def read(self) -> bytes:
        """Fewer than ``size`` bytes if the log has been truncated meanwhile."""
        return self.file.read(self.size, self.offset)

    def is_there(self) -> bool:
        """Whether the file has all of it."""
        return self.file.size() >= self.offset + self.size

    def send_to(self, target: int) -> int:
        """Send some of it to a socket; returns how many bytes, 0 if the file ends before it."""
        return self.file.send_to(target, self.offset, self.size)

    def behind(self, count: int) -> Extent | None:
        """What is left after ``count`` bytes."""
        return self._replace(offset=self.offset + count, size=self.size - count) if count < self.size else None


class Cursor:
    """Goes forward through what a query wants of a log; chunks() goes on where it ended when the log has grown."""

    def __init__(self, view: View, query: Query, first: dict[int, int], before: Cursor | None = None) -> None:
        """``first``: for each stream that is wanted, the offset before which nothing of it is shown.

        ``before`` is the cursor that this one goes on from, in files that have been opened anew.
        """
        self._first = first
        self._view = view
        self._query = query
        self._filter: TimeFilter = TimeFilter(view, query) if before is None else before._filter.follow_to(view)
        self._window = Window(view)
        self._runs = Runs(view, min(first.values()))

    @property
    def position(self) -> int:
        return self._runs.position

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All up to ``size``, which is at most the size of the log. To be exhausted before the next call."""
        while (run := self._runs.take(size)) is not None:
            start = max(run.start, self._first.get(run.stream, run.end))
            if start < run.end and not self._filter.skips(run):
                yield from self._chunks_of(run, start)

    def pieces(self, size: int) -> Iterator[Chunk | Extent]:
        """As chunks(), but long runs come as extents where nothing of them has to be looked at."""
        while (run := self._runs.take(size)) is not None:
            start = max(run.start, self._first.get(run.stream, run.end))
            if run.end - start >= LONG_RUN and not self._filter.is_needed:
                yield from self._extents_of(run, start)
            elif start < run.end and not self._filter.skips(run):
                yield from self._chunks_of(run, start)

    def _extents_of(self, run: Run, first: int) -> Iterator[Extent]:
        file, offset = self._view.place_of(first)
        stream = self._query.shown_as(run.stream)
        for start in range(0, run.end - first, BLOCK):
            yield Extent(stream, run.wall_ns, file, offset + start, min(BLOCK, run.end - first - start))

    def _chunks_of(self, run: Run, first: int) -> Iterator[Chunk]:
        for start in range(first, run.end, BLOCK):
            data = self._window.forwards(start, min(start + BLOCK, run.end))
            shown = self._filter.keep(run, start, data)
            if shown:
                yield Chunk(self._query.shown_as(run.stream), run.wall_ns, shown)


def read(
    log: Log,
    *,
    streams: Collection[int] = BOTH,
    tail: int | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
) -> Iterator[Chunk]:
    """What ``log`` holds at the time of the first ``next()``, in the order in which it was captured.

    ``tail`` counts the last lines of the wanted streams that began between ``since_ns`` and ``until_ns`` (nanoseconds
    since the epoch, both included). See selection.py for what a line is. Memory: a few BLOCKs.

    Raises InvalidRequest at once; NotFound when the log is gone, NotSupported for the index of a later version, and
    OSError, with the first ``next()``.
    """
    return _walk(log, make_query(streams, tail, since_ns, until_ns), Cursor.chunks)


def read_pieces(
    log: Log,
    *,
    streams: Collection[int] = BOTH,
    tail: int | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
) -> Iterator[Chunk | Extent]:
    """As read(), for whoever passes bytes on to a socket: see Cursor.pieces. Extents hold until the next step."""
    return _walk(log, make_query(streams, tail, since_ns, until_ns), Cursor.pieces)


def _walk(log: Log, query: Query, take: Callable[[Cursor, int], Iterator[T]]) -> Iterator[T]:
    view = log.view()
    try:
        size = view.size()
        yield from take(Cursor(view, query, starts(view, size, query)), size)
    finally:
        view.close()
