"""When a container is told to stall, with a socket in the place of the kernel's pressure file."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wherry.errors import NotSupported
from wherry.kernel import cgroup_memory
from wherry.kernel.cgroups import Group, Layout
from wherry.memory import Kind, MemoryEvent, MemoryUsage, pressure
from wherry.supervisor.containers.record import Record
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.events import Events
from wherry.supervisor.memory_watch import soft
from wherry.supervisor.memory_watch.soft import SoftLimits

MIB = 1 << 20
TOTAL = "some avg10=1.50 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"


@pytest.fixture
def group(tmp_path: Path) -> Group:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/memory.pressure").write_text(TOTAL.format(1000))
    return Group(Layout(2, {"": str(tmp_path)}), "c")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Call it for the kernel to say that the group stalls: out-of-band data polls EPOLLPRI, as a pressure file does."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    monkeypatch.setattr(pressure, "_open_trigger", lambda _group: theirs.detach())

    def say() -> None:
        ours.send(b"!", socket.MSG_OOB)

    yield say
    for each in (listener, ours, theirs):
        each.close()


def record(action: str = "") -> Record:
    request = CreateRequest(rootfs="/r", command=("x",), soft_bytes=16 * MIB, soft_action=action)
    return Record(id="ab" * 32, name="web", request=request, created_ns=1)


def event(kind: Kind, mib: int = 17) -> MemoryEvent:
    return MemoryEvent(kind, "ab" * 32, 0, "", mib * MIB, 16 * MIB, mib * MIB, 1, 1)


def run(work: Callable[[SoftLimits, list[int]], None], resident: int = 18 * MIB) -> list[int]:
    """What was told: for how many milliseconds it had stalled, each time."""
    told: list[int] = []

    async def go() -> None:
        events = Events()
        events.keep = lambda event: told.append(round(1000 * float(event.own["stalled"])))
        limits = SoftLimits(events, lambda _id: MemoryUsage(resident, resident, 1))
        try:
            work(limits, told)
            await asyncio.sleep(0)
        finally:
            limits.remove("ab" * 32)
            limits.close()

    asyncio.run(go())
    return told


def stalls(group: Group, microseconds: int) -> None:
    Path(group.directories[""], "memory.pressure").write_text(TOTAL.format(microseconds))


def test_above_and_stalling_is_told_once_a_crossing(group: Group, kernel: Callable[[], None]) -> None:
    def work(limits: SoftLimits, told: list[int]) -> None:
        limits.hear(event(Kind.SOFT), record(), group)
        stalls(group, 151_000)
        for _ in range(2):
            kernel()
            limits.tick()
        assert told == [150]
        limits.hear(event(Kind.SOFT_CLEARED), record(), group)
        for _ in range(2):
            stalls(group, 400_000)
            kernel()
            limits.tick()  # below it, that is nobody's business
        assert told == [150]
        limits.hear(event(Kind.SOFT), record(), group)
        stalls(group, 600_000)
        kernel()
        limits.tick()

    assert run(work) == [150, 599]


def test_one_that_goes_up_and_down_is_heard_too(group: Group, kernel: Callable[[], None]) -> None:
    """Just when the trigger is heard it may be below."""

    def work(limits: SoftLimits, told: list[int]) -> None:
        for kind in (Kind.SOFT, Kind.SOFT_CLEARED):
            limits.hear(event(kind), record(), group)
        stalls(group, 151_000)
        for _ in range(2):
            kernel()
            limits.tick()
        assert told == [150]

    run(work)


def test_one_that_is_above_is_heard_by_the_next_supervisor(group: Group, kernel: Callable[[], None]) -> None:
    def work(limits: SoftLimits, told: list[int]) -> None:
        limits.adopt(record(), group)
        stalls(group, 2000)
        kernel()
        limits.tick()
        assert told == [1]

    run(work, 16 * MIB)


def test_one_that_is_below_is_not(group: Group) -> None:
    def work(limits: SoftLimits, _told: list[int]) -> None:
        limits.adopt(record(), group)
        assert limits._above == {}

    run(work, 15 * MIB)


def test_a_kernel_that_tells_nothing_is_no_error(group: Group) -> None:
    Path(group.directories[""], "memory.pressure").unlink()
    assert run(lambda limits, _told: limits.hear(event(Kind.SOFT), record(), group)) == []


def test_the_kernel_is_asked_for_what_is_too_much(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def reclaim(_group: Group, size: int) -> bool:
        asked.append(size)
        return len(asked) < 3

    monkeypatch.setattr(cgroup_memory, "reclaim", reclaim)
    monkeypatch.setattr(pressure, "path_of", lambda _group: None)

    async def go(action: str) -> None:
        limits = SoftLimits(Events(), lambda _id: MemoryUsage(18 * MIB, 18 * MIB, 1))
        limits.hear(event(Kind.SOFT), record(action), group)
        for _ in range(5):
            found = limits._above["ab" * 32].reclaiming
            if found is not None:
                await found
            limits.tick()
        limits.close()

    for action in ("", "none", "throttle", "reclaim"):
        asyncio.run(go(action))
    # Down to where the crossing is over, which is at 15 MiB; no more when there was less than that.
    assert asked == [2 * MIB, 3 * MIB, 3 * MIB]


@pytest.mark.parametrize(
    ("version", "files", "action", "missing"),
    [
        (1, ["memory.high", "memory.reclaim"], "reclaim", "memory.reclaim"),
        (1, ["memory.high", "memory.reclaim"], "throttle", "memory.high"),
        (2, ["memory.high"], "reclaim", "memory.reclaim"),
        (2, [], "throttle", "memory.high"),
        (2, ["memory.high", "memory.reclaim"], "reclaim", ""),
        (2, ["memory.high"], "throttle", ""),
        (1, [], "none", ""),
        (1, [], "", ""),
    ],
)
def test_what_an_action_needs(tmp_path: Path, version: int, files: list[str], action: str, missing: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    group = Group(Layout(version, {"" if version == 2 else "memory": str(tmp_path)}), "")
    if missing:
        with pytest.raises(NotSupported, match=rf"soft action {action} is not supported .* needs {missing}"):
            soft.check(action, group)
    else:
        soft.check(action, group)
