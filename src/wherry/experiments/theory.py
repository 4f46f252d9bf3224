"""What the scheduler promises, in numbers: the other half of every comparison."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence


def shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Each one's part of the whole, in percent: of one CPU, by weight, or of what was used. All 0 when nothing was."""
    total = sum(weights.values())
    return {name: 100 * each / total if total else 0.0 for name, each in weights.items()}


def rates(weights: Mapping[str, float], cpus: int) -> dict[str, float]:
    """CPUs that single-threaded, always runnable competitors get of ``cpus``: by weight, but nobody more than one."""
    left, open_ones, found = float(cpus), dict(weights), dict.fromkeys(weights, 0.0)
    while open_ones and left > 0:
        total = sum(open_ones.values())
        full = [name for name, each in open_ones.items() if left * each / total >= 1]
        if not full:
            return found | {name: left * each / total for name, each in open_ones.items()}
        for name in full:
            found[name] = 1.0
            left -= 1
            del open_ones[name]
    return found


def completion_times(weights: Mapping[str, float], work: float, cpus: int) -> dict[str, float]:
    """When each competitor with ``work`` CPU seconds to do is done, in seconds; the rest gets what it had then."""
    left, now, done = dict.fromkeys(weights, work), 0.0, dict[str, float]()
    while left:
        speed = rates({name: weights[name] for name in left}, cpus)
        step = min(left[name] / speed[name] for name in left)
        now += step
        for name in list(left):
            left[name] -= step * speed[name]
            if left[name] <= work * 1e-9:
                done[name] = now
                del left[name]
    return done


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything; NaN without values.

    Source: Jain, Chiu, Hawe, DEC Research Report TR-301 (1984).
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else math.nan


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and greatest: what there is to say of a few repeats. Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    return statistics.median(values), min(values), max(values)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value of a sorted sequence that so many percent of it stand before. Raises ValueError without values."""
    if not ordered:
        raise ValueError("no values")
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]
