"""What an exec writes, straight from its pipes to who reads: nothing is kept here, and a reader that does not read
holds it up.
"""

from __future__ import annotations

import asyncio
import os

_PIECE = 64 * 1024
_AFTER_END_SECONDS = 1.0
"""How long a pipe that something else still holds is read after the end of the exec's process."""


class Output:
    """Of one exec; ``pipes`` are read ends by stream (1, 2), and become ours. For one reader at a time."""

    def __init__(self, pipes: dict[int, int]) -> None:
        self._pipes = dict(pipes)
        self._readable = asyncio.Event()
        self._deadline: float | None = None
        for descriptor in pipes.values():
            os.set_blocking(descriptor, False)

    async def read(self) -> tuple[int, bytes] | None:
        """The next bytes and their stream; None at the end."""
        while self._pipes:
            for stream, descriptor in tuple(self._pipes.items()):
                try:
                    piece = os.read(descriptor, _PIECE)
                except BlockingIOError:
                    continue
                if piece:
                    return stream, piece
                os.close(self._pipes.pop(stream))
            if self._pipes and not await self._wait():
                self.close()
        return None

    async def _wait(self) -> bool:
        """Until there is something to read; False when there is nothing more to wait for."""
        loop = asyncio.get_running_loop()
        self._readable.clear()
        descriptors = tuple(self._pipes.values())
        for descriptor in descriptors:
            loop.add_reader(descriptor, self._readable.set)
        try:
            async with asyncio.timeout_at(self._deadline) as limit:
                self._limit = limit
                await self._readable.wait()
        except TimeoutError:
            return False
        finally:
            self._limit = None
            for descriptor in descriptors:
                loop.remove_reader(descriptor)
        return True

    _limit: asyncio.Timeout | None = None

    def process_ended(self) -> None:
        """Read what there is, and no longer than a second for more."""
        self._deadline = asyncio.get_running_loop().time() + _AFTER_END_SECONDS
        if self._limit is not None:
            self._limit.reschedule(self._deadline)

    async def drain(self) -> None:
        """For nobody: so that it is not held up by a reader that has gone."""
        while await self.read() is not None:
            pass

    def close(self) -> None:
        """Who still writes gets EPIPE."""
        while self._pipes:
            os.close(self._pipes.popitem()[1])
