"""Sharing the event loop's time: long work of many requests is cut into slices that fit into turns of the loop.

A hundred clients that are woken at the same moment, each with a millisecond of work, would keep all others waiting for
a tenth of a second: a turn of the loop calls everything that is ready.
"""

from __future__ import annotations

import asyncio
import time

TURN_SECONDS = 0.005
"""How long a turn of the event loop may be before work that asks ``Pace`` goes on in the next one."""


class Pace:
    """One for all requests of a server."""

    def __init__(self) -> None:
        self._began = 0.0
        """When the first one asked in this turn of the loop; 0 when nobody has yet."""

    async def turn(self) -> None:
        """Returns when this turn of the loop has time left, at once if it has now. To be called between slices of work
        of a fraction of a millisecond.
        """
        while self._began and time.perf_counter() - self._began > TURN_SECONDS:  # noqa: ASYNC110 (an Event wakes all)
            await asyncio.sleep(0)
        if not self._began:
            self._began = time.perf_counter()
            asyncio.get_running_loop().call_soon(self._next_turn)  # which calls it in the next turn

    def _next_turn(self) -> None:
        self._began = 0.0
