"""What is left when a container cannot be armed, with an enforcer that keeps its books in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from wherry.errors import Conflict, StartFailed
from wherry.kernel import cgroup_memory, procfs
from wherry.kernel.cgroups import Group, Layout
from wherry.logs import Log
from wherry.memory import Host, Kind, Limits, MemoryEvent, MemoryUsage, Target, Traits, Verdict
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import Record
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.events import Events
from wherry.supervisor.memory_watch.memory import MemoryWatch, backstop
from wherry.supervisor.memory_watch.victims import Victims
from wherry.supervisor.processes.children import Child
from wherry.supervisor.records import Records

MIB = 1 << 20
LAYOUT = Layout(1, {"memory": "/nowhere"})


class FakeLimiter:
    name = "kmod"
    traits = Traits(writes_kernel_log=True)
    accuracy = None
    has_taken_over = False

    def __init__(self) -> None:
        self.armed: dict[str, Limits] = {}
        self.fault: OSError | None = None
        self.untold: tuple[MemoryEvent, ...] = ()

    def fileno(self) -> int:
        raise NotImplementedError

    def descriptors(self) -> dict[str, int]:
        return {}

    def arm(self, target: Target, limits: Limits) -> dict[str, int]:
        if self.fault is not None:
            raise self.fault
        self.armed[target.container_id] = limits
        return {"memory-x": os.dup(target.namespace)}

    def adopt(self, target: Target, limits: Limits, kept: dict[str, int]) -> None: ...

    def rearm(self, target: Target, limits: Limits) -> dict[str, int]:
        return self.arm(target, limits)

    def take_stock(self) -> None: ...

    def alarm(self) -> None: ...

    def alarm_of(self, container_id: str) -> None: ...

    def sweep(self) -> None: ...

    def update(self, container_id: str, limits: Limits) -> None: ...

    def stat(self, container_id: str) -> MemoryUsage:
        raise NotImplementedError

    def disarm(self, container_id: str) -> Verdict:
        del self.armed[container_id]
        return Verdict(None, None, self.untold)

    def read(self) -> list[MemoryEvent]:
        return []

    def dropped(self) -> int:
        return 0

    def close(self) -> None: ...


Work = Callable[[MemoryWatch, FakeLimiter, Container, Child], Awaitable[None] | None]


def run(tmp_path: Path, work: Work, **limits: int) -> None:
    """``work`` with one container that is to be started; afterwards no descriptor is left."""

    async def go() -> None:
        records = Records(tmp_path / "records")
        memory, limiter = MemoryWatch(Host(LAYOUT, "w"), Events(), records), FakeLimiter()
        memory._chosen = limiter
        request = CreateRequest(rootfs="/r", command=("x",), **limits)  # type: ignore[arg-type]
        record = Record(id="a" * 64, name="alpha", request=request, created_ns=1)
        container = Container(record, Log(tmp_path / "log", record.id))
        child = Child("slot", Group(LAYOUT, "w/slot"), None)
        child.pid = os.getpid()
        before = len(os.listdir("/proc/self/fd"))
        if (working := work(memory, limiter, container, child)) is not None:
            await working
        assert len(os.listdir("/proc/self/fd")) == before
        memory._chosen = None
        memory.close()
        records.close()

    asyncio.run(go())


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Limits of groups that were set; there is no OOM signal to register for."""
    found: list[int] = []
    monkeypatch.setattr(cgroup_memory, "set_limit", lambda _group, size: found.append(size))
    monkeypatch.setattr("wherry.memory.oom.OomWatch.add", lambda *_: None)
    return found


@pytest.mark.parametrize("what", ["stands still", "dies", "seems alive for a moment"])
def test_who_has_not_run_since_a_kill_may_be_its_victim(
    tmp_path: Path, written: list[int], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Case 32: in a guest whose virtual CPU stood still, an OOM kill of the first process was booked as another's."""
    looks, children = 0, list[int]()
    first = 2 if what == "seems alive for a moment" else 0  # looks before it is seen to die

    def threads(_pid: int) -> dict[int, int]:
        nonlocal looks
        looks += 1
        return {7: 0 if what == "stands still" and looks <= 5 else looks}

    monkeypatch.setattr(procfs, "running_threads", threads)
    monkeypatch.setattr(procfs, "is_dying", lambda _pid: what != "stands still" and first < looks <= 5)
    monkeypatch.setattr(cgroup_memory, "oom_kills", lambda _group: 1)
    monkeypatch.setattr(cgroup_memory, "limit", lambda _group: None)
    monkeypatch.setattr(Victims, "_book", lambda _victims, _record, _what, number: children.append(number))

    async def work(memory: MemoryWatch, _limiter: FakeLimiter, container: Container, child: Child) -> None:
        close(memory.arm(container, child))
        memory._victims._later(0, memory._watched[container.record.id], None)
        while not children:
            assert looks < 20
            await asyncio.sleep(0)
        memory.disarm(container)

    run(tmp_path, work, soft_bytes=8 * MIB)
    assert written == []
    assert (children, looks > 5) == ([1], True)


def close(kept: dict[str, int]) -> None:
    for descriptor in kept.values():
        os.close(descriptor)


def test_what_is_first_known_at_the_end_is_told(tmp_path: Path, written: list[int]) -> None:
    def work(memory: MemoryWatch, limiter: FakeLimiter, container: Container, child: Child) -> None:
        close(memory.arm(container, child))
        limiter.untold = (MemoryEvent(Kind.HARD, "a" * 64, 7, "hog", 64 * MIB, 64 * MIB, 64 * MIB, 1, 1),)
        memory.disarm(container)
        assert [(event.action, event.own["pid"]) for event in memory._events.past()] == [("hard-limit", "7")]

    run(tmp_path, work, hard_bytes=64 * MIB)
    assert written == [backstop(64 * MIB)]


def test_a_hard_limit_has_the_group_behind_it(tmp_path: Path, written: list[int]) -> None:
    def work(memory: MemoryWatch, limiter: FakeLimiter, container: Container, child: Child) -> None:
        close(memory.arm(container, child))
        assert limiter.armed == {"a" * 64: Limits(8 * MIB, 64 * MIB)}
        assert container.record.enforcer == "kmod"
        memory.disarm(container)
        assert limiter.armed == {}
        assert memory.disarm(container).enforcer == ""  # a second time is nothing

    run(tmp_path, work, soft_bytes=8 * MIB, hard_bytes=64 * MIB)
    assert written == [backstop(64 * MIB)] == [67 * MIB]


@pytest.mark.parametrize(("own", "expected"), [(32 * MIB, []), (128 * MIB, [67 * MIB])])
def test_a_lower_limit_of_the_group_stays(tmp_path: Path, written: list[int], own: int, expected: list[int]) -> None:
    run(
        tmp_path,
        lambda memory, _limiter, container, child: close(memory.arm(container, child)),
        hard_bytes=64 * MIB,
        memory_bytes=own,
    )
    assert written == expected


def test_an_enforcer_that_refuses_is_a_failed_start(tmp_path: Path, written: list[int]) -> None:
    def work(memory: MemoryWatch, limiter: FakeLimiter, container: Container, child: Child) -> None:
        limiter.fault = OSError(28, "No space left on device")
        with pytest.raises(StartFailed, match="set memory limit: no space left on device"):
            memory.arm(container, child)
        assert container.record.enforcer == ""

    run(tmp_path, work, hard_bytes=64 * MIB)
    assert written == []


def test_a_group_that_refuses_leaves_nothing_armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_group: Group, _size: int) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(cgroup_memory, "set_limit", refuse)

    def work(memory: MemoryWatch, limiter: FakeLimiter, container: Container, child: Child) -> None:
        with pytest.raises(StartFailed, match="resource busy"):
            memory.arm(container, child)
        assert limiter.armed == {}

    run(tmp_path, work, hard_bytes=64 * MIB)


def test_no_enforcer_is_a_failed_start_that_says_why(tmp_path: Path, written: list[int]) -> None:
    def work(memory: MemoryWatch, _limiter: FakeLimiter, container: Container, child: Child) -> None:
        memory._chosen, memory.refused = None, {"kmod": "no module", "bpf": "no BTF"}
        with pytest.raises(StartFailed, match=r"nothing on this host can enforce it \(kmod: no module; bpf: no BTF\)"):
            memory.arm(container, child)

    run(tmp_path, work, soft_bytes=MIB)
    assert written == []


def test_without_limits_nothing_is_armed(tmp_path: Path, written: list[int]) -> None:
    def work(memory: MemoryWatch, limiter: FakeLimiter, container: Container, child: Child) -> None:
        assert memory.arm(container, child) == {}
        assert (limiter.armed, container.record.enforcer) == ({}, "")

    run(tmp_path, work)
    assert written == []


def test_new_limits_come_too_late_for_a_container_that_has_ended(tmp_path: Path) -> None:
    """It counts as running until the last of its output is written; its limits are gone before."""

    def work(memory: MemoryWatch, _limiter: FakeLimiter, container: Container, child: Child) -> None:
        for descriptor in memory.arm(container, child).values():
            os.close(descriptor)
        memory.disarm(container)
        memory.update(container, Limits(soft_bytes=8 * MIB), Limits(soft_bytes=8 * MIB))
        with pytest.raises(Conflict, match="alpha has ended"):
            memory.update(container, Limits(soft_bytes=8 * MIB), Limits(soft_bytes=9 * MIB))

    run(tmp_path, work, soft_bytes=8 * MIB)
