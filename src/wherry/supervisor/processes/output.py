"""What an exec writes, straight from its pipes to who reads: nothing is kept here, and a reader that does not read
holds it up.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios

_PIECE = 64 * 1024
_DRAIN_SECONDS = 0.001
_AFTER_END_SECONDS = 1.0
"""How long a pipe that something else still holds is read after the end of the exec's process."""


class Output:
    """Of one exec; ``pipes`` are read ends by stream (1, 2), and become ours. For one reader at a time."""

    def __init__(self, pipes: dict[int, int]) -> None:
        self._pipes = dict(pipes)
        self._readable = asyncio.Event()
        self._deadline: float | None = None
        self._owed: dict[int, int] = {}
        """Bytes that were in each pipe when the process had ended: they come, however late their reader does."""
        for descriptor in pipes.values():
            os.set_blocking(descriptor, False)

    async def read(self) -> tuple[int, bytes] | None:
        """The next bytes and their stream; None at the end."""
        while self._pipes:
            for stream in tuple(self._pipes):
                if piece := self._read_from(stream):
                    return stream, piece
            if self._pipes:
                await self._wait()
        return None

    def _read_from(self, stream: int) -> bytes:
        """b"" when there is nothing now; at the end the pipe is closed."""
        is_late = self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline
        most = min(self._owed.get(stream, 0), _PIECE) if is_late else _PIECE
        try:
            piece = os.read(self._pipes[stream], most) if most else b""
        except BlockingIOError:
            if not is_late:
                return b""
            piece = b""
        if not piece:
            os.close(self._pipes.pop(stream))
        elif stream in self._owed:
            self._owed[stream] = max(self._owed[stream] - len(piece), 0)
        return piece

    async def _wait(self) -> None:
        """Until there is something to read, or nothing more to wait for."""
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
            pass
        finally:
            self._limit = None
            for descriptor in descriptors:
                loop.remove_reader(descriptor)

    _limit: asyncio.Timeout | None = None

    def process_ended(self) -> None:
        """What is in the pipes is still read, and no longer than a second what comes after that from others that hold
        them.
        """
        self._owed = {stream: _bytes_in(descriptor) for stream, descriptor in self._pipes.items()}
        self._deadline = asyncio.get_running_loop().time() + _AFTER_END_SECONDS
        if self._limit is not None:
            self._limit.reschedule(self._deadline)

    async def drain(self) -> None:
        """For nobody: so that it is not held up by a reader that has gone."""
        while True:
            if await self.read() is None:
                return
            await asyncio.sleep(_DRAIN_SECONDS)  # it may write without end, and others are to be served

    def close(self) -> None:
        """Who still writes gets EPIPE."""
        while self._pipes:
            os.close(self._pipes.popitem()[1])


def _bytes_in(pipe: int) -> int:
    """FIONREAD of pipe(7)."""
    size = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, size)
    return size[0]
