"""What a reader wants to see of a log: streams, the last lines, a range of time.

A line is a line of one stream: what the other stream wrote in between is not part of it. It has the time of the run in
which it began, and is shown as a whole or not at all. The last N lines are those that began last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from wherry import errors
from wherry.logs.index import GAP, STDERR, STDOUT
from wherry.logs.view import BLOCK, Run, View, Window, runs_backwards

NEWLINE = b"\n"


class Selection(NamedTuple):
    """``tail``: number of lines or None for all; times in nanoseconds since the epoch, both ends included.

    ``streams`` has GAP in it: markers are lines of whatever is asked for.
    """

    streams: frozenset[int]
    tail: int | None
    since_ns: int | None
    until_ns: int | None

    def shown_as(self, stream: int) -> int:
        """Where the bytes of a run appear: a marker among the first of the streams that are asked for."""
        return stream if stream != GAP else STDOUT if STDOUT in self.streams else STDERR

    def includes(self, wall_ns: int) -> bool:
        return (self.since_ns is None or wall_ns >= self.since_ns) and (
            self.until_ns is None or wall_ns <= self.until_ns
        )


def make_query(streams: Collection[int], tail: int | None, since_ns: int | None, until_ns: int | None) -> Selection:
    """Raises InvalidRequest."""
    wanted = frozenset(streams)
    if not wanted or not wanted <= {STDOUT, STDERR}:
        raise errors.InvalidRequest(f"log streams are {STDOUT} (stdout) and {STDERR} (stderr), not {sorted(wanted)}")
    if tail is not None and tail < 0:
        raise errors.InvalidRequest(f"the number of log lines must not be negative: {tail}")
    return Selection(wanted | {GAP}, tail, since_ns, until_ns)


def starts(view: View, size: int, query: Selection) -> dict[int, int]:
    """Where reading begins in each wanted stream: before its first line of the tail, or at ``size`` if it has none."""
    if query.tail is None:
        return dict.fromkeys(query.streams, 0)
    search = _TailSearch(view, query, query.tail)
    found = search.run(runs_backwards(view, size)) if query.tail else {}
    return {stream: found.get(stream, size) for stream in query.streams}


class _TailSearch:
    """Looks for beginnings of lines from the end of the log backwards, block by block.

    A line begins behind each newline in a run, and at the start of the run if the stream's last byte before it is a
    newline. Runs do not overlap, so beginnings are found in their order.
    """

    def __init__(self, view: View, query: Selection, wanted: int) -> None:
        self._view = view
        self._window = Window(view)
        self._query = query
        self._missing = wanted
        self._starts: dict[int, int] = {}

    def run(self, runs: Iterable[Run]) -> dict[int, int]:
        for run in runs:
            if run.stream in self._query.streams and self._query.includes(run.wall_ns):
                self._search_run(run)
                if not self._missing:
                    break
        return self._starts

    def _search_run(self, run: Run) -> None:
        for end in range(run.end, run.start, -BLOCK):
            self._search_block(run, max(run.start, end - BLOCK), end)
            if not self._missing:
                return
        if self._begins_line(run):
            self._starts[run.stream] = run.start
            self._missing -= 1

    def _search_block(self, run: Run, start: int, end: int) -> None:
        data = self._window.backwards(start, end)
        # What follows the newline at the end of a run is in another run.
        stop = len(data) - (end == run.end)
        there = data.count(NEWLINE, 0, max(0, stop))
        wanted = min(there, self._missing)
        if wanted:
            self._starts[run.stream] = start + _nth_last(data, wanted, there, stop) + 1
            self._missing -= wanted

    def _begins_line(self, run: Run) -> bool:
        if run.begins_line is not None:
            return run.begins_line
        before = (other for other in runs_backwards(self._view, run.start) if other.stream in {run.stream, GAP})
        previous = next(before, None)
        return previous is None or self._view.read(1, previous.end - 1) == NEWLINE


def _nth_last(data: bytes, wanted: int, there: int, stop: int) -> int:
    """Position of the ``wanted``-th newline from the right, of ``there`` that stand before ``stop``."""
    if wanted == there:
        return data.find(NEWLINE)
    position = stop
    for _ in range(wanted):
        position = data.rfind(NEWLINE, 0, position)
    return position


class TimeFilter:
    """Keeps the lines that began in the query's range, as pieces of runs come by in their order."""

    def __init__(self, view: View, query: Selection) -> None:
        self._view = view
        self._query = query
        self._is_needed = query.since_ns is not None or query.until_ns is not None
        self._shown: set[int] = set()  # streams in the middle of a line that is shown
        self._hidden: dict[int, int] = {}  # stream -> end of what was hidden last, perhaps in the middle of a line

    @property
    def is_needed(self) -> bool:
        """Whether it may keep anything back; if not, bytes need not be shown to it."""
        return self._is_needed

    def follow_to(self, view: View) -> TimeFilter:
        """Go on with the same log, opened anew."""
        self._view = view
        return self

    def skips(self, run: Run) -> bool:
        """Whether nothing of the run is to be shown; then its bytes need not be read."""
        if not self._is_needed or run.stream in self._shown or self._query.includes(run.wall_ns):
            return False
        if run.stream == GAP:
            self._begin_lines()
        else:
            self._hidden[run.stream] = run.end
        return True

    def _begin_lines(self) -> None:
        """Behind a marker each stream begins a line, whether or not the marker is shown."""
        self._shown.clear()
        self._hidden.clear()

    def keep(self, run: Run, start: int, data: bytes) -> tuple[bytes, int]:
        """The part of ``data``, which begins at ``start`` in ``run``, that is to be shown, and where in it that is."""
        if not self._is_needed or not data:
            return data, 0
        if run.stream == GAP:  # a line of its own, and what follows begins one
            self._begin_lines()
            return data if self._query.includes(run.wall_ns) else b"", 0
        stream, end = run.stream, start + len(data)
        if not self._query.includes(run.wall_ns):
            return self._rest_of_line(stream, data, end), 0
        begin = 0
        if self._is_in_hidden_line(stream):
            begin = data.find(NEWLINE) + 1
            if not begin:
                self._hidden[stream] = end
                return b"", 0
        self._hidden.pop(stream, None)
        self._note_end(stream, data)
        return data[begin:], begin

    def _rest_of_line(self, stream: int, data: bytes, end: int) -> bytes:
        """Behind the range: only the line that began within it goes on."""
        if stream not in self._shown:
            self._hidden[stream] = end
            return b""
        newline = data.find(NEWLINE)
        if newline < 0:
            return data
        self._shown.discard(stream)
        self._hidden[stream] = end
        return data[: newline + 1]

    def _is_in_hidden_line(self, stream: int) -> bool:
        end = self._hidden.get(stream, 0)
        return end > 0 and self._view.read(1, end - 1) != NEWLINE

    def _note_end(self, stream: int, data: bytes) -> None:
        if data.endswith(NEWLINE):
            self._shown.discard(stream)
        else:
            self._shown.add(stream)
