"""How far hypothesis explores a model: the same cases each time in make test, far more in make chaos."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

IS_CHAOS = os.environ.get("WHERRY_CHAOS", "") not in {"", "0"}


def exploration(examples: int, steps: int, *, in_chaos: tuple[int, int]) -> settings:
    """``in_chaos`` are examples and steps of each with WHERRY_CHAOS=1."""
    examples, steps = in_chaos if IS_CHAOS else (examples, steps)
    return settings(
        print_blob=True,
        database=None,
        derandomize=not IS_CHAOS,
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
