"""Sharing the event loop's time: long work of many requests is cut into slices that fit into turns of the loop.

A hundred clients that are woken at the same moment, each with a millisecond of work, would keep all others waiting for
a tenth of a second: a turn of the loop calls everything that is ready.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

TURN_SECONDS = 0.005
"""How long a turn of the event loop may be before work that asks ``Pace`` goes on in the next one."""
SLICE_SECONDS = 0.0005
"""How long one request works before it lets others go on, and so how little it must have to do to wait for nobody."""
_AT_ONCE = 16
"""How many of those that wait go on in one turn."""


class Pace:
    """One for all requests of a server; who waits goes on in the order of asking."""

    def __init__(self) -> None:
        self._began = 0.0
        """When the first one asked in this turn of the loop; 0 when nobody has yet."""
        self._is_turning = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Returns when it is the caller's turn, at once if nobody waits and this turn of the loop has time left. To be
        called between slices of work of a fraction of a millisecond.
        """
        if self._waiting or (self._began and time.perf_counter() - self._began > TURN_SECONDS):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            self._turn_soon()
            await future
        if not self._began:
            self._began = time.perf_counter()
            self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._is_turning:
            self._is_turning = True
            asyncio.get_running_loop().call_soon(self._next_turn)  # which calls it in the next turn

    def _next_turn(self) -> None:
        self._began, self._is_turning = 0.0, False
        for _ in range(min(len(self._waiting), _AT_ONCE)):
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
        if self._waiting:
            self._turn_soon()


class Slices:
    """The work of one request, cut into slices: ``pause`` between its steps."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._began = time.perf_counter()

    async def pause(self) -> None:
        """Returns at once while the slice lasts, else when it is this request's turn again."""
        if time.perf_counter() - self._began > SLICE_SECONDS:
            await self._pace.turn()
            self._began = time.perf_counter()
