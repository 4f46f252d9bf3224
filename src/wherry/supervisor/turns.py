"""How long the event loop is busy at a stretch: the longest is what it makes a client wait at most."""

from __future__ import annotations

import selectors
import time
from typing import NamedTuple

SLOW_SECONDS = 0.02


class Turn(NamedTuple):
    """Seconds between two calls of select(2), and how much of that the thread had a CPU for."""

    seconds: float
    cpu_seconds: float


class Turns:
    """What ``MeasuringSelector`` has seen since the supervisor began to serve."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin with the next turn."""
        self._is_in_turn = True
        self.longest = Turn(0, 0)
        self.most_cpu = Turn(0, 0)
        self.slow = 0
        """Turns of more than ``SLOW_SECONDS``."""

    def add(self, turn: Turn) -> None:
        if self._is_in_turn:
            self._is_in_turn = False
            return
        if turn.seconds > self.longest.seconds:
            self.longest = turn
        if turn.cpu_seconds > self.most_cpu.cpu_seconds:
            self.most_cpu = turn
        self.slow += turn.seconds > SLOW_SECONDS


class MeasuringSelector(selectors.EpollSelector):
    """An event loop calls ``select`` once a turn, and does all of its work in between."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self._began = time.perf_counter()
        self._cpu = time.thread_time()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._turns.add(Turn(time.perf_counter() - self._began, time.thread_time() - self._cpu))
        found = super().select(timeout)
        self._began, self._cpu = time.perf_counter(), time.thread_time()
        return found


OF_SUPERVISOR = Turns()
