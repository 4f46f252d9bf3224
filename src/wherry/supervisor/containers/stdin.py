"""The write end of a container's standard input, and those who feed it.

The shim holds it as well, for the next supervisor. With ``once`` (docker's StdinOnce) that ends when the first client
comes: from then on the input ends with that client's, or with this supervisor. Nothing is kept here but the piece that
each client has sent last: a container that does not read makes its clients wait.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol


class Source(Protocol):
    """What one client sends."""

    async def read(self) -> bytes:
        """The next piece; b"" when there will be none."""

    def refuse(self) -> None:
        """Nobody will read any more."""


class Stdin:
    """Belongs to the loop. ``descriptor`` is its own from now on, -1 for an input that has ended."""

    def __init__(self, descriptor: int, *, once: bool, let_go: Callable[[], None]) -> None:
        """``let_go`` has the shim close its duplicate."""
        self._descriptor = descriptor
        self._once = once
        self._let_go = let_go
        self._turn = asyncio.Lock()
        self._writable: asyncio.Future[None] | None = None
        self._feeding: dict[asyncio.Task[None], Source] = {}
        self._had_client = False
        if descriptor >= 0:
            os.set_blocking(descriptor, False)  # of this end alone: the container's is another file description

    def feed(self, source: Source) -> None:
        """A client: all that it sends goes to the container, also what is left of it when it has gone."""
        if self._descriptor < 0:
            source.refuse()
            return
        if self._once and not self._had_client:
            self._let_go()
        self._had_client = True
        task = asyncio.get_running_loop().create_task(self._feed(source))
        self._feeding[task] = source
        task.add_done_callback(self._feeding.pop)

    def missed(self) -> None:
        """The client that it was opened for has gone before it came."""
        if self._once and not self._had_client:
            self.end()

    def end(self) -> None:
        """End of file for the container, for good: when it has read what is in the pipe."""
        if self._descriptor >= 0:
            self._let_go()
            self.close()

    def close(self) -> None:
        """Without a word to the shim: the container has ended, or its input goes to the next supervisor."""
        if self._descriptor < 0:
            return
        if self._writable is not None:
            asyncio.get_running_loop().remove_writer(self._descriptor)
            if not self._writable.done():
                self._writable.set_result(None)
        os.close(self._descriptor)
        self._descriptor = -1
        for task, source in self._feeding.items():
            if task is not asyncio.current_task():
                source.refuse()  # here: one that has not run yet would never come to it
                task.cancel()

    async def _feed(self, source: Source) -> None:
        try:
            while data := await source.read():
                await self._write(data)
        except BrokenPipeError:  # the container has closed its end
            source.refuse()
            self.end()
            return
        if self._once:
            self.end()

    async def _write(self, data: bytes) -> None:
        async with self._turn:
            rest = memoryview(data)
            while rest:
                if self._descriptor < 0:
                    raise BrokenPipeError
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:
                    await self._wait()

    async def _wait(self) -> None:
        """Until there is room, or the container has closed its end, or we have closed ours."""
        loop, descriptor = asyncio.get_running_loop(), self._descriptor
        self._writable = loop.create_future()
        loop.add_writer(descriptor, _resolve, self._writable)
        try:
            await self._writable
        finally:
            self._writable = None
            if self._descriptor == descriptor:  # else the number may be another file's by now
                loop.remove_writer(descriptor)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
