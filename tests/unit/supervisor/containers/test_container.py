"""How the end of a process becomes the end of a container, and limits as control files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.patience import PATIENCE

from wherry.errors import InvalidRequest, NotSupported
from wherry.kernel.cgroups import Group, Layout
from wherry.logs import Log
from wherry.runtime import cgroup_limits
from wherry.runtime.exit_status import ExitStatus
from wherry.runtime.spec import BlockIO, Cpu, Memory, Pids, Resources
from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import Record
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.processes.children import Child


def container() -> Container:
    request = CreateRequest(rootfs="/srv/rootfs", command=("/bin/true",))
    record = Record(id="f" * 64, name="alpha", request=request, created_ns=1)
    return Container(record, Log(Path("/nowhere/alpha.log"), record.id))


def running(child: Child) -> Container:
    made = container()
    states.started(made.record, states.about_to_run(made.record, child.pid))
    made.begin(child)
    return made


def child(pid: int = 12) -> Child:
    made = Child("slot", Group(Layout(1, {}), "wherry/x"), None)
    made.pid = pid
    return made


@pytest.mark.parametrize(
    ("status", "exit_code", "number"),
    [
        (ExitStatus(os.CLD_EXITED, 0), 0, None),
        (ExitStatus(os.CLD_EXITED, 255), 255, None),
        (ExitStatus(os.CLD_EXITED, 137), 137, None),
        (ExitStatus(os.CLD_KILLED, 9), 137, 9),
        (ExitStatus(os.CLD_DUMPED, 11), 139, 11),
        (ExitStatus(os.CLD_KILLED, 64), 192, 64),
    ],
)
def test_exit_codes_as_a_shell_has_them(status: ExitStatus, exit_code: int, number: int | None) -> None:
    assert (status.exit_code, status.signal) == (exit_code, number)


def test_a_run_begins() -> None:
    async def run() -> None:
        made, first = container(), child()
        assert not made.running
        assert made.settled.is_set()
        made = running(first)
        assert made.running
        assert made.child is first
        assert not made.settled.is_set()

    asyncio.run(run())


def test_waiters_are_woken_once() -> None:
    async def run() -> None:
        made = container()
        first, cancelled = made.exit_waiter(), made.exit_waiter()
        cancelled.cancel()
        made.wake_exit_waiters()
        later = made.exit_waiter()
        await first
        assert not later.done()
        made.wake_exit_waiters()
        await later

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_removal_waits_for_who_holds() -> None:
    async def run() -> None:
        made = container()
        await made.wait_until_released()
        made.held = True
        waiting = asyncio.create_task(made.wait_until_released())
        await asyncio.sleep(0)
        assert not waiting.done()
        made.released.set()
        await waiting

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


class Written(dict[str, str]):
    """Control files by ``controller/file``; files that are in it at the start are those this kernel has."""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    files = Written()

    def write(_group: Group, controller: str, file: str, value: str | int) -> None:
        files[f"{controller}/{file}"] = str(value)

    monkeypatch.setattr(Group, "write", write)
    monkeypatch.setattr(Group, "read", lambda _group, controller, file: files.get(f"{controller}/{file}"))
    return files


VERSION1, VERSION2 = Group(Layout(1, {}), "x"), Group(Layout(2, {}), "x")
ALL = Resources(
    memory=Memory(limit=6 << 20, reservation=3 << 20, swap=8 << 20),
    cpu=Cpu(shares=36, quota=50_000, period=100_000),
    pids=Pids(limit=5),
)


def test_limits_of_version_1(written: Written) -> None:
    cgroup_limits.apply(VERSION1, ALL)
    assert written == {
        "memory/memory.limit_in_bytes": str(6 << 20),
        "memory/memory.soft_limit_in_bytes": str(3 << 20),
        "cpu/cpu.shares": "36",
        "cpu/cpu.cfs_quota_us": "50000",
        "pids/pids.max": "5",
    }


@pytest.mark.parametrize(
    ("swap", "together", "alone"), [(8 << 20, 8 << 20, 2 << 20), (6 << 20, 6 << 20, 0), (-1, -1, "max")]
)
def test_swap_is_counted_together_on_version_1_and_alone_on_version_2(
    written: Written, swap: int, together: int, alone: int | str
) -> None:
    written["memory/memory.memsw.limit_in_bytes"] = written["memory/memory.swap.max"] = "max"
    resources = Resources(memory=Memory(limit=6 << 20, swap=swap))
    cgroup_limits.apply(VERSION1, resources)
    cgroup_limits.apply(VERSION2, resources)
    assert written["memory/memory.memsw.limit_in_bytes"] == str(together)
    assert written["memory/memory.swap.max"] == str(alone)


def test_limits_of_version_2(written: Written) -> None:
    cgroup_limits.apply(VERSION2, ALL)
    assert written == {
        "memory/memory.max": str(6 << 20),
        "memory/memory.low": str(3 << 20),
        "cpu/cpu.weight": "8",
        "cpu/cpu.max": "50000 100000",
        "pids/pids.max": "5",
    }


@pytest.mark.parametrize("group", [VERSION1, VERSION2])
def test_no_limits_nothing_written(written: Written, group: Group) -> None:
    cgroup_limits.apply(group, Resources(cpu=Cpu(shares=1024)))
    cgroup_limits.apply(group, Resources())
    assert written == {}


def test_a_nice_value_is_exact_on_version_2(written: Written) -> None:
    cgroup_limits.apply(VERSION2, Resources(cpu=Cpu(shares=36), unified={"cpu.weight.nice": "15"}))
    assert written == {"cpu/cpu.weight.nice": "15"}


def test_an_update_writes_what_differs(written: Written) -> None:
    cgroup_limits.update(VERSION1, ALL, Resources(memory=ALL.memory, cpu=Cpu(shares=335), pids=ALL.pids))
    assert written == {"cpu/cpu.shares": "335", "cpu/cpu.cfs_quota_us": "-1"}
    written.clear()
    cgroup_limits.update(VERSION2, ALL, Resources(cpu=Cpu(shares=335), unified={"cpu.weight.nice": "5"}))
    assert written == {"cpu/cpu.weight.nice": "5", "cpu/cpu.max": "max 100000", "pids/pids.max": "max"}


@pytest.mark.parametrize("group", [VERSION1, VERSION2])
def test_an_update_that_fails_half_way_is_undone(
    written: Written, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup_limits.apply(group, ALL)
    before = dict(written)
    write = Group.write

    def refuse(self: Group, controller: str, file: str, value: str | int) -> None:
        if (file, value) == ("pids.max", "9"):
            raise OSError(22, "Invalid argument", file)
        write(self, controller, file, value)

    monkeypatch.setattr(Group, "write", refuse)
    with pytest.raises(OSError, match="Invalid argument"):
        cgroup_limits.update(group, ALL, Resources(cpu=Cpu(shares=335, quota=7000), pids=Pids(limit=9)))
    assert written == before


@pytest.mark.parametrize(
    ("group", "file", "value"),
    [
        (VERSION1, "blkio/blkio.bfq.weight", "505"),
        (VERSION1, "blkio/blkio.weight", "505"),
        (VERSION2, "io/io.bfq.weight", "505"),
        (VERSION2, "io/io.weight", "5000"),
    ],
)
def test_weights_of_input_and_output(written: Written, group: Group, file: str, value: str) -> None:
    resources = Resources(block_io=BlockIO(weight=505))
    with pytest.raises(NotSupported, match="cannot weigh I/O"):
        cgroup_limits.apply(group, resources)
    written[file] = "100"
    cgroup_limits.apply(group, resources)
    assert written == {file: value}


@pytest.mark.parametrize(("group", "file"), [(VERSION1, "cpuset.effective_cpus"), (VERSION2, "cpuset.cpus.effective")])
def test_cpus_that_are_not_there(written: Written, group: Group, file: str) -> None:
    resources = Resources(cpu=Cpu(cpus="1-2"))
    with pytest.raises(NotSupported, match="no cpuset controller"):
        cgroup_limits.apply(group, resources)
    written[f"cpuset/{file}"] = "0-1,3"
    with pytest.raises(InvalidRequest, match="requested 1-2, available: 0-1,3"):
        cgroup_limits.apply(group, resources)
    written[f"cpuset/{file}"] = "0-3"
    cgroup_limits.apply(group, resources)
    assert written["cpuset/cpuset.cpus"] == "1-2"


def test_other_changes_do_not_ask_for_the_cpus_again(written: Written) -> None:
    """One of them may have been taken offline since; here there is not even a cpuset controller."""
    cgroup_limits.update(VERSION1, Resources(cpu=Cpu(cpus="1-2")), Resources(cpu=Cpu(cpus="1-2", shares=36)))
    assert written == {"cpu/cpu.shares": "36"}


def test_real_time_policies_need_real_time_time(written: Written) -> None:
    cgroup_limits.check_real_time(VERSION1)  # a kernel without groups of real-time processes
    written["cpu/cpu.rt_runtime_us"] = "0"
    with pytest.raises(NotSupported, match="CONFIG_RT_GROUP_SCHED"):
        cgroup_limits.check_real_time(VERSION1)
    written["cpu/cpu.rt_runtime_us"] = "1000"
    cgroup_limits.check_real_time(VERSION1)


def test_high_water_marks(written: Written) -> None:
    assert (
        cgroup_limits.peak_memory(VERSION1),
        cgroup_limits.peak_memory(VERSION2),
        cgroup_limits.peak_pids(VERSION1),
    ) == (None,) * 3
    written |= {"memory/memory.max_usage_in_bytes": "4096", "memory/memory.peak": "8192", "pids/pids.peak": "max"}
    assert (
        cgroup_limits.peak_memory(VERSION1),
        cgroup_limits.peak_memory(VERSION2),
        cgroup_limits.peak_pids(VERSION1),
    ) == (
        4096,
        8192,
        None,
    )
