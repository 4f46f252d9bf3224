"""What the module counts, tells and kills, seen from a process that has registered containers."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from tests.vm.inside.watched import MIB, Contained, kernel_log, records, resident, touched
from tests.waiting import wait_until

from wherry.kernel.container_monitor import Monitor, MonitorState, RecordType


def kinds(monitor: Monitor, count: int) -> list[int]:
    return [record.type for record in records(monitor, count)]


def test_soft_then_hard(monitor: Monitor) -> None:
    with Contained("wait", "touch", 24 << 10, "pause") as hog:
        monitor.register(7, hog.pid, "soft-then-hard", 4 * MIB, 8 * MIB)
        hog.go()
        assert hog.wait() == -signal.SIGKILL
        soft, hard = records(monitor, 2)
    assert (soft.type, hard.type) == (RecordType.SOFT, RecordType.HARD)
    assert (soft.limit_bytes, hard.limit_bytes) == (4 * MIB, 8 * MIB)
    for record in (soft, hard):
        assert (record.key, record.pid, record.comm, record.source) == (7, hog.pid, "grow", 1)
        assert record.rss_bytes >= record.limit_bytes
        assert record.processes == 1
        assert record.dropped == 0
    assert soft.time_ns < hard.time_ns
    wait_until(lambda: monitor.status(7).state & MonitorState.ENDED)
    status = monitor.status(7)
    assert status.state == MonitorState.OVER_SOFT | MonitorState.KILLED | MonitorState.ENDED
    assert status.hard == hard
    assert status.peak_bytes >= hard.rss_bytes
    assert (status.pid, status.processes, status.id) == (0, 0, "soft-then-hard")


def test_the_kernel_log_has_one_line_for_each_crossing(monitor: Monitor) -> None:
    with Contained("wait", "touch", 24 << 10, "pause") as hog:
        monitor.register(1, hog.pid, "in.the_log-1", 4 * MIB, 8 * MIB)
        hog.go()
        hog.wait()
        wait_until(lambda: monitor.status(1).state & MonitorState.ENDED)
    lines = [line for line in kernel_log() if "id=in.the_log-1 " in line]
    for line, what, limit in zip(lines, ("SOFT", "HARD"), (4 * MIB, 8 * MIB), strict=True):
        words = rf"container_monitor: {what} LIMIT id=in\.the_log-1 pid={hog.pid} rss=\d+ limit={limit}"
        assert re.search(words + "$", line), line


def test_a_limit_that_is_not_crossed_says_nothing(monitor: Monitor) -> None:
    with Contained("wait", "touch", 4 << 10, "pause") as hog:
        monitor.register(1, hog.pid, "quiet", 8 * MIB, 16 * MIB)
        hog.go()
        wait_until(lambda: 4 * MIB < monitor.status(1).rss_bytes == hog.resident())
        assert monitor.status(1).state == 0
        assert monitor.read() == []


def test_many_small_processes_count_together(monitor: Monitor, tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    with Contained("progress", progress, "wait", "fork", 200, "touch", 300, "pause") as bomb:
        monitor.register(1, bomb.pid, "bomb", 0, 32 * MIB)
        bomb.go()
        assert bomb.wait() == -signal.SIGKILL
        (hard,) = records(monitor, 1)
    assert hard.processes > 50
    assert hard.rss_bytes < 40 * MIB
    assert touched(progress) < 40 * MIB


def test_the_smallest_processes_count_to_the_page(monitor: Monitor) -> None:
    """6.1 keeps up to 64 pages of each thread out of VmRSS; the sum of many such processes is no small matter."""
    with Contained("wait", "fork", 100, "exec", "touch", 160, "pause") as crowd:
        monitor.register(1, crowd.pid, "crowd")
        crowd.go()
        wait_until(lambda: monitor.status(1).processes == 101)
        children = Path(f"/proc/{crowd.pid}/task/{crowd.pid}/children").read_text().split()
        wait_until(lambda: monitor.status(1).rss_bytes == crowd.resident() + sum(map(resident, children)))
        assert monitor.status(1).rss_bytes > 100 * (160 << 10)


def test_threads_count_once(monitor: Monitor, tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    with Contained("progress", progress, "wait", "thread", 4, "touch", 32 << 10, "pause") as hog:
        monitor.register(1, hog.pid, "threads", 0, 16 * MIB)
        hog.go()
        assert hog.wait() == -signal.SIGKILL
        (hard,) = records(monitor, 1)
    assert hard.processes == 1
    assert touched(progress) < 24 * MIB


def test_processes_that_share_memory_count_once(monitor: Monitor) -> None:
    with Contained("wait", "touch", 6 << 10, "share", 8, "pause") as hog:
        monitor.register(1, hog.pid, "shared", 0, 12 * MIB)
        hog.go()
        wait_until(lambda: monitor.status(1).processes == 9)
        assert 6 * MIB < monitor.status(1).rss_bytes < 9 * MIB
        assert hog.is_running()


def test_memory_shared_through_a_file_counts(monitor: Monitor) -> None:
    with Contained("wait", "file", 24 << 10, "/dev/shm/mapped", "pause") as hog:
        monitor.register(1, hog.pid, "shmem", 0, 8 * MIB)
        hog.go()
        assert hog.wait() == -signal.SIGKILL
        assert kinds(monitor, 1) == [RecordType.HARD]
    Path("/dev/shm/mapped").unlink()


def test_exec_in_the_middle_gives_memory_back(monitor: Monitor) -> None:
    words = ["wait", *["touch", 5 << 10, "exec"] * 4, "wait", "touch", 16 << 10, "pause"]
    with Contained(*words) as hog:
        monitor.register(1, hog.pid, "executing", 0, 8 * MIB)
        hog.go()
        # Not its wchan: in User-Mode Linux 6.1 reading that is a read beyond a stack, as KASAN says.
        status = Path(f"/proc/{hog.pid}/status")
        wait_until(lambda: monitor.status(1).rss_bytes < 2 * MIB and "State:\tS" in status.read_text())
        assert hog.is_running()
        hog.go()
        assert hog.wait() == -signal.SIGKILL


def test_nested_namespaces_count(monitor: Monitor) -> None:
    with Contained("wait", "nest", "nest", "fork", 2, "touch", 24 << 10, "pause") as hog:
        monitor.register(1, hog.pid, "nested", 0, 16 * MIB)
        hog.go()
        assert hog.wait() == -signal.SIGKILL
        (hard,) = records(monitor, 1)
    assert hard.processes == 5
    assert hard.comm == "grow"
    assert hard.rss_bytes < 24 * MIB


def test_a_first_thread_that_has_ended_hides_nothing(monitor: Monitor) -> None:
    with Contained("wait", "leave", "touch", 24 << 10, "pause") as hog:
        monitor.register(1, hog.pid, "headless", 0, 16 * MIB)
        hog.go()
        assert hog.wait() == -signal.SIGKILL
        assert kinds(monitor, 1) == [RecordType.HARD]


def test_falling_below_arms_the_soft_limit_again(monitor: Monitor) -> None:
    words = ["wait", *["touch", 8 << 10, "wait", "release", "wait"] * 3, "pause"]
    with Contained(*words) as hog:
        monitor.register(1, hog.pid, "tide", 4 * MIB, 0)
        for _ in range(3):
            hog.go()
            assert kinds(monitor, 1) == [RecordType.SOFT]
            hog.go()
            assert kinds(monitor, 1) == [RecordType.SOFT_CLEARED]
        assert hog.is_running()


def test_a_limit_is_reached_with_its_last_page(monitor: Monitor) -> None:
    with Contained("wait", "touch", 4 << 10, "pause") as hog:
        monitor.register(1, hog.pid, "to-the-page")
        hog.go()
        status = Path(f"/proc/{hog.pid}/status")
        wait_until(lambda: monitor.status(1).rss_bytes > 4 * MIB and "State:\tS" in status.read_text())
        rss = hog.resident()
        for soft, hard in ((rss + 4096, 0), (0, rss + 4096)):
            monitor.update(1, soft, hard)
            wait_for_check(monitor, 1)
            assert monitor.status(1).state == 0
        assert monitor.read() == []
        monitor.update(1, rss, 0)
        assert [(record.type, record.rss_bytes) for record in records(monitor, 1)] == [(RecordType.SOFT, rss)]
        monitor.update(1, 0, rss)
        assert hog.wait() == -signal.SIGKILL
        assert [(record.type, record.rss_bytes) for record in records(monitor, 1)] == [(RecordType.HARD, rss)]


def wait_for_check(monitor: Monitor, key: int) -> None:
    """Until one has begun and ended since: each look is a count too."""
    looks, before = 0, monitor.status(key).scans

    def another() -> bool:
        nonlocal looks
        looks += 1
        return monitor.status(key).scans > before + looks

    wait_until(another)


def test_falling_a_little_does_not(monitor: Monitor) -> None:
    words = ["wait", "touch", 4 << 10, *["touch", 100, "release"] * 20, "touch", 8 << 10, "pause"]
    with Contained(*words) as hog:
        baseline = hog.resident() + 4 * MIB
        monitor.register(1, hog.pid, "ripples", baseline + (50 << 10), 0)
        hog.go()
        wait_until(lambda: monitor.status(1).rss_bytes > 12 * MIB)
        found = kinds(monitor, 1)  # which can take 50 ms
        wait_for_check(monitor, 1)
        assert [*found, *(record.type for record in monitor.read())] == [RecordType.SOFT]


def test_a_jump_over_both_limits_crosses_both(monitor: Monitor) -> None:
    with Contained("wait", "touch", 8 << 10, "wait", "pause") as hog:
        hog.go()
        wait_until(lambda: hog.resident() > 8 * MIB)
        monitor.register(1, hog.pid, "late", 2 * MIB, 4 * MIB)
        assert hog.wait() == -signal.SIGKILL
        assert kinds(monitor, 2) == [RecordType.SOFT, RecordType.HARD]


def test_limits_can_be_raised_and_lowered(monitor: Monitor) -> None:
    with Contained("wait", "touch", 10 << 10, "wait", "touch", 10 << 10, "pause") as hog:
        monitor.register(1, hog.pid, "updated", 0, 12 * MIB)
        monitor.update(1, 0, 32 * MIB)
        hog.go()
        hog.go()
        wait_until(lambda: monitor.status(1).rss_bytes > 20 * MIB)
        assert monitor.status(1).hard_bytes == 32 * MIB
        monitor.update(1, 8 * MIB, 0)
        assert kinds(monitor, 1) == [RecordType.SOFT]
        monitor.update(1, 9 * MIB, 0)
        assert kinds(monitor, 1) == [RecordType.SOFT]  # another limit, another crossing
        monitor.update(1, 0, 16 * MIB)
        assert hog.wait() == -signal.SIGKILL
        assert kinds(monitor, 1) == [RecordType.HARD]
        with pytest.raises(ProcessLookupError):
            monitor.update(1, 0, 64 * MIB)


def test_unregistering_ends_the_watch(monitor: Monitor) -> None:
    with Contained("wait", "touch", 6 << 10, "wait", "touch", 24 << 10, "pause") as hog:
        monitor.register(1, hog.pid, "let-go", 0, 8 * MIB)
        hog.go()
        wait_until(lambda: hog.resident() > 6 * MIB)
        monitor.status(1)  # counts exactly; removing it does not
        status = monitor.unregister(1)
        assert status.peak_bytes >= 6 * MIB
        assert status.hard is None
        hog.go()
        wait_until(lambda: hog.resident() > 24 * MIB)
        assert hog.is_running()
        assert monitor.read() == []
        with pytest.raises(FileNotFoundError):
            monitor.status(1)


def test_an_end_by_other_hands_is_no_crossing(monitor: Monitor) -> None:
    with Contained("wait", "touch", 4 << 10, "pause") as hog:
        monitor.register(1, hog.pid, "killed-from-outside", 0, 8 * MIB)
        hog.go()
        wait_until(lambda: hog.resident() > 4 * MIB)
        monitor.status(1)  # counts exactly; between two checks the peak is an estimate
        signal.pidfd_send_signal(hog.pidfd, signal.SIGKILL)
        hog.wait()
        wait_until(lambda: monitor.status(1).state & MonitorState.ENDED)
        status = monitor.unregister(1)
    assert status.hard is None
    assert status.state == MonitorState.ENDED
    assert status.peak_bytes > 4 * MIB
    assert monitor.read() == []
