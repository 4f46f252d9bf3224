"""Reading a log's files, from the beginning or its last lines on."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, TypeVar

from wherry.logs.files import ReadFile
from wherry.logs.index import GAP, STDERR, STDOUT
from wherry.logs.log import Log
from wherry.logs.selection import Selection, TimeFilter, make_query, starts
from wherry.logs.view import BLOCK, Run, Runs, View, Window

T = TypeVar("T")
BOTH = frozenset({STDOUT, STDERR})
LONG_RUN = 16 * 1024
"""Below that, reading several runs at once is cheaper than sending each by a call of its own."""


class Chunk(NamedTuple):
    """Consecutive bytes of one stream (1 stdout, 2 stderr), at most BLOCK of them, of any part of a line.

    ``wall_ns`` is when the run that they belong to began to be captured, nanoseconds since the epoch; 0 = unknown.
    ``end`` is the position in the log behind the last of them.

    With ``lost`` it is not the container's bytes but stands for so many that are missing here: ``data`` is then (a part
    of) the log's own marker, or nothing when this reader came too late.
    """

    stream: int
    wall_ns: int
    data: bytes
    end: int = 0
    lost: int | None = None


class FileRange(NamedTuple):
    """As a Chunk, but not read yet: ``size`` bytes at ``offset`` in ``file``, which its reader closes at the end."""

    stream: int
    wall_ns: int
    file: ReadFile
    offset: int
    size: int
    end: int

    def read(self) -> bytes:
        """Fewer than ``size`` bytes if the log has been truncated meanwhile."""
        return self.file.read(self.size, self.offset)

    def is_there(self) -> bool:
        """Whether the file has all of it."""
        return self.file.size() >= self.offset + self.size

    def send_to(self, target: int) -> int:
        """Send some of it to a socket; returns how many bytes, 0 if the file ends before it."""
        return self.file.send_to(target, self.offset, self.size)

    def behind(self, count: int) -> FileRange | None:
        """What is left after ``count`` bytes."""
        return self._replace(offset=self.offset + count, size=self.size - count) if count < self.size else None


class Cursor:
    """Goes forward through what a query wants of a log; chunks() goes on where it ended when the log has grown.

    ``tells_holes``: what somebody has truncated of a file is told as lost, and not just left out.
    """

    tells_holes = False

    def __init__(self, view: View, query: Selection, first: dict[int, int], before: Cursor | None = None) -> None:
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

    def pieces(self, size: int) -> Iterator[Chunk | FileRange]:
        """As chunks(), but long runs come as extents where nothing of them has to be looked at."""
        while (run := self._runs.take(size)) is not None:
            start = max(run.start, self._first.get(run.stream, run.end))
            if run.end - start >= LONG_RUN and not self._filter.is_needed:
                yield from self._extents_of(run, start)
            elif start < run.end and not self._filter.skips(run):
                yield from self._chunks_of(run, start)

    def _extents_of(self, run: Run, first: int) -> Iterator[FileRange]:
        file, offset = self._view.place_of(first)
        stream = self._query.shown_as(run.stream)
        for start in range(0, run.end - first, BLOCK):
            size = min(BLOCK, run.end - first - start)
            yield FileRange(stream, run.wall_ns, file, offset + start, size, first + start + size)

    def _chunks_of(self, run: Run, first: int) -> Iterator[Chunk]:
        lost = None if run.stream != GAP else run.lost if first == run.start else 0
        stream = self._query.shown_as(run.stream)
        for start in range(first, run.end, BLOCK):
            end = min(start + BLOCK, run.end)
            data = self._window.forwards(start, end)
            shown, skipped = self._filter.keep(run, start, data)
            if shown:
                yield Chunk(stream, run.wall_ns, shown, start + skipped + len(shown), lost)
            if self.tells_holes and start + len(data) < end:
                yield Chunk(stream, run.wall_ns, b"", end, end - start - len(data))


def read(
    log: Log,
    *,
    streams: Collection[int] = BOTH,
    tail: int | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    after: int | None = None,
    with_end: bool = False,
) -> Iterator[Chunk]:
    """What ``log`` holds at the time of the first ``next()``, in the order in which it was captured.

    ``tail`` counts the last lines of the wanted streams that began between ``since_ns`` and ``until_ns`` (nanoseconds
    since the epoch, both included). See selection.py for what a line is. ``after`` is where an earlier reader ended,
    the ``end`` of its last chunk: what is gone from there on comes as a chunk with ``lost``. ``with_end`` adds an empty
    chunk whose ``end`` is where this reader ended. Memory: a few BLOCKs.

    Raises InvalidRequest at once; NotFound when the log is gone, NotSupported for the index of a later version, and
    OSError, with the first ``next()``.
    """
    return _walk(log, make_query(streams, tail, since_ns, until_ns), after, Cursor.chunks, with_end=with_end)


def read_pieces(
    log: Log,
    *,
    streams: Collection[int] = BOTH,
    tail: int | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    after: int | None = None,
    with_end: bool = False,
) -> Iterator[Chunk | FileRange]:
    """As read(), for whoever passes bytes on to a socket: see Cursor.pieces. Extents hold until the next step."""
    return _walk(log, make_query(streams, tail, since_ns, until_ns), after, Cursor.pieces, with_end=with_end)


def _walk(
    log: Log, query: Selection, after: int | None, take: Callable[[Cursor, int], Iterator[T]], *, with_end: bool
) -> Iterator[T | Chunk]:
    view = log.view()
    try:
        end = log.readable_end()
        size = view.size() if end is None else min(view.size(), end)
        if after is not None:
            size = max(size, min(after, view.size()))  # what an earlier reader was shown is not shown again
        first = starts(view, size, query)
        if after is not None:
            first = {stream: max(start, min(after, size)) for stream, start in first.items()}
            if after < view.start:
                yield missing(query, view.start, view.start - after)
        yield from take(Cursor(view, query, first), size)
        if with_end:
            yield Chunk(STDOUT, 0, b"", size)
    finally:
        view.close()


def missing(query: Selection, end: int, lost: int) -> Chunk:
    """Tells a reader that comes too late of bytes before ``end`` that are gone."""
    return Chunk(query.shown_as(GAP), time.time_ns(), b"", end, lost)
