"""The pause between splices of a busy pipe: only then, and never before an end."""

from __future__ import annotations

import time

import pytest

from wherry.logs.pace import AT_ONCE_NS, BUSY_ROUNDS, ENOUGH_BYTES, Pace


class Clock:
    """Stands in for time: what the capture thread waits in epoll is told, what it pauses is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 10**9
        self.pauses = 0
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)
        self.pace = Pace()

    def sleep(self, seconds: float) -> None:
        self.pauses += 1
        self.now += round(seconds * 1e9)

    def rounds(self, count: int, waited_ns: int, moved: int, turns: int = 1) -> int:
        """The number of pauses in ``count`` rounds."""
        before = self.pauses
        for _ in range(count):
            self.now += waited_ns
            self.pace.begin_round()
            self.pace.end_round(turns, moved)
        return self.pauses - before


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_pipe_that_fills_at_once_again_and_again_is_let_fill(clock: Clock) -> None:
    assert clock.rounds(BUSY_ROUNDS, 1000, 4096) == 0
    assert clock.rounds(10, 1000, 4096) == 10


def test_a_wait_for_bytes_ends_it(clock: Clock) -> None:
    clock.rounds(BUSY_ROUNDS + 1, 1000, 4096)
    assert clock.rounds(1, AT_ONCE_NS, 4096) == 0
    assert clock.rounds(BUSY_ROUNDS, 1000, 4096) == 0


@pytest.mark.parametrize(("moved", "turns"), [(0, 1), (ENOUGH_BYTES, 1), (3 * ENOUGH_BYTES, 3)])
def test_no_pause_after_an_end_or_much(clock: Clock, moved: int, turns: int) -> None:
    assert clock.rounds(100, 1000, moved, turns) == 0


def test_much_is_counted_for_each_pipe(clock: Clock) -> None:
    assert clock.rounds(BUSY_ROUNDS + 5, 1000, ENOUGH_BYTES, turns=2) == 5
