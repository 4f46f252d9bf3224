"""Large JSON answers, sent a piece at a time and within a budget that all clients share.

aiohttp hands a whole body to the transport, which keeps a copy of what the client has not read: a hundred clients that
ask for megabytes and do not read would cost a hundred times that. Here a long list is made while it is sent, and an
answer that has to be made as a whole waits for its share of ``Budget``. A client that reads nothing for
``STALL_SECONDS`` is dropped, so that neither it nor who waits behind it waits for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable

from aiohttp import web

from wherry.api.http.pace import Pace, Slices
from wherry.api.http.replies import Replies, TooManyRepliesError

SMALL = 64 * 1024
"""Bytes of an answer that is sent at once, as a whole, and of a piece of a larger one."""
BUDGET = 64 * 1024 * 1024
STALL_SECONDS = 60.0


class Budget:
    """Bytes that large answers may hold at once; who comes first is served first."""

    def __init__(self, size: int = BUDGET) -> None:
        self._making = asyncio.Lock()
        self._free = self._size = size
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def made(self, make: Callable[[], bytes]) -> bytes:
        """What ``make`` makes; of many at once each in a turn of the event loop of its own."""
        async with self._making:
            await asyncio.sleep(0)
            return make()

    def take(self, size: int) -> bool:
        """Whether there was room, which is then taken. One that is larger than the budget takes all of it."""
        size = min(size, self._size)
        if self._waiting or size > self._free:
            return False
        self._free -= size
        return True

    async def wait(self, size: int) -> None:
        """As ``take``, when there is room. Raises TooManyRepliesError when that takes too long."""
        if self.take(size):
            return
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((ready, size))
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await ready
        except BaseException as error:
            if ready.done() and not ready.cancelled():
                self.give(size)
            else:
                self._waiting = deque(each for each in self._waiting if each[0] is not ready)
                self._serve()
            if isinstance(error, TimeoutError):
                raise TooManyRepliesError("too many large answers are waiting for their clients to read") from None
            raise

    def give(self, size: int) -> None:
        """Back what was taken."""
        self._free += min(size, self._size)
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            ready, size = self._waiting[0]
            if not ready.done():
                if min(size, self._size) > self._free:
                    return
                self._free -= min(size, self._size)
                ready.set_result(None)
            self._waiting.popleft()


async def send_list(request: web.BaseRequest, replies: Replies, items: AsyncIterator[bytes]) -> web.StreamResponse:
    """A JSON array of ``items``, each of them JSON. What is small goes as a whole, with its length."""
    held = bytearray()
    response: web.StreamResponse | None = None
    before = b"["
    async for item in items:
        held += before + item
        before = b","
        if len(held) > SMALL:
            if response is None:
                response = replies.late_json()
                await response.prepare(request)
            await _write(request, response, bytes(held))
            held.clear()
    held += b"]" if before == b"," else b"[]"
    if response is None:
        return replies.encoded(bytes(held))
    await _write(request, response, bytes(held))
    return response


async def send_whole(
    request: web.BaseRequest, replies: Replies, budget: Budget, make: Callable[[], bytes]
) -> web.StreamResponse:
    """What ``make`` makes, which is large. It is made twice when there was no room for it."""
    body = await budget.made(make)
    size = len(body)
    is_taken = budget.take(size)
    if not is_taken:
        del body
        await budget.wait(size)
    try:
        if not is_taken:
            body = await budget.made(make)
        response = replies.late_json()
        response.content_length = len(body)
        await response.prepare(request)
        for start in range(0, len(body), SMALL):
            await _write(request, response, body[start : start + SMALL])
        return response
    finally:
        budget.give(size)


async def write_lines(
    request: web.BaseRequest, response: web.StreamResponse, pace: Pace, lines: Iterable[bytes]
) -> None:
    """Many short pieces of a response that has been prepared."""
    held, slices = bytearray(), Slices(pace)
    for line in lines:
        await slices.pause()
        held += line
        if len(held) > SMALL:
            await _write(request, response, bytes(held))
            held.clear()
    await _write(request, response, bytes(held))


async def _write(request: web.BaseRequest, response: web.StreamResponse, data: bytes) -> None:
    """Returns when the transport holds no more than its usual buffer; the connection is cut when that is too late."""
    try:
        async with asyncio.timeout(STALL_SECONDS):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionAbortedError(f"the client has read nothing for {STALL_SECONDS:g} s") from None
