"""Timing of several contestants in one run, taking turns, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping

_BLOCK = 10
_SETTLE_SECONDS = 0.2


def take_turns(
    contestants: Mapping[str, Callable[[], None]], rounds: int, pause: float = 0.0
) -> dict[str, list[float]]:
    """Seconds of each call, ``rounds`` a contestant, ``pause`` seconds of idleness before each.

    Without a pause each contestant runs in blocks of ten back to back, so that it pays for its own work in the
    background (cleaning up, preparing the next) and for nobody else's: blocks are kept apart by idleness, and the first
    two calls of a block do not count.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    block = 1 if pause else _BLOCK
    for _ in range(max(rounds // block, 1)):
        for name, run in contestants.items():
            time.sleep(pause or _SETTLE_SECONDS)
            for number in range(block if pause else block + 2):
                begin = time.perf_counter()
                run()
                if pause or number >= 2:
                    times[name].append(time.perf_counter() - begin)
    return times


def table(title: str, times: Mapping[str, list[float]], reference: str) -> str:
    """Median, 95th percentile, minimum in milliseconds, and the ratio of medians to ``reference``."""
    base = statistics.median(times[reference])
    width = max(map(len, times))
    lines = [title, f"{'':{width}}  {'median':>8} {'p95':>8} {'min':>8}  x {reference}"]
    for name, values in times.items():
        median = statistics.median(values)
        p95 = statistics.quantiles(values, n=20)[-1]
        row = f"{median * 1e3:8.2f} {p95 * 1e3:8.2f} {min(values) * 1e3:8.2f}"
        lines.append(f"{name:{width}}  {row}  {median / base:.2f}")
    return "\n".join(lines)


def machine() -> str:
    """One line about where this ran."""
    system = os.uname()
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} CPUs, Linux {system.release}, load {load}; times in ms"
