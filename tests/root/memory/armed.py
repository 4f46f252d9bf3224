"""A process in a pid namespace of its own, watched by the BPF enforcer: what its tests are made of."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.root.harness import REPOSITORY
from tests.waiting import wait_until

from wherry.kernel import bpf as bpf_calls
from wherry.kernel import cgroups
from wherry.kernel.polling import readable
from wherry.memory import Host, Kind, Limits, MemoryEvent, Target, bpf, selftest
from wherry.memory.bpf import BpfLimiter

GROW = str(REPOSITORY / "build/workloads/memory_grow")
HOSTILE = str(REPOSITORY / "build/workloads/memory_hostile")
MIB = 1 << 20
PAGE = 4096


class Armed:
    """A process that is first in a pid namespace, waits to be let go, and is watched from its execve on."""

    def __init__(self, limiter: BpfLimiter, group: cgroups.Group, limits: Limits, *command: str) -> None:
        self.limiter = limiter
        self.id = os.urandom(32).hex()
        self.helper = selftest.start_helper(group, command)
        (self.pid,) = selftest.read_numbers(self.helper)
        self.pidfd = os.pidfd_open(self.pid)
        self.namespace = os.open(f"/proc/{self.pid}/ns/pid", os.O_RDONLY)
        self.target = Target(self.id, self.pid, self.pidfd, self.namespace, group)
        self.kept = limiter.arm(self.target, limits)
        self.events: list[MemoryEvent] = []

    def go(self) -> None:
        assert self.helper.stdin is not None
        self.helper.stdin.write(b".")

    def read(self) -> list[Kind]:
        self.events += [event for event in self.limiter.read() if event.container_id == self.id]
        return [event.kind for event in self.events]

    def wait_for(self, kind: Kind) -> MemoryEvent:
        wait_until(lambda: kind in self.read())
        return next(event for event in self.events if event.kind == kind)

    def ended(self) -> tuple[int, int]:
        code, status = selftest.read_numbers(self.helper)
        return code, status

    def has_ended(self) -> bool:
        return bool(readable([self.pidfd]))

    def processes(self) -> list[int]:
        """Host pids of the namespace's processes."""
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdecimal() and os.stat(f"/proc/{name}/ns/pid").st_ino == self.target.inode:
                    found.append(int(name))
        return found

    def resident(self) -> int:
        """The sum of VmRSS, as the kernel shows it for each process."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        return total

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        wait_until(self.has_ended)
        # Before its namespace's number is free: another test's process may get it, and would be taken for this one.
        with contextlib.suppress(KeyError, ValueError):  # disarmed, or the limiter is closed
            self.limiter.disarm(self.id)
        selftest.end_helper(self.helper)
        for descriptor in (self.pidfd, self.namespace, *self.kept.values()):
            os.close(descriptor)


Arm = Callable[..., Armed]


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host(cgroups.detect(), f"wherry-test-{os.getpid()}")
    group = cgroups.Group(host.layout, host.parent)
    group.create()
    yield host
    wait_until(group.remove)


@pytest.fixture
def limiter(host: Host) -> Iterator[BpfLimiter]:
    limiter = bpf.open_limiter(host, {})
    yield limiter
    limiter.close()


@pytest.fixture
def arm(limiter: BpfLimiter, host: Host) -> Iterator[Arm]:
    made: list[Armed] = []

    def do(limits: Limits, *command: str, by: BpfLimiter | None = None) -> Armed:
        made.append(Armed(by or limiter, cgroups.Group(host.layout, host.parent), limits, *command))
        return made[-1]

    yield do
    for armed in made:
        armed.close()


def check_nothing_left(limiter: BpfLimiter, *ended: Armed) -> None:
    for each in ended:
        limiter.disarm(each.id)
    wait_until(lambda: limiter.counted() == 0)
    slots = limiter._maps["slots"]
    assert list(bpf_calls.keys(slots, 4)) == []
    assert limiter.dropped() == 0


def sleeps(pid: int) -> bool:
    """In pause(2)."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] == str({"x86_64": 34}.get(os.uname().machine, -1))


def waits_for_word(pid: int) -> bool:
    """In sigwait(3), as ``memory_hostile`` between two steps."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] == str({"x86_64": 128}.get(os.uname().machine, -1))


def links_of(pid: int) -> int:
    """How many programs a process keeps attached."""
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # the directory's own
            count += os.readlink(f"/proc/{pid}/fd/{name}") == "anon_inode:bpf_link"
    return count
