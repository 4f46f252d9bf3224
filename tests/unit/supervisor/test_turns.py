"""What the event loop's turns are measured by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from wherry.supervisor.turns import MeasuringSelector, Turns


def block(seconds: float, clock: Callable[[], float]) -> None:
    until = clock() + seconds
    while clock() < until:
        pass


def test_the_longest_turn_is_the_one_with_the_most_work() -> None:
    """Asserts an order and lower bounds, which hold on a machine of any speed."""
    turns = Turns()

    async def work() -> None:
        block(0.03, time.perf_counter)  # in the turn that reset is called in, which does not count
        turns.reset()
        await asyncio.sleep(0)
        assert turns.longest.seconds == 0
        block(0.03, time.thread_time)
        await asyncio.sleep(0)
        assert turns.most_cpu.cpu_seconds >= 0.03
        blocked = turns.longest.seconds + 0.03
        block(blocked, time.perf_counter)
        await asyncio.sleep(0)
        assert turns.longest.seconds >= blocked
        assert turns.slow >= 2

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(MeasuringSelector(turns))) as runner:
        runner.run(work())
