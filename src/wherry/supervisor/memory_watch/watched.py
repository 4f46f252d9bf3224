"""A container as those know it who hold its memory limits."""

from __future__ import annotations

from wherry.memory import MemoryEvent, MemoryLimiter
from wherry.supervisor.containers.container import Container
from wherry.supervisor.processes.children import Child


class Watched:
    """One armed container."""

    def __init__(self, container: Container, child: Child, limiter: MemoryLimiter | None = None) -> None:
        self.container = container
        self.child = child
        self.limiter = limiter
        self.victim: MemoryEvent | None = None
        self.is_answered = False
        """The shim has killed it for a crossing, while no supervisor lived."""
