"""Chunks of a log as lines, each with its time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from wherry.logs.reader import Chunk

NEWLINE = b"\n"


class Line(NamedTuple):
    """A line of one stream, its newline included, or a part of it: memory stays bounded, however long a line is.

    ``wall_ns`` is the time at which the line began to be captured (0 = unknown), the same for all its parts; ``begins``
    is false for all parts but the first. The last part is the one that ends in a newline; the end of a log may lack it.
    """

    stream: int
    wall_ns: int
    data: bytes
    begins: bool


class LineSplitter:
    """Splits chunks as they come, for synchronous and asynchronous readers alike; keeps no bytes."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}  # stream -> time of the line that its last byte was in the middle of

    def feed(self, chunk: Chunk) -> Iterator[Line]:
        for data in _split(chunk.data):
            begun = self._open.get(chunk.stream)
            wall_ns = chunk.wall_ns if begun is None else begun
            if data.endswith(NEWLINE):
                self._open.pop(chunk.stream, None)
            else:
                self._open[chunk.stream] = wall_ns
            yield Line(chunk.stream, wall_ns, data, begun is None)


def lines(chunks: Iterable[Chunk]) -> Iterator[Line]:
    """The lines of ``chunks``, in the order in which their bytes come."""
    splitter = LineSplitter()
    for chunk in chunks:
        yield from splitter.feed(chunk)


class Stamper:
    """Puts the time in front of each line, as docker's ``--timestamps``; much faster than lines().

    All lines that begin in a chunk have its time, so one replacement does for them all.
    """

    def __init__(self) -> None:
        self._open: set[int] = set()

    def feed(self, chunk: Chunk) -> Chunk:
        if not chunk.data:
            return chunk
        stamp = rfc3339_nano(chunk.wall_ns).encode() + b" "
        data = chunk.data[:-1].replace(NEWLINE, NEWLINE + stamp) + chunk.data[-1:]
        if chunk.stream not in self._open:
            data = stamp + data
        if chunk.data.endswith(NEWLINE):
            self._open.discard(chunk.stream)
        else:
            self._open.add(chunk.stream)
        return chunk._replace(data=data)


def rfc3339_nano(wall_ns: int) -> str:
    """Nanoseconds since the epoch as docker writes them: ``2024-05-01T12:00:00.000000001Z``, always nine digits.

    0 (unknown) is Go's zero time, which docker's clients know as "no time".
    """
    if wall_ns == 0:
        return "0001-01-01T00:00:00.000000000Z"
    seconds, fraction = divmod(wall_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:09d}Z"


def _split(data: bytes) -> Iterator[bytes]:
    # Not bytes.splitlines(): that ends lines at carriage returns too.
    start = 0
    while end := data.find(NEWLINE, start) + 1:
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:]
