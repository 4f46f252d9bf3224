"""Following a log as it grows, in asyncio.

A follower keeps a position, no bytes: it reads from the file, at most a batch at a time, whenever its consumer asks for
more, so a slow one costs nothing and holds nobody up. The capture thread wakes it through the event loop, once for all
that has happened since it last looked. Near the end of the log it reads in the event loop itself, from pages that have
just been written; far behind it reads in the loop's executor, as those pages may have to come from the disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import suppress
from itertools import chain

from wherry.logs.index import GAP
from wherry.logs.log import Log, LogState
from wherry.logs.reader import BOTH, Chunk, Cursor
from wherry.logs.selection import Query, make_query, starts
from wherry.logs.view import BLOCK, View

BATCH_CHUNKS = 256


def follow(
    log: Log,
    *,
    streams: Collection[int] = BOTH,
    tail: int | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    position: int | None = None,
) -> AsyncIterator[Chunk]:
    """As reader.read, then whatever is captured later; ends behind the last byte once ``log.finished``.

    ``tail`` and ``since_ns`` select among what is there at the first step; ``tail=0`` shows only what comes later. With
    ``position``, which Log.end() gave, it begins there. With ``until_ns`` it ends at that time at the latest. When
    somebody truncates the log, it goes on from its new end.
    To be closed (``contextlib.aclosing``) if not exhausted. Raises what read() raises.
    """
    return _follow(log, make_query(streams, tail, since_ns, until_ns), position)


async def opening(log: Log, seen: LogState) -> None:
    """Until a log that nobody wrote to, ``seen`` being its state, is captured again: its container has been started."""
    while (state := log.state()).generation == seen.generation:
        await _change(log, state, None)


async def _follow(log: Log, query: Query, position: int | None) -> AsyncIterator[Chunk]:
    follower = _Follower(log, query, position)
    try:
        while True:
            # The state before the size: if it says "finished", the size that follows is the last one.
            seen = log.state()
            is_last = seen.finished or _is_past(query.until_ns)
            is_all = await follower.look(seen)
            while batch := await follower.batch():
                for chunk in batch:
                    yield chunk
                await asyncio.sleep(0)  # as in _change
            if is_all and is_last:
                return
            if is_all:
                await _change(log, seen, query.until_ns)
    finally:
        follower.close()


class _Follower:
    """A reader's files and position. Its methods are called one after the other, though not always from one thread."""

    def __init__(self, log: Log, query: Query, position: int | None) -> None:
        self._log = log
        self._query = query
        self._begin_at = position
        self._generation = -1
        self._view: View | None = None
        self._cursor: Cursor | None = None
        self._chunks: Iterator[Chunk] = iter(())
        self._size = 0
        self._at_line_start = True

    async def look(self, seen: LogState) -> bool:
        """Prepare to read all that is in the log now; false when it has been rotated and its older files come first."""
        if self._view is None or self._cursor is None or seen.generation != self._generation:
            if self._has_more_in_open_files():
                return False
            view = self._reopen()
            first = await self._first_offsets(view)
            missed = 0 if self._cursor is None else view.start - min(first.values())
            self._cursor = Cursor(view, self._query, first, self._cursor)
            self._generation = seen.generation
            self._chunks = self._cursor.chunks(self._size)
            if missed > 0:
                self._chunks = chain([self._missing(missed)], self._chunks)
            return True
        self._size = self._view.size()
        self._chunks = self._cursor.chunks(self._size)
        return True

    def _has_more_in_open_files(self) -> bool:
        """What we have open and not read yet may be rotated away: then these are the last descriptors of it."""
        if self._view is None or self._cursor is None:
            return False
        self._size = self._view.size()
        if not self._cursor.position < self._size <= self._log.lowest_cut(self._generation):
            return False
        self._chunks = self._cursor.chunks(self._size)
        return True

    def _missing(self, count: int) -> Chunk:
        newline = b"" if self._at_line_start else b"\n"
        text = b"%s[wherry: %d bytes rotated away here]\n" % (newline, count)
        return Chunk(self._query.shown_as(GAP), time.time_ns(), text)

    async def batch(self) -> list[Chunk]:
        """The next chunks, up to a bound in bytes and number; none when all has been read that look() saw."""
        if self._cursor is None or self._size - self._cursor.position <= BLOCK:
            return self._batch()
        return await asyncio.get_running_loop().run_in_executor(None, self._batch)

    def close(self) -> None:
        if self._view is not None:
            self._view.close()

    def _reopen(self) -> View:
        self.close()
        self._view = self._log.view()
        self._size = self._view.size()
        return self._view

    async def _first_offsets(self, view: View) -> dict[int, int]:
        if self._cursor is not None:
            position = min(self._cursor.position, self._log.lowest_cut(self._generation))
            return dict.fromkeys(self._query.streams, position)
        if self._begin_at is not None:
            return dict.fromkeys(self._query.streams, min(self._begin_at, self._size))
        if self._size <= BLOCK:
            return starts(view, self._size, self._query)
        return await asyncio.get_running_loop().run_in_executor(None, starts, view, self._size, self._query)

    def _batch(self) -> list[Chunk]:
        taken: list[Chunk] = []
        size = 0
        for chunk in self._chunks:
            taken.append(chunk)
            self._at_line_start = chunk.data.endswith(b"\n")
            size += len(chunk.data)
            if size >= BLOCK or len(taken) >= BATCH_CHUNKS:
                break
        return taken


def _is_past(until_ns: int | None) -> bool:
    return until_ns is not None and time.time_ns() > until_ns


async def _change(log: Log, seen: LogState, until_ns: int | None) -> None:
    """Wait until the log's state differs from ``seen``, or for the end of the range of time."""
    loop = asyncio.get_running_loop()
    changed: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed, and its followers with it
            loop.call_soon_threadsafe(_resolve, changed)

    if not log.wait(wake, seen):
        await asyncio.sleep(0)  # a container at full speed must not keep the loop from its other tasks
        return
    try:
        timeout = None if until_ns is None else max(0.0, (until_ns - time.time_ns()) / 1e9)
        await asyncio.wait([changed], timeout=timeout)
    finally:
        log.stop_waiting(wake)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
