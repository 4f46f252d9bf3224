"""Case 27: quotas, and a log that they keep short."""

from __future__ import annotations

import logging

import pytest

from wherry.supervisor.quiet_log import RateLimit
from wherry.supervisor.quota import Quota


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_and_then_a_rate_for_each_key() -> None:
    clock = Clock()
    quota = Quota(3, 2, clock=clock)
    assert [quota.take("a") for _ in range(5)] == [True, True, True, False, False]
    assert quota.take("b")
    assert quota.seconds_left("a") == 0.5
    clock.now += 0.5
    assert [quota.take("a") for _ in range(2)] == [True, False]
    clock.now += 1000
    assert [quota.take("a") for _ in range(4)] == [True, True, True, False]


def test_only_so_many_keys_are_kept() -> None:
    quota = Quota(1, 1, keys=2, clock=Clock())
    assert [quota.take(key) for key in "abab"] == [True, True, False, False]
    assert quota.take("c")
    assert quota.take("a")  # forgotten, and so new
    assert not quota.take("c")


def test_a_log_says_the_same_of_one_container_only_so_often(caplog: pytest.LogCaptureFixture) -> None:
    """Case 27."""
    clock = Clock()
    limit = RateLimit(Quota(2, 1, clock=clock))
    logger = logging.getLogger("wherry.test_quota")
    logger.setLevel(logging.DEBUG)
    logger.addFilter(limit)
    try:
        for _ in range(10):
            logger.warning("%s: soft limit, %d bytes", "storm", 5)
        logger.warning("%s: soft limit, %d bytes", "calm", 5)
        logger.warning("%s: ended", "storm")
        clock.now += 1
        logger.warning("%s: soft limit, %d bytes", "storm", 6)
        for _ in range(10):
            logger.debug("%s: step", "storm")
    finally:
        logger.removeFilter(limit)
    said = [record.getMessage() for record in caplog.records]
    assert said[:5] == [
        "storm: soft limit, 5 bytes",
        "storm: soft limit, 5 bytes",
        "calm: soft limit, 5 bytes",
        "storm: ended",
        "storm: soft limit, 6 bytes (8 more like this were left out)",
    ]
    assert said[5:] == ["storm: step"] * 10
