"""Time that passes when nothing else is to be done: an event loop for played worlds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.EpollSelector):
    """Never sleeps."""

    slept = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and timeout != 0:
            assert timeout is not None, "nothing will ever happen"
            self.slept += timeout
        return found


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._played = _Selector()
        super().__init__(self._played)

    def time(self) -> float:
        return self._played.slept


async def here(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """``asyncio.to_thread`` for which no time passes."""
    await asyncio.sleep(0)
    return function(*arguments, **named)
