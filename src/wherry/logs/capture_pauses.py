"""How fast the capture thread comes back to pipes that fill all the time."""

from __future__ import annotations

import time

AT_ONCE_NS = 500_000
BUSY_ROUNDS = 16
PAUSE_SECONDS = 0.0005


class Pauses:
    """Lets the pipes of a busy container gather some bytes.

    A thread that is faster than a container which writes 4 KiB at a time takes these one by one. A splice costs much
    the same for one page as for ten and keeps the pipe locked (pipe_lock in fs/splice.c), so both sides lose: measured,
    a third of the throughput and half of the CPU time. Hence a short pause after a round that emptied all its pipes,
    but only when the last rounds all found bytes at once. It never comes between a container that writes now and then
    and its log, nor before the end of a short one.
    """

    def __init__(self) -> None:
        self._busy_rounds = 0
        self._idle_from = time.monotonic_ns()

    def begin_round(self) -> None:
        """To be called when the wait for bytes is over."""
        is_at_once = time.monotonic_ns() - self._idle_from < AT_ONCE_NS
        self._busy_rounds = self._busy_rounds + 1 if is_at_once else 0

    def end_round(self, has_more: bool) -> None:
        """``has_more``: a pipe of this round is not empty yet."""
        if self._busy_rounds > BUSY_ROUNDS and not has_more:
            time.sleep(PAUSE_SECONDS)
        self._idle_from = time.monotonic_ns()
