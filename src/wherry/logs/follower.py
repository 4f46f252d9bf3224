"""Following a log as it grows, in asyncio.

A follower keeps a position, no bytes: it reads from the file, at most a batch at a time, whenever its consumer asks for
more, so a slow one costs nothing and holds nobody up. The capture thread wakes it through the event loop, once for all
that has happened since it last looked. Near the end of the log it reads in the event loop itself, from pages that have
just been written; far behind it reads in the loop's executor, as those pages may have to come from the disk.

One with a hold (holds.py) is owed every byte: files that it has not come to are kept for it, and it says how far it is
when it is asked for more. What a follower misses all the same it hands out as a chunk with ``lost``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import suppress
from itertools import chain

from wherry.logs.holds import HELD_FILES, Hold
from wherry.logs.log import Log, LogState
from wherry.logs.reader import BOTH, Chunk, Cursor, missing
from wherry.logs.selection import Selection, make_query, starts
from wherry.logs.view import BLOCK, View

BATCH_CHUNKS = 256


def follow(
    log: Log,
    *,
    streams: Collection[int] = BOTH,
    tail: int | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    after: int | None = None,
    hold: Hold | None = None,
    shows_times: bool = False,
) -> AsyncIterator[Chunk]:
    """As reader.read, then whatever is captured later; ends behind the last byte once ``log.finished``.

    ``tail`` and ``since_ns`` select among what is there at the first step; ``tail=0`` shows only what comes later. With
    ``hold`` it begins where that is, and takes it along; whoever made it releases it. With ``until_ns`` it ends at that
    time at the latest. When somebody truncates the log, it goes on from its new end. ``shows_times`` says that somebody
    may ask again by the time of the last chunk.
    To be closed (``contextlib.aclosing``) if not exhausted. Raises what read() raises.
    """
    begin = after if hold is None else hold.position
    return _follow(log, _Follower(log, make_query(streams, tail, since_ns, until_ns), begin, hold, shows_times))


async def opening(log: Log, seen: int) -> None:
    """Until the log is captured again, ``seen`` being its ``openings`` so far: its container has been started."""
    while True:
        state = log.state()
        if log.openings != seen:
            return
        await _change(log, state, None)


async def _follow(log: Log, follower: _Follower) -> AsyncIterator[Chunk]:
    until_ns = follower.query.until_ns
    try:
        while True:
            # The state before the size: if it says "finished", the size that follows is the last one.
            seen = log.state()
            is_last = seen.finished or _is_past(until_ns)
            is_all = await follower.look(seen)
            while batch := await follower.batch():
                for chunk in batch:
                    yield chunk
                await asyncio.sleep(0)  # as in _change
            if is_all and is_last:
                break
            if is_all:
                await _change(log, seen, until_ns)
        if seen.finished and log.given_up:
            yield missing(follower.query, log.size, log.given_up)
    finally:
        follower.close()


class _Follower:
    """A reader's files and position. Its methods are called one after the other, though not always from one thread."""

    def __init__(self, log: Log, query: Selection, begin: int | None, hold: Hold | None, shows_times: bool) -> None:
        self._log = log
        self.query = query
        self._begin = begin
        self._hold = hold
        self._shows_times = shows_times
        self._generation = -1
        self._view: View | None = None
        self._cursor: Cursor | None = None
        self._chunks: Iterator[Chunk] = iter(())
        self._size = 0
        self._taken = 0

    async def look(self, seen: LogState) -> bool:
        """Prepare to read all that is in the log now; false when there is more, but not in the files that are open."""
        view = self._view
        if view is None or self._cursor is None or seen.generation != self._generation or not view.is_whole:
            if self._has_more_in_open_files():
                return False
            return await self._open(seen)
        self._size = self._end_of(view)
        self._chunks = self._cursor.chunks(self._size)
        return True

    async def _open(self, seen: LogState) -> bool:
        """The files that there are now. What has gone before they were read is told first."""
        begin, lost = self._position()
        view = self._reopen(begin)
        first = await self._first_offsets(view, begin)
        if begin is not None:
            lost += max(0, view.start - begin)
        self._cursor = Cursor(view, self.query, first, self._cursor)
        self._cursor.tells_holes = True
        self._generation = seen.generation
        self._chunks = self._cursor.chunks(self._size)
        self._taken = self._cursor.position  # further back than before when the log has been truncated
        if lost > 0:
            self._chunks = chain([missing(self.query, self._cursor.position, lost)], self._chunks)
        return view.is_whole

    def _position(self) -> tuple[int | None, int]:
        """Where to go on, None: wherever the query says; and how much has been truncated meanwhile from there on."""
        if self._cursor is None:
            return self._begin, 0
        position = self._cursor.position
        return min(position, self._log.lowest_cut(self._generation)), self._log.cut_away(self._generation, position)

    def _has_more_in_open_files(self) -> bool:
        """What we have open and not read yet may be rotated away: then these are the last descriptors of it."""
        if self._view is None or self._cursor is None:
            return False
        self._size = self._end_of(self._view)
        if not self._cursor.position < self._size <= self._log.lowest_cut(self._generation):
            return False
        self._chunks = self._cursor.chunks(self._size)
        return True

    def _end_of(self, view: View) -> int:
        end = self._log.readable_end() if self._shows_times else None
        return view.size() if end is None else min(view.size(), end)

    async def batch(self) -> list[Chunk]:
        """The next chunks, up to a bound in bytes and number; none when all has been read that look() saw."""
        self._let_go(self._taken)
        if self._cursor is None or self._size - self._cursor.position <= BLOCK:
            batch = self._batch()
        else:
            batch = await asyncio.get_running_loop().run_in_executor(None, self._batch)
        if not batch and self._cursor is not None:
            self._let_go(self._cursor.position)  # with what was of no interest
        return batch

    def close(self) -> None:
        if self._view is not None:
            self._view.close()

    def _let_go(self, position: int) -> None:
        if self._hold is not None:
            self._hold.move_to(position)

    def _reopen(self, begin: int | None) -> View:
        self.close()
        self._view = self._log.view(begin or 0, None if begin is None else HELD_FILES)
        self._size = self._end_of(self._view)
        return self._view

    async def _first_offsets(self, view: View, begin: int | None) -> dict[int, int]:
        if begin is not None:
            # As far as there are bytes: up to ``_size`` only those are shown that are older than all to come.
            return dict.fromkeys(self.query.streams, min(begin, view.size()))
        if self._size <= BLOCK:
            return starts(view, self._size, self.query)
        return await asyncio.get_running_loop().run_in_executor(None, starts, view, self._size, self.query)

    def _batch(self) -> list[Chunk]:
        taken: list[Chunk] = []
        size = 0
        for chunk in self._chunks:
            taken.append(chunk)
            self._taken = chunk.end
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
