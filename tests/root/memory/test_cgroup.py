"""The enforcer cgroup on a real memory controller, of either version: its files, its events, its kill.

``build/vm/grow`` (kmod/tests/grow.c) does what its words say; it goes past a "wait" with the next byte.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.vm import image
from tests.waiting import wait_until

from wherry.kernel import cgroup_memory, cgroups
from wherry.kernel import cgroup_trees as trees
from wherry.kernel.polling import readable
from wherry.memory import Host, Kind, Limits, MemoryEvent, Target, cgroup, selftest
from wherry.memory.cgroup import CgroupLimiter

pytestmark = pytest.mark.root

MIB = 1 << 20
ID = "c" * 64
LAYOUT = cgroups.detect()
LIMITS = Limits(16 * MIB, 48 * MIB)
is_version2 = LAYOUT.version == 2


@pytest.fixture
def limiter(host: Host) -> Iterator[CgroupLimiter]:
    limiter = cgroup.open_limiter(host, {})
    yield limiter
    limiter.close()


class Container:
    """``grow WORDS`` as the first process of a pid namespace in a group of its own, armed, and let go at once."""

    def __init__(self, limiter: CgroupLimiter, host: Host, limits: Limits, *words: str) -> None:
        self.limiter = limiter
        self.group = cgroups.Group(LAYOUT, f"{host.parent}/container")
        self.group.create_for_container()
        self.helper = selftest.start_helper(self.group.inner, [str(image.grow_program()), *words])
        (pid,) = selftest.read_numbers(self.helper)
        self.pidfd = os.pidfd_open(pid)
        self.target = Target(ID, pid, self.pidfd, -1, self.group)
        self.kept = limiter.arm(self.target, limits)
        self.events: list[MemoryEvent] = []
        self.go()

    def go(self) -> None:
        assert self.helper.stdin is not None
        self.helper.stdin.write(b".")

    def wait_for(self, *kinds: Kind, told: bool = True) -> list[MemoryEvent]:
        """Until just these have come; with ``told`` the descriptor says when, else looking now and then must do."""
        while len(self.events) < len(kinds):
            ready = readable([self.limiter.fileno()], 30 if told else 0.02)
            assert ready or not told, f"nothing was told after {self.events}"
            self.events += self.limiter.read()
        found, self.events = self.events, []
        assert [event.kind for event in found] == list(kinds)
        return found

    def has_ended(self) -> bool:
        return bool(readable([self.pidfd]))

    def file(self, version1: str, version2: str) -> str:
        return self.group.read("memory", version2 if is_version2 else version1) or ""

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        wait_until(self.has_ended)
        selftest.end_helper(self.helper)
        for descriptor in (self.pidfd, *self.kept.values()):
            os.close(descriptor)
        wait_until(lambda: trees.remove(self.group.places, cgroups.INNER))


@contextlib.contextmanager
def started(limiter: CgroupLimiter, host: Host, limits: Limits, *words: str) -> Iterator[Container]:
    container = Container(limiter, host, limits, *words)
    try:
        yield container
    finally:
        container.close()


def test_soft_up_down_and_up_again(limiter: CgroupLimiter, host: Host) -> None:
    words = "wait touch 24000 wait release wait touch 24000 pause".split()
    with started(limiter, host, LIMITS, *words) as container:
        if is_version2:
            assert container.file("", "memory.high") == str(16 * MIB)
        container.go()
        (soft,) = container.wait_for(Kind.SOFT)
        assert (soft.limit_bytes, soft.pid) == (16 * MIB, 0)
        assert 16 * MIB <= soft.rss_bytes <= soft.peak_bytes
        wait_until(lambda: limiter.stat(ID).rss_bytes > 23 * MIB)  # nothing holds it at its soft limit
        if is_version2:
            assert container.file("", "memory.high") == "max"
        container.go()
        container.wait_for(Kind.SOFT_CLEARED, told=False)
        if is_version2:
            assert container.file("", "memory.high") == str(16 * MIB)
        container.go()
        container.wait_for(Kind.SOFT, told=False)  # not so soon after the last one
        assert not container.has_ended()
        verdict = limiter.disarm(ID)
        assert verdict.hard is None
        assert (verdict.peak_bytes or 0) > 23 * MIB


@pytest.mark.parametrize("family", [[], ["fork", "3"]], ids=["one", "family"])
def test_the_hard_limit_ends_it(limiter: CgroupLimiter, host: Host, family: list[str]) -> None:
    limits = Limits(hard_bytes=48 * MIB)
    with started(limiter, host, limits, "wait", *family, "touch", "100000", "pause") as container:
        assert container.file("memory.limit_in_bytes", "memory.max") == str(48 * MIB)
        container.go()
        (hard,) = container.wait_for(Kind.HARD)
        assert (hard.limit_bytes, hard.rss_bytes >= 48 * MIB) == (48 * MIB, True)
        if is_version2:  # memory.oom.group: all of it, without anybody's help
            wait_until(lambda: container.has_ended() and container.group.inner.processes() == [])
            assert cgroup_memory.oom_kills(container.group) >= 1
        verdict = limiter.disarm(ID)
        assert verdict.hard == hard
        assert verdict.untold == ()
        assert verdict.peak_bytes == 48 * MIB


def test_what_was_not_read_before_the_end_is_told_with_it(limiter: CgroupLimiter, host: Host) -> None:
    """A container's end may come before the kernel says that its counts have changed."""
    # Version 2 holds a container at its soft limit for as long as nobody reads.
    limits = Limits(None if is_version2 else 16 * MIB, 48 * MIB)
    with started(limiter, host, limits, "wait", "touch", "100000", "pause") as container:
        container.go()
        wait_until(container.has_ended)
        verdict = limiter.disarm(ID)
        kinds = [event.kind for event in verdict.untold]
        assert kinds == ([Kind.HARD] if is_version2 else [Kind.SOFT, Kind.HARD])
        assert verdict.untold[-1] == verdict.hard


def test_new_limits_hold_at_once(limiter: CgroupLimiter, host: Host) -> None:
    words = "wait touch 24000 wait touch 24000 wait touch 100000 pause".split()
    with started(limiter, host, Limits(64 * MIB, 96 * MIB), *words) as container:
        container.go()
        wait_until(lambda: limiter.stat(ID).rss_bytes > 23 * MIB)
        assert limiter.read() == []
        limiter.update(ID, Limits(16 * MIB, 96 * MIB))  # below what it has
        container.wait_for(Kind.SOFT, told=False)
        limiter.update(ID, Limits(32 * MIB, 96 * MIB))  # above that
        assert limiter.read() == []
        container.go()
        container.wait_for(Kind.SOFT)
        wait_until(lambda: limiter.stat(ID).rss_bytes > 46 * MIB)
        limiter.update(ID, Limits(32 * MIB, 64 * MIB))
        container.go()
        assert container.wait_for(Kind.HARD)[0].limit_bytes == 64 * MIB


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_the_next_supervisor_goes_on(limiter: CgroupLimiter, host: Host, told: bool) -> None:
    words = "wait touch 24000 wait release wait touch 24000 wait touch 100000 pause".split()
    with started(limiter, host, LIMITS, *words) as container:
        container.go()
        if told:
            container.wait_for(Kind.SOFT)
        else:
            # Version 2 holds it at the limit. Version 1 signals a crossing up to 128 pages a CPU late, and before it
            # that of the lower size, below which a crossing ends.
            enough = (15 if is_version2 else 23) * MIB
            wait_until(lambda: limiter.stat(ID).rss_bytes > enough)
            assert readable([limiter.fileno()], PATIENCE)
        limiter.close()
        following = container.limiter = cgroup.open_limiter(host, {})
        try:
            following.adopt(container.target, LIMITS, container.kept)
            if not told:
                container.wait_for(Kind.SOFT, told=False)
            wait_until(lambda: following.stat(ID).rss_bytes > 23 * MIB)
            container.go()
            container.wait_for(Kind.SOFT_CLEARED, told=False)
            container.go()
            container.wait_for(Kind.SOFT, told=False)
            container.go()
            container.wait_for(Kind.HARD)
        finally:
            following.close()


@pytest.mark.host_variant
@pytest.mark.skipif(is_version2, reason="version 2 of control groups counts crossings and signals none late")
def test_a_signal_that_comes_after_the_next_supervisor_is_told(limiter: CgroupLimiter, host: Host) -> None:
    with started(limiter, host, LIMITS, *"wait touch 24000 pause".split()) as container:
        container.go()
        wait_until(lambda: limiter.stat(ID).rss_bytes > 23 * MIB)
        wait_until(lambda: cgroup_memory.signalled(container.kept["memory-soft"]))  # as if it had not been yet
        limiter.close()
        following = container.limiter = cgroup.open_limiter(host, {})
        try:
            following.adopt(container.target, LIMITS, container.kept)
            assert following.read() == []
            os.eventfd_write(container.kept["memory-soft"], 1)
            container.wait_for(Kind.SOFT)
            os.eventfd_write(container.kept["memory-soft"], 1)
            assert following.read() == []
        finally:
            following.close()


def test_a_crossing_that_nobody_acted_on_is_told_again(limiter: CgroupLimiter, host: Host) -> None:
    """Read by a supervisor that was killed just then: the signal of version 1 is gone, what was counted is not."""
    limits = Limits(hard_bytes=48 * MIB)
    with started(limiter, host, limits, *"wait touch 100000 pause".split()) as container:
        container.go()
        container.wait_for(Kind.HARD)
        wait_until(lambda: cgroup_memory.oom_kills(container.group) > 0)
        limiter.close()
        following = container.limiter = cgroup.open_limiter(host, {})
        try:
            following.adopt(container.target, limits, container.kept)
            container.wait_for(Kind.HARD, told=False)
            assert following.read() == []
            assert following.disarm(ID).hard is not None
        finally:
            following.close()


def test_a_second_watch_of_a_group_is_refused(limiter: CgroupLimiter, host: Host) -> None:
    with started(limiter, host, Limits(hard_bytes=48 * MIB), *"wait touch 100000 pause".split()) as container:
        before = len(os.listdir("/proc/self/fd"))
        for name in (ID, "d" * 64):
            with pytest.raises(FileExistsError, match="container"):
                limiter.arm(container.target._replace(container_id=name), LIMITS)
        assert len(os.listdir("/proc/self/fd")) == before
        container.go()
        assert container.wait_for(Kind.HARD)[0].limit_bytes == 48 * MIB


@pytest.mark.skipif(not is_version2, reason="version 1 signals every group below the one that is full")
@pytest.mark.host_variant
def test_a_kill_for_somebody_elses_shortage_is_no_crossing(limiter: CgroupLimiter, host: Host) -> None:
    cgroup_memory.set_limit(cgroups.Group(LAYOUT, host.parent), 32 * MIB)
    with started(limiter, host, Limits(hard_bytes=48 * MIB), *"wait touch 100000 pause".split()) as container:
        container.go()
        wait_until(container.has_ended)
        assert cgroup_memory.oom_kills(container.group) >= 1  # with memory.oom.group, its one process counts twice
        assert limiter.read() == []
        assert limiter.disarm(ID).hard is None


def test_swap_is_limited_with_it(host: Host) -> None:
    group = cgroups.Group(LAYOUT, f"{host.parent}/swap")
    group.create()
    try:
        for swap, together, alone in ((0, 32 * MIB, "0"), (16 * MIB, 48 * MIB, str(16 * MIB))):
            cgroup_memory.set_limit(group, 32 * MIB, swap)
            found = group.read("memory", "memory.swap.max" if is_version2 else "memory.memsw.limit_in_bytes")
            assert found in {None, alone if is_version2 else str(together)}
        if is_version2:
            cgroup_memory.set_limit(group, 32 * MIB, None)
            assert group.read("memory", "memory.swap.max") == "max"
            assert Path(group.directories[""], "memory.swap.max").exists()
    finally:
        wait_until(group.remove)
