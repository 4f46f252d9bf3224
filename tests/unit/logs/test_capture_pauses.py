"""The pause between splices of a busy pipe: only then, and never before an end."""

from __future__ import annotations

import time

import pytest

from wherry.logs.capture_pauses import AT_ONCE_NS, BUSY_ROUNDS, Pauses


class Clock:
    """Stands in for time: what the capture thread waits in epoll is told, what it pauses is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 10**9
        self.pauses = 0
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)
        self.pace = Pauses()

    def sleep(self, seconds: float) -> None:
        self.pauses += 1
        self.now += round(seconds * 1e9)

    def rounds(self, count: int, waited_ns: int, has_more: bool = False) -> int:
        """The number of pauses in ``count`` rounds."""
        before = self.pauses
        for _ in range(count):
            self.now += waited_ns
            self.pace.begin_round()
            self.pace.end_round(has_more)
        return self.pauses - before


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_pipe_that_fills_at_once_again_and_again_is_let_fill(clock: Clock) -> None:
    assert clock.rounds(BUSY_ROUNDS, 1000) == 0
    assert clock.rounds(10, 1000) == 10


def test_a_wait_for_bytes_ends_it(clock: Clock) -> None:
    clock.rounds(BUSY_ROUNDS + 1, 1000)
    assert clock.rounds(1, AT_ONCE_NS) == 0
    assert clock.rounds(BUSY_ROUNDS, 1000) == 0


def test_no_pause_while_there_is_more(clock: Clock) -> None:
    assert clock.rounds(100, 1000, has_more=True) == 0
