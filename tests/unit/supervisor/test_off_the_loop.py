"""Case 23: what a container or a client makes take long happens in threads, not on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from wherry.kernel import cgroup_memory, procfs
from wherry.kernel.cgroups import Group, Layout
from wherry.logs import Log, LogOptions
from wherry.memory import Limits, Traits
from wherry.runtime import cgroup_limits
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import Record, State
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.events import Events
from wherry.supervisor.lifecycle import stopping, updating
from wherry.supervisor.memory_watch.memory import MemoryWatch
from wherry.supervisor.processes.children import Child
from wherry.supervisor.records import Records


class Threads:
    """Where a function was called, put in the place of one that would touch the machine."""

    def __init__(self) -> None:
        self.on_loop: list[bool] = []

    def __call__(self, *_: object, **__: object) -> bool:
        self.on_loop.append(threading.current_thread() is threading.main_thread())
        return False


@pytest.fixture
def records(tmp_path: Path) -> Any:
    with contextlib.closing(Records(tmp_path / "records.sqlite")) as opened:
        yield opened


def running() -> Container:
    request = CreateRequest(rootfs="/", command=("/bin/true",), soft_bytes=1 << 30, hard_bytes=1 << 31)
    record = Record(id="0" * 64, name="alpha", request=request, created_ns=1, pid=1, state=State.RUNNING)
    record.enforcer = "cgroup"
    return Container(record, Log(Path("/nowhere/alpha.log"), record.id))


def test_stop_looks_at_a_container_s_threads_in_a_thread(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 23: ``stop`` of 12,000 threads kept all clients waiting for 1.4 s."""
    receives = Threads()
    monkeypatch.setattr(procfs, "receives", receives)

    async def work() -> None:
        container = running()
        stop = asyncio.create_task(stopping.stop(container, records, None, Events()))
        while not receives.on_loop:
            await asyncio.wait({stop}, timeout=0.001)
        container.wake_exit_waiters()
        await stop

    asyncio.run(work())
    assert receives.on_loop == [False]


def test_control_groups_are_updated_in_a_thread(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel walks all threads for a list of CPUs, and reclaims memory to a lower limit before write returns."""
    groups, sizes = Threads(), Threads()
    monkeypatch.setattr(cgroup_limits, "update", groups)
    monkeypatch.setattr(cgroup_memory, "set_limit", sizes)
    updated: list[Limits] = []
    limiter = SimpleNamespace(traits=Traits(is_group=True), update=lambda _id, limits: updated.append(limits))

    async def work() -> None:
        container = running()
        container.child = Child("slot", Group(Layout(1, {"memory": "/nowhere"}), "g"), None)
        memory = MemoryWatch(cast(Any, None), Events(), records)
        memory._watched[container.record.id] = cast(
            Any, SimpleNamespace(limiter=limiter, child=container.child, container=container)
        )
        changes = {"cpuset_cpus": "0", "hard_bytes": (1 << 30) + 4096}
        await updating.update(container, records, memory, changes)
        memory.close()

    asyncio.run(work())
    assert groups.on_loop == [False]
    assert sizes.on_loop == [False]
    assert updated == [Limits(1 << 30, (1 << 30) + 4096)]


def test_the_blocks_of_a_removed_log_are_kept_until_they_are_let_go(tmp_path: Path) -> None:
    """Removing a log of gigabytes takes seconds when its last descriptor is closed, which the caller does."""
    log = Log(tmp_path / "alpha.log", "0" * 64, LogOptions())
    log.create()
    for name in ("alpha.log", "alpha.log.1"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 2 << 20)
    os.truncate(tmp_path / "alpha.log.idx", 1 << 10)
    held = log.hold()
    try:
        log.remove()
        assert list(tmp_path.iterdir()) == []
        assert [(os.fstat(each).st_size, os.fstat(each).st_nlink) for each in held] == [(2 << 20, 0)] * 2
    finally:
        for each in held:
            os.close(each)
