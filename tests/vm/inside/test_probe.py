"""What the probe on the tracepoint sees, and when it asks for a count: the regular one comes once a minute here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tests.vm.inside.watched import GROW, MIB, Contained, loaded, records
from tests.waiting import wait_until

from wherry.kernel.container_monitor import Monitor, MonitorRecord, MonitorState, RecordType

SHARED, DONE = Path("/dev/shm/shared"), Path("/dev/shm/done")
SOFT_INTERVAL_NS = 50_000_000
REGULAR_MS = 60_000
BY_TRACEPOINT = 1
CHUNK = 1 << 16
CROWD = 500
# Up to 6.1 a thread tells of its page faults in lots of 64 only: asm-generic names no version, so by what is there.
TOLD_PAGES = 10 if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 2) else 70


@pytest.fixture(scope="module")
def module(clean_kernel: None) -> Iterator[None]:  # noqa: ARG001  # after which it looks
    with loaded(interval_ms=REGULAR_MS):
        yield


def test_what_a_container_does_to_others_is_not_its_memory(monitor: Monitor) -> None:
    """It truncates a file that a process outside maps, whose counters change in its system call. Direct reclaim is the
    same, by chance.
    """
    outside = subprocess.Popen([GROW, "touch", str(64 << 10), "file", "1024", SHARED, "file", "4", DONE, "pause"])
    try:
        wait_until(DONE.exists)
        DONE.unlink()
        with Contained("wait", "truncate", SHARED, "file", 4, DONE, "pause") as hog:
            monitor.register(1, hog.pid, "truncates", 0, 32 * MIB)
            monitor.status(1)  # from the first count on there is an estimate
            hog.go()
            wait_until(DONE.exists)
            assert monitor.unregister(1).peak_bytes < 32 * MIB
            assert hog.is_running()
    finally:
        outside.kill()
        outside.wait()
        SHARED.unlink(missing_ok=True)
        DONE.unlink(missing_ok=True)


def test_what_others_do_to_a_container_is_its_memory(monitor: Monitor) -> None:
    """A process outside writes to its memory, as a debugger does: process_vm_writev(2), by /proc/PID/mem."""
    with Contained("wait", "map", 16 << 10, "pause") as hog:
        monitor.register(1, hog.pid, "written", 0, 8 * MIB)
        hog.go()
        wait_until(lambda: mapped(hog.pid, 16 * MIB))
        begin = mapped(hog.pid, 16 * MIB)
        memory = os.open(f"/proc/{hog.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # it is killed meanwhile
            for at in range(begin, begin + 16 * MIB, CHUNK):
                os.pwrite(memory, b"x" * CHUNK, at)
        os.close(memory)
        assert hog.wait() == -signal.SIGKILL
        (hard,) = records(monitor, 1)
        assert (hard.source, hard.pid, hard.comm) == (BY_TRACEPOINT, hog.pid, "grow")


def mapped(pid: int, size: int) -> int:
    """Where it has mapped as much as that in one piece; 0: nowhere."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        begin, end = (int(word, 16) for word in line.split()[0].split("-"))
        if end - begin >= size:
            return begin
    return 0


def test_what_has_ended_is_not_counted(monitor: Monitor) -> None:
    """One process after the other: their sum is no container's memory, although nothing is counted meanwhile."""
    with Contained("wait", "series", 150, "touch", 1024, "exit", 0) as line:
        monitor.register(1, line.pid, "in-line", 0, 16 * MIB)
        line.go()
        assert line.wait() == 0
        assert monitor.unregister(1).peak_bytes < 16 * MIB


def register_parked(monitor: Monitor, contained: Contained, name: str, soft_bytes: int) -> None:
    """With a soft limit that far above what it has when it waits for the first time."""
    status = Path(f"/proc/{contained.pid}/status")
    wait_until(lambda: "State:\tS" in status.read_text())
    monitor.register(1, contained.pid, name)
    monitor.update(1, monitor.status(1).rss_bytes + soft_bytes, 0)


def flapping(monitor: Monitor, flapper: Contained) -> None:
    """Register one that goes up and down around its soft limit as fast as it can ("flap", 512)."""
    register_parked(monitor, flapper, "flaps", 256 << 10)
    flapper.go()


def test_a_flapping_container_costs_little(monitor: Monitor) -> None:
    with Contained("wait", "flap", 512) as flapper:
        flapping(monitor, flapper)
        began, before = time.monotonic(), monitor.status(1).scans
        wait_until(lambda: monitor.version().dropped > 40)  # nobody reads
        scans, seconds = monitor.status(1).scans - before, time.monotonic() - began
    # In 50 ms: one that tells, one that tells the end, one that was asked for in vain.
    assert scans < 5 + 3 * seconds / 0.05


def test_a_flapping_container_drowns_nobody(monitor: Monitor) -> None:
    with (
        Contained("wait", "flap", 512) as flapper,
        Contained("wait", "touch", 12 << 10, "wait", "touch", 12 << 10, "pause") as other,
    ):
        flapping(monitor, flapper)
        wait_until(lambda: monitor.version().dropped > 40)  # nobody reads
        monitor.register(2, other.pid, "in-need", 8 * MIB, 20 * MIB)
        other.go()
        wait_until(lambda: MonitorState.OVER_SOFT in monitor.status(2).state)
        other.go()
        assert other.wait() == -signal.SIGKILL
        assert [record.type for record in monitor.read() if record.key == 2] == [RecordType.SOFT, RecordType.HARD]


def test_soft_crossings_are_told_no_closer_than_50_ms(monitor: Monitor) -> None:
    with Contained("wait", "flap", 512) as flapper:
        flapping(monitor, flapper)
        found: list[MonitorRecord] = []
        while len(found) < 12:
            found += [record for record in records(monitor, 1) if record.type == RecordType.SOFT]
        gaps = [after.time_ns - before.time_ns for before, after in pairwise(found)]
    assert min(gaps) >= SOFT_INTERVAL_NS


def test_each_new_limit_is_told_and_none_sooner(monitor: Monitor) -> None:
    """Of a container whose memory does not change any more."""
    with Contained("wait", "touch", 8 << 10, "pause") as hog:
        hog.go()
        wait_until(lambda: hog.resident() > 8 * MIB)
        began = time.monotonic_ns()
        monitor.register(1, hog.pid, "still", 4 * MIB)
        found = records(monitor, 1)
        for limit in range(5, 9):
            monitor.update(1, limit * MIB, 0)
            found += records(monitor, 1)
    assert [record.limit_bytes // MIB for record in found] == list(range(4, 9))
    assert min(after.time_ns - before.time_ns for before, after in pairwise(found)) >= SOFT_INTERVAL_NS
    assert found[-1].time_ns - began < REGULAR_MS * 1_000_000


def test_a_crossing_soon_after_another_is_told_when_it_lasts(monitor: Monitor) -> None:
    words = [*["touch", 4096, "release"] * 6, "touch", 4096, "pause"]
    with Contained("wait", *words) as hog:
        began = time.monotonic_ns()
        register_parked(monitor, hog, "settles", 2 * MIB)
        hog.go()
        found: list[MonitorRecord] = []

        def is_told() -> bool:
            found.extend(monitor.read())
            return (
                bool(found) and found[-1].type == RecordType.SOFT and MonitorState.OVER_SOFT in monitor.status(1).state
            )

        wait_until(lambda: hog.resident() > 4 * MIB and is_told())
    assert found[-1].time_ns - began < REGULAR_MS * 1_000_000  # not by the regular check, which would tell as well


def test_many_processes_that_grow_a_little_are_seen(monitor: Monitor) -> None:
    """Each stays below what a CPU keeps to itself of a counter (from 6.2 on)."""
    with Contained("fork", CROWD, "wait", "touch", TOLD_PAGES * 4, "pause") as crowd:
        monitor.register(1, crowd.pid, "crowd")
        children = Path(f"/proc/{crowd.pid}/task/{crowd.pid}/children")
        wait_until(lambda: len(children.read_text().split()) == CROWD and monitor.status(1).processes == CROWD + 1)
        start = monitor.status(1)
        monitor.update(1, 0, start.rss_bytes + 10 * MIB)
        wait_until(lambda: monitor.status(1).scans > start.scans + 2)  # the update's own count has been made
        for _ in range(CROWD):
            crowd.go()
        assert crowd.wait() == -signal.SIGKILL
        (hard,) = records(monitor, 1)
    assert hard.source == BY_TRACEPOINT
