"""Case 29: how many lines go into the kernel's log, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from wherry.kernel import kmsg
from wherry.memory import Kind, MemoryEvent
from wherry.supervisor.memory_watch.kernel_log import KernelLog

MIB = 1 << 20


class Told:
    """A kernel log whose lines end up here; ``seconds`` is its clock."""

    def __init__(self, reader: int) -> None:
        self.seconds = 100.0
        self.log = KernelLog(lambda: self.seconds)
        self._reader = reader

    def cross(self, kind: Kind, container: str) -> None:
        event = MemoryEvent(kind, container, 0, "", 33 * MIB, 32 * MIB, 33 * MIB, 0, 0)
        self.log.tell(event, container, 4242)

    def lines(self) -> list[str]:
        self.log.close()
        return os.read(self._reader, 65536).decode().splitlines()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    reader, writer = os.pipe()
    monkeypatch.setattr(kmsg, "open_log", lambda: writer)
    yield Told(reader)
    os.close(reader)


def test_the_words_are_the_modules(told: Told) -> None:
    told.cross(Kind.SOFT, "web")
    told.cross(Kind.SOFT_CLEARED, "web")
    told.cross(Kind.HARD, "web")
    size = f"rss={33 * MIB} limit={32 * MIB}"
    assert told.lines() == [
        f"<12>wherry: SOFT LIMIT id=web pid=4242 {size}",
        f"<12>wherry: HARD LIMIT id=web pid=4242 {size}",
    ]


def test_a_container_that_goes_up_and_down_gets_one_line_in_five_seconds(told: Told) -> None:
    for _ in range(100):
        told.cross(Kind.SOFT, "noisy")
    told.cross(Kind.SOFT, "quiet")
    told.seconds += 5.1
    told.cross(Kind.SOFT, "noisy")
    assert [line.split()[3] for line in told.lines()] == ["id=noisy", "id=quiet", "id=noisy"]


def test_soft_limits_leave_room_for_hard_ones_and_all_keep_below_what_the_kernel_takes(told: Told) -> None:
    for number in range(50):
        told.cross(Kind.SOFT, f"s{number}")
    for number in range(50):
        told.cross(Kind.HARD, f"h{number}")
    told.seconds += 5.1
    told.cross(Kind.HARD, "late")
    lines = told.lines()
    assert len(lines) == kmsg.LINES + 1
    assert sum("HARD" in line for line in lines) == 5
    assert "(44 lines left out)" in lines[6]  # of the soft ones
    assert lines[-1].endswith("(46 lines left out)")


def test_names_are_escaped(told: Told) -> None:
    told.cross(Kind.HARD, "a\n<0>panic \x1b[2J\u00e9\udcff")
    (line,) = told.lines()
    assert "id=a\\n<0>panic \\x1b[2J\\xe9\\udcff pid=" in line


def test_without_the_device_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise PermissionError(1, "Operation not permitted", "/dev/kmsg")

    monkeypatch.setattr(kmsg, "open_log", refuse)
    log = KernelLog()
    log.tell(MemoryEvent(Kind.HARD, "web", 0, "", 1, 1, 1, 0, 0), "web", 1)
    log.close()
