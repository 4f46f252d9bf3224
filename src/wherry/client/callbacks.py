"""A container's events handed to functions, from a thread of their own."""

from __future__ import annotations

import threading

from wherry import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from wherry.client.events import Event, EventStream

_LAST = frozenset({"die", "destroy"})
"""After one of these, a run of the container has no more events of its own."""


class Subscription:
    """Calls a function for each event of its kind until the container has ended, or until ``close``.

    Calls come from one thread, in the order of the events. An exception of a function goes to
    ``threading.excepthook`` and ends the subscription.
    """

    def __init__(self, stream: EventStream, handlers: Mapping[str, Callable[[Event], object]]) -> None:
        self._stream = stream
        self._handlers = handlers
        self._thread = threading.Thread(target=self._run, name="wherry-events", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._stream as events:
            try:
                for event in events:
                    handler = self._handlers.get(event.kind)
                    if handler is not None:
                        handler(event)
                    if event.kind in _LAST:
                        return
            except errors.Unavailable:
                return  # the supervisor went away, and who waits for the container learns that too

    def wait(self, seconds: float | None = None) -> bool:
        """Until the container's last event has been handled; False when that takes longer than ``seconds``."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """No more calls after this returns, unless a function closes its own subscription."""
        self._stream.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
