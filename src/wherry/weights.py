"""What the scheduler makes of nice values: sched(7)."""

from __future__ import annotations

WEIGHTS = (
    *(88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916),
    *(9548, 7620, 6100, 4904, 3906, 3121, 2501, 1991, 1586, 1277),
    *(1024, 820, 655, 526, 423, 335, 272, 215, 172, 137),
    *(110, 87, 70, 56, 45, 36, 29, 23, 18, 15),
)
"""Of nice -20 to 19: kernel/sched/core.c, sched_prio_to_weight. A step is about 1.25, or 10 % of CPU between two.

``cpu.shares`` of control groups version 1 are on the same scale.
"""


def weight_of_nice(nice: int) -> int:
    """Of -20 to 19."""
    return WEIGHTS[nice + 20]
