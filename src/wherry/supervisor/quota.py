"""Quotas for what a container can provoke at will, a token bucket for each key."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable


class Quota:
    """``burst`` at once, then ``per_second``; of ``keys`` keys, those used last.

    Forgetting a key gives it a new burst, so ``keys`` is to be larger than the number of those that storm.
    """

    def __init__(
        self, burst: int, per_second: float, keys: int = 4096, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._rate = per_second
        self._keys = keys
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """Key -> tokens, and when there were that many."""

    def take(self, key: Hashable) -> bool:
        """Whether one more is within the quota."""
        now = self._clock()
        tokens = self._tokens(key, now)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - 1 if allowed else tokens), now
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._keys:
            self._buckets.popitem(last=False)
        return allowed

    def seconds_left(self, key: Hashable) -> float:
        """Until ``take`` would say yes."""
        return max(1 - self._tokens(key, self._clock()), 0) / self._rate

    def _tokens(self, key: Hashable, now: float) -> float:
        tokens, since = self._buckets.get(key, (float(self._burst), now))
        return min(tokens + (now - since) * self._rate, self._burst)
