"""A container's log in memory, for the handlers that read and follow one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

from wherry.logs import BufferStats, Chunk, FileRange, Hold, LogOptions, Stamper


class FakeLog:
    """Chunks in memory, with the readers' interface of ``wherry.logs``."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.finished = False
        self.trouble = ""
        self.options = LogOptions()
        self.measure = BufferStats
        self.followers = 0
        self.holds = 0
        self.endless = b""  # what a reader gets again and again, as fast as it can take it
        self._changed = asyncio.Event()

    def write(self, stream: int, data: bytes) -> None:
        self.chunks.append(Chunk(stream, time.time_ns(), data))
        self._wake()

    def finish(self) -> None:
        self.finished = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def read(
        self,
        *,
        streams: frozenset[int],
        tail: int | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        after: int | None = None,
        with_end: bool = False,
    ) -> Iterator[Chunk]:
        assert (after, with_end) == (None, False), "cursors need a log in earnest"
        chosen = [
            chunk
            for chunk in self.chunks
            if chunk.stream in streams and (since_ns or 0) <= chunk.wall_ns <= (until_ns or chunk.wall_ns)
        ]
        yield from chosen if tail is None else chosen[len(chosen) - min(tail, len(chosen)) :]

    def watch(self, position: int) -> Hold:
        assert position == 0, "only attach asks for another one, and that needs a log in earnest"
        self.holds += 1

        def change(_: Hold, to: int | None) -> None:
            if to is None:
                self.holds -= 1

        return Hold(position, change)

    def prune(self) -> None:
        pass

    async def follow(
        self, hold: Hold | None = None, shows_times: bool = False, **selection: Any
    ) -> AsyncIterator[Chunk]:
        assert hold is None or not shows_times
        self.followers += 1
        try:
            seen = len(self.chunks)
            for chunk in self.read(**selection):
                yield chunk
            while self.endless:
                yield Chunk(1, time.time_ns(), self.endless)
            while True:
                changed, finished = self._changed, self.finished
                fresh, seen = self.chunks[seen:], len(self.chunks)
                for chunk in fresh:
                    if chunk.stream in selection["streams"]:
                        yield chunk
                if finished:
                    return
                if changed is self._changed and not self.finished:
                    await changed.wait()
        finally:
            self.followers -= 1


FAKE_LOGS = SimpleNamespace(
    read=lambda log, **selection: log.read(**selection),
    read_pieces=lambda log, **selection: log.read(**selection),
    FileRange=FileRange,
    Hold=Hold,
    follow=lambda log, **selection: log.follow(**selection),
    Stamper=Stamper,
)
