"""When to look at containers that may have crossed a limit without a word: a timer, and whom it is for."""

from __future__ import annotations

import time

from wherry.kernel.timerfd import Timer


class Looks:
    """Instants are CLOCK_MONOTONIC in nanoseconds."""

    def __init__(self) -> None:
        self._timer = Timer()
        self._due: dict[str, int] = {}

    def fileno(self) -> int:
        """Polls readable while ``due`` has something to return."""
        return self._timer.fileno()

    def plan(self, at: int, *containers: str) -> None:
        """Look not before ``at``; what was planned for later is brought forward."""
        self._due.update({each: at for each in containers if at < self._due.get(each, at + 1)})
        self._set()

    def due(self) -> list[str]:
        """Whose time has come; they are forgotten."""
        now = time.monotonic_ns()
        found = [container_id for container_id, at in self._due.items() if at <= now]
        for container_id in found:
            del self._due[container_id]
        if found:
            self._set()
        return found

    def forget(self, container_id: str) -> None:
        if self._due.pop(container_id, None) is not None:
            self._set()

    def _set(self) -> None:
        self._timer.set(min(self._due.values(), default=None))

    def close(self) -> None:
        self._timer.close()
