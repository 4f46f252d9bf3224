"""How tests wait for what happens elsewhere: until it has, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.patience import PATIENCE


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE, *, longest: float = 0.005) -> None:
    """Until ``condition()`` is true; fails when it is not within ``seconds``.

    It is asked again after a pause that doubles, up to ``longest``: what comes at once is seen at once, and asking for
    long takes no CPU from what is waited for.
    """
    deadline, pause = time.monotonic() + seconds, 0.0002
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(pause)
        pause = min(2 * pause, longest)
