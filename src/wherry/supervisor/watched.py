"""A container as those know it who hold its memory limits."""

from __future__ import annotations

from wherry.memory import Event, MemoryLimiter
from wherry.supervisor.children import Child
from wherry.supervisor.container import Container


class Watched:
    """One armed container."""

    def __init__(self, container: Container, child: Child, limiter: MemoryLimiter | None = None) -> None:
        self.container = container
        self.child = child
        self.limiter = limiter
        self.victim: Event | None = None
        self.is_answered = False
        """The shim has killed it for a crossing, while no supervisor lived."""
