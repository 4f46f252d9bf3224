"""The BPF enforcer on processes in pid namespaces of their own: what is counted, when it acts, what is left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from tests.root.memory.armed import GROW, MIB, PAGE, Arm, Armed, check_nothing_left, sleeps
from tests.waiting import wait_until

from wherry.kernel import bpf as bpf_calls
from wherry.memory import Host, Kind, Limits, Unusable, bpf
from wherry.memory.bpf import BpfLimiter

pytestmark = pytest.mark.root

BEHIND = 96 * PAGE
"""How far a process's total may be behind far below a limit: three counters' shares of a CPU."""


@pytest.mark.parametrize(
    "words",
    [("pages", "200", "1"), ("pages", "200", "4"), ("processes", "200", "4")],
    ids=["one", "threads", "children"],
)
def test_the_crossing_is_told_exactly_and_kills(limiter: BpfLimiter, arm: Arm, words: tuple[str, ...]) -> None:
    armed = arm(Limits(16 * MIB, 64 * MIB), GROW, *words)
    armed.go()
    soft, hard = armed.wait_for(Kind.SOFT), armed.wait_for(Kind.HARD)
    assert (soft.limit_bytes, hard.limit_bytes) == (16 * MIB, 64 * MIB)
    for event in (soft, hard):
        # Threads and siblings on other CPUs may have faulted a page each in the same instant.
        assert 0 <= event.rss_bytes - event.limit_bytes <= 64 << 10
        assert (event.comm, event.pid > 0) == ("memory_grow", True)
    assert soft.monotonic_ns < hard.monotonic_ns
    # Children die in their own page faults. Their parent does with its next one, unless it has ended before that.
    ends = [(os.CLD_KILLED, signal.SIGKILL), *([(os.CLD_EXITED, 0)] if "processes" in words else [])]
    assert armed.ended() in ends
    verdict = limiter.disarm(armed.id)
    assert verdict.hard is not None
    assert verdict.hard._replace(peak_bytes=0, wall_ns=0) == hard._replace(peak_bytes=0, wall_ns=0)
    assert verdict.peak_bytes is not None
    assert 64 * MIB <= verdict.peak_bytes <= 64 * MIB + (64 << 10)
    check_nothing_left(limiter)


def test_a_process_in_a_namespace_within_is_counted(arm: Arm) -> None:
    armed = arm(
        Limits(hard_bytes=48 * MIB),
        "/usr/bin/unshare",
        "-p",
        "-f",
        "/usr/bin/unshare",
        "-p",
        "-f",
        GROW,
        "pages",
        "99",
        "1",
    )
    armed.go()
    assert armed.wait_for(Kind.HARD).comm == "memory_grow"


def test_what_is_not_in_a_container_is_left_alone(arm: Arm) -> None:
    armed = arm(Limits(hard_bytes=32 * MIB), GROW, "storm", "0", "1")
    armed.go()
    subprocess.run([GROW, "pages", "200", "4"], check=True)
    assert not armed.has_ended()
    assert Kind.HARD not in armed.read()


def test_our_own_copy_of_the_interpreter_is_not_the_containers(limiter: BpfLimiter, arm: Arm) -> None:
    """A parked process has about 10 MiB of the shim's pages, more than this limit."""
    armed = arm(Limits(hard_bytes=4 * MIB), GROW, "storm", "0", "1")
    assert limiter.stat(armed.id).rss_bytes == 0
    armed.go()
    wait_until(lambda: limiter.stat(armed.id).rss_bytes > 0)
    assert armed.helper.stdout is not None
    assert limiter.stat(armed.id).peak_bytes < 4 * MIB


def test_ten_thousand_short_processes_leave_no_trace(limiter: BpfLimiter, arm: Arm) -> None:
    armed = arm(Limits(256 * MIB, 512 * MIB), GROW, "storm", "0", "10000")
    armed.go()
    assert armed.helper.stdout is not None
    wait_until(lambda: sleeps(armed.pid) and len(armed.processes()) == 1)
    usage = limiter.stat(armed.id)
    assert usage.processes == 1
    assert abs(usage.rss_bytes - armed.resident()) <= BEHIND
    assert usage.peak_bytes > usage.rss_bytes
    assert armed.read() == []
    signal.pidfd_send_signal(armed.pidfd, signal.SIGKILL)
    armed.ended()
    wait_until(lambda: limiter.stat(armed.id)[::2] == (0, 0))
    check_nothing_left(limiter, armed)


def test_totals_are_the_sum_of_what_the_kernel_shows(limiter: BpfLimiter, arm: Arm) -> None:
    armed = arm(Limits(soft_bytes=1 << 40), GROW, "processes", "64", "8")
    armed.go()
    wait_until(lambda: armed.resident() > 60 * MIB)
    wait_until(lambda: abs(limiter.stat(armed.id).rss_bytes - armed.resident()) <= 9 * BEHIND)
    assert limiter.stat(armed.id).processes == 9


def test_writing_to_it_from_outside_counts_and_does_not_kill_the_writer(arm: Arm) -> None:
    """/proc/PID/mem faults pages in for another process: the writer is this test."""
    armed = arm(Limits(hard_bytes=32 * MIB), "/usr/bin/python3", "-I", "-S", "-c", MAPS)
    armed.go()
    wait_until(lambda: _private_mapping(armed.pid))
    write_into(armed, 0, 60 * MIB)
    event = armed.wait_for(Kind.HARD)
    assert (event.pid, event.rss_bytes) == (armed.pid, 32 * MIB)


MAPS = "import mmap, signal\nkept = mmap.mmap(-1, 77 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nsignal.pause()"


def write_into(armed: Armed, offset: int, size: int) -> None:
    """From this process, which is in no container."""
    with open(f"/proc/{armed.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(_private_mapping(armed.pid) + offset)
        memory.write(b"x" * size)


def _private_mapping(pid: int) -> int:
    """Where the mapping of 77 MiB begins; 0 before it is there."""
    with contextlib.suppress(OSError):
        for begin, end in re.findall(
            r"^([0-9a-f]+)-([0-9a-f]+) rw-p", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE
        ):
            if int(end, 16) - int(begin, 16) >= 77 * MIB:
                return int(begin, 16)
    return 0


def test_soft_is_told_again_only_after_falling_below(limiter: BpfLimiter, arm: Arm) -> None:
    armed = arm(Limits(soft_bytes=32 * MIB), "/usr/bin/python3", "-I", "-S", "-c", UP_AND_DOWN)
    armed.go()
    assert armed.ended() == (os.CLD_EXITED, 0)
    # Its own end clears the last one.
    assert armed.read() == [Kind.SOFT, Kind.SOFT_CLEARED] * 3
    assert all(event.pid == 0 for event in armed.events if event.kind is Kind.SOFT_CLEARED)
    check_nothing_left(limiter, armed)


# Around the limit many times without falling below 30 MiB, three times.
UP_AND_DOWN = """
import mmap, time
for _ in range(3):
    kept = mmap.mmap(-1, 40 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    kept[:] = b"x" * len(kept)
    for _ in range(50):
        kept.madvise(mmap.MADV_DONTNEED, 39 << 20, 1 << 20)
        kept[39 << 20:] = b"x" * (1 << 20)
    kept.close()
    time.sleep(0.06)
"""

# As often as it can, for a second at least and until the limit has been crossed often.
FLAPPING = """
import mmap, time
kept = mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
kept[:40 << 20] = b"x" * (40 << 20)
end, rounds = time.monotonic() + 1, 0
while time.monotonic() < end or rounds < 50:
    rounds += 1
    kept.madvise(mmap.MADV_DONTNEED, 20 << 20, 20 << 20)
    kept[20 << 20:40 << 20] = b"x" * (20 << 20)
"""


def test_a_container_cannot_drown_the_events_of_others(limiter: BpfLimiter, arm: Arm) -> None:
    armed = arm(Limits(soft_bytes=32 * MIB), "/usr/bin/python3", "-I", "-S", "-c", FLAPPING)
    armed.go()
    assert armed.ended() == (os.CLD_EXITED, 0)
    told = [event.monotonic_ns for event in armed.events if event.kind is Kind.SOFT] if armed.read() else []
    assert len(told) >= 2
    assert min(later - earlier for earlier, later in pairwise(told)) >= 50_000_000
    check_nothing_left(limiter, armed)


def test_limits_of_a_live_container_change(limiter: BpfLimiter, arm: Arm) -> None:
    armed = arm(Limits(hard_bytes=8 * MIB), "/usr/bin/python3", "-I", "-S", "-c", MAPS)
    limiter.update(armed.id, Limits(hard_bytes=512 * MIB))
    armed.go()
    wait_until(lambda: _private_mapping(armed.pid))
    write_into(armed, 0, 40 * MIB)
    assert armed.read() == []
    limiter.update(armed.id, Limits(16 * MIB, 32 * MIB))
    assert armed.read() == [Kind.SOFT, Kind.HARD]  # it sleeps: there is no next page that could tell
    assert [(event.limit_bytes, event.pid) for event in armed.events] == [(16 * MIB, 0), (32 * MIB, 0)]
    assert 40 * MIB <= armed.events[1].rss_bytes < 60 * MIB
    with pytest.raises(KeyError):
        limiter.update("0" * 64, Limits(1, 2))


def test_the_next_supervisor_takes_over_maps_and_unread_events(arm: Arm, host: Host) -> None:
    first = bpf.open_limiter(host, {})
    armed = arm(Limits(16 * MIB, 64 * MIB), GROW, "pages", "200", "1", by=first)
    orphan = arm(Limits(16 * MIB, 64 * MIB), GROW, "storm", "0", "1", by=first)
    kept = {name: os.dup(descriptor) for name, descriptor in first.descriptors().items()}
    first.close()  # nobody is left but who holds these
    armed.go()
    assert armed.ended() == (os.CLD_KILLED, signal.SIGKILL)
    second = bpf.open_limiter(host, kept)
    for descriptor in kept.values():
        os.close(descriptor)
    try:
        second.adopt(armed.target._replace(namespace=-1), Limits(16 * MIB, 64 * MIB), armed.kept)
        second.sweep()
        found = second.read()
        assert [(event.kind, event.container_id) for event in found] == [(Kind.SOFT, armed.id), (Kind.HARD, armed.id)]
        with pytest.raises(KeyError):
            second.stat(orphan.id)
        verdict = second.disarm(armed.id)
        assert verdict.hard is not None
        assert verdict.hard.monotonic_ns == found[1].monotonic_ns
        check_nothing_left(second)
    finally:
        second.close()


def test_a_thousand_containers_leak_nothing(limiter: BpfLimiter, arm: Arm) -> None:
    armed = arm(Limits(hard_bytes=64 * MIB), "/bin/true")
    limiter.disarm(armed.id)
    free = len(limiter._free)
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        target = armed.target._replace(container_id=f"{number:064x}")
        for descriptor in limiter.arm(target, Limits(MIB, 2 * MIB)).values():
            os.close(descriptor)
        with pytest.raises(FileExistsError):  # the same namespace twice
            limiter.arm(target._replace(container_id="f" * 64), Limits(MIB, 2 * MIB))
        assert len(list(bpf_calls.keys(limiter._maps["slots"], 4))) == 1
        limiter.disarm(target.container_id)
    assert (len(limiter._free), len(os.listdir("/proc/self/fd"))) == (free, descriptors)
    limiter.arm(armed.target, Limits(hard_bytes=64 * MIB))["memory-namespace"]
    check_nothing_left(limiter, armed)


def test_a_missing_object_says_what_to_do(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf, "_OBJECT", tmp_path / "none")
    with pytest.raises(Unusable, match="make setup"):
        bpf.open_limiter(host, {})


@pytest.mark.parametrize("damage", ["other", "variable", "cut", "text", "empty"])
def test_an_object_of_another_version_is_unusable(
    host: Host, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout that has moved on without ``make setup``: an error, not a supervisor that hangs."""
    good = bpf._OBJECT.read_bytes()
    damaged = {
        "other": Path("/bin/true").read_bytes(),
        "variable": good.replace(b"most_processes", b"many_processes"),
        "cut": good[: len(good) // 2],
        "text": b"hello\n" * 100,
    }
    path = tmp_path / "monitor.bpf.o"
    path.write_bytes(damaged.get(damage, b""))
    monkeypatch.setattr(bpf, "_OBJECT", path)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(Unusable, match="is not of this version"):
        bpf.open_limiter(host, {})
    assert os.listdir("/proc/self/fd") == before


def test_what_the_verifier_refuses_is_one_line_and_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(bpf, "_MAX_CPUS", 0)
    with pytest.raises(Unusable, match="CPUs"):
        bpf.open_limiter(host, {})
    monkeypatch.undo()
    monkeypatch.setattr(bpf, "_most_processes", lambda: 0)
    with pytest.raises(Unusable, match="BPF_MAP_CREATE"):
        bpf.open_limiter(host, {})
    assert len(os.listdir("/proc/self/fd")) == before
