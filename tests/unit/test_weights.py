"""The kernel's weights of nice values."""

from __future__ import annotations

from itertools import pairwise

from wherry.weights import WEIGHTS, weight_of_nice


def test_weights_of_nice_values() -> None:
    """kernel/sched/core.c: nice 0 is 1024, and each step of nice is worth about 10 % of CPU between two tasks."""
    assert [weight_of_nice(nice) for nice in (-20, -10, 0, 5, 15, 19)] == [88761, 9548, 1024, 335, 36, 15]
    assert len(WEIGHTS) == 40
    for heavier, lighter in pairwise(WEIGHTS):
        assert 1.1 < heavier / lighter < 1.35
