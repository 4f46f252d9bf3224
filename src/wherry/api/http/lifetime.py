"""What must outlive the connection that asked for it, and what must end when the server does.

A client may go away at any time; aiohttp then cancels the handler. That is right for whoever only watches (wait, logs),
and wrong for whoever changes something: a start cut in the middle would leave half a container.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from wherry.api.http.replies import ReloadingError
from wherry.errors import WherryError

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Lifetime:
    def __init__(self) -> None:
        self.closing = False
        self.reloading = False
        self.readers = ThreadPoolExecutor(4, "wherry-readers")
        """Sends logs. Apart from the event loop's, which starts of containers use: they must not wait for readers."""
        self._work: set[asyncio.Task[Any]] = set()
        self._watchers: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, which goes on to its end even when the caller is cancelled."""
        return await asyncio.shield(self.begin(work))

    def detach(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work`` on its own; nobody asks for its result."""
        _ = self.begin(work)

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` on its own; ``close`` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, WherryError):
            _log.debug("request failed", exc_info=error)

    @contextmanager
    def watching(self, *, ends_cleanly: bool) -> Iterator[None]:
        """The current task watches something that may never end: ``close`` cancels it.

        With ``ends_cleanly`` the block then just ends, so that the response gets a proper end; otherwise the
        cancellation goes on, and the client sees that the connection was cut.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("watching() needs a task")
        self._watchers.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self.reloading:
                task.uncancel()
                # An end of its own would say that the container has ended, or that there is no more.
                raise ReloadingError("the supervisor is being reloaded: ask again") from None
            if not (self.closing and ends_cleanly):
                raise
            task.uncancel()
        finally:
            self._watchers.discard(task)

    async def close(self, seconds: float) -> None:
        """Within ``seconds``: let watchers and work come to their own end, then cancel the watchers that are left.

        A watcher whose container has been stopped is about to send its last words: cancelled at once, it could not.
        """
        self.closing = True
        await self._settle(seconds / 2)
        for task in tuple(self._watchers):
            task.cancel()
        await self._settle(seconds / 2)

    async def abandon(self, seconds: float) -> None:
        """Cancel the watchers, let work come to its end within ``seconds``, then undo what is left of it."""
        self.closing = self.reloading = True
        for task in tuple(self._watchers):
            task.cancel()
        await self._settle(seconds)
        left = tuple(self._work)
        for task in left:
            task.cancel()
        await self._settle(seconds)

    async def _settle(self, seconds: float) -> None:
        under_way = {*self._watchers, *self._work}
        if under_way:
            await asyncio.wait(under_way, timeout=seconds)
