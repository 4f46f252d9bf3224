"""CPU and I/O options of a container: what the control group and its processes have, and changes while it runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry.errors import InvalidRequest, NotFound
from wherry.kernel import cgroups

pytestmark = pytest.mark.root

VERSION = cgroups.detect().version
TREE = "sh -c 'sleep 1000 & sleep 1000 & wait' & sleep 1000"
"""Four processes: the first becomes a sleep; a shell below it waits for two."""


def weight(supervisor: Supervisor, name: str) -> str:
    return supervisor.control_file(name, "cpu", "cpu.shares", "cpu.weight")


def processes(supervisor: Supervisor, name: str) -> list[int]:
    return supervisor.group(name).inner.processes()


def nice_values(supervisor: Supervisor, name: str) -> list[int]:
    return [os.getpriority(os.PRIO_PROCESS, pid) for pid in processes(supervisor, name)]


def start_tree(supervisor: Supervisor, rootfs: Path, *options: str) -> None:
    supervisor.engine("start", *options, "c", rootfs, "/bin/sh", "-c", TREE)
    wait_until(lambda: len(processes(supervisor, "c")) == 4)


def test_options_reach_the_control_group(supervisor: Supervisor, rootfs: Path) -> None:
    options = ("--cpu-shares", "2048", "--cpuset-cpus", "0", "--io-weight", "200", "--sched-policy", "batch")
    start_tree(supervisor, rootfs, *options)
    assert weight(supervisor, "c") == {1: "2048", 2: "174"}[VERSION]
    assert supervisor.control_file("c", "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    pids = processes(supervisor, "c")
    assert {os.sched_getscheduler(pid) for pid in pids} == {os.SCHED_BATCH}
    assert all(os.sched_getaffinity(pid) == {0} for pid in pids)
    config = supervisor.client.inspect("c")["HostConfig"]
    assert (config["CpuShares"], config["CpusetCpus"], config["BlkioWeight"]) == (2048, "0", 200)


def test_policy_idle_is_the_whole_containers(supervisor: Supervisor, rootfs: Path) -> None:
    start_tree(supervisor, rootfs, "--sched-policy", "idle")
    assert {os.sched_getscheduler(pid) for pid in processes(supervisor, "c")} == {os.SCHED_IDLE}
    assert supervisor.control_file("c", "cpu", "cpu.idle", "cpu.idle") == "1"
    done = supervisor.engine("update", "--nice", "5", "c", check=False)
    assert (done.returncode, "contradict" in done.stderr) == (1, True)


def test_real_time_policies_are_had_or_refused(supervisor: Supervisor, rootfs: Path) -> None:
    """A kernel with CONFIG_RT_GROUP_SCHED gives new groups no real-time time."""
    groups = Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists()
    script = "cut -d' ' -f40-41 /proc/self/stat"
    done = supervisor.engine("run", "--sched-policy", "rr:7", "c", rootfs, "/bin/sh", "-c", script, check=False)
    if groups:
        assert done.returncode == 125
        assert "CONFIG_RT_GROUP_SCHED" in done.stderr
        assert supervisor.ps() == []
    else:
        assert done.stdout == "7 2\n"


def test_nice_is_changed_while_it_runs(supervisor: Supervisor, rootfs: Path) -> None:
    start_tree(supervisor, rootfs, "--nice", "3")
    assert nice_values(supervisor, "c") == [3] * 4
    if VERSION == 1:
        assert weight(supervisor, "c") == "526"
    assert supervisor.engine("update", "--nice", "15", "c").stdout == "c\n"
    assert nice_values(supervisor, "c") == [15] * 4
    if VERSION == 1:
        assert weight(supervisor, "c") == "36"
    else:
        assert supervisor.control_file("c", "cpu", "", "cpu.weight.nice") == "15"
    assert supervisor.ps()[0]["nice"] == 15
    supervisor.client.update("c", nice=0)
    assert nice_values(supervisor, "c") == [0] * 4
    assert weight(supervisor, "c") == {1: "1024", 2: "100"}[VERSION]


def test_quota_and_cpus_are_changed_while_it_runs(supervisor: Supervisor, rootfs: Path) -> None:
    start_tree(supervisor, rootfs, "--pids-limit", "100")
    quota = {1: "cpu.cfs_quota_us", 2: "cpu.max"}[VERSION]
    supervisor.engine("update", "--cpus", "0.25", "--cpuset-cpus", "0", "--pids-limit", "50", "c")
    assert supervisor.control_file("c", "cpu", quota, quota) in {"25000", "25000 100000"}
    assert all(os.sched_getaffinity(pid) == {0} for pid in processes(supervisor, "c"))
    supervisor.engine("update", "--cpus", "0", "--pids-limit", "-1", "c")
    assert supervisor.control_file("c", "cpu", quota, quota) in {"-1", "max 100000"}
    assert supervisor.control_file("c", "pids", "pids.max", "pids.max") == "max"
    events = supervisor.client.events(since_ns=1, until_ns=time.time_ns(), filters={"event": "update"})
    assert [event.attributes["cpus"] for event in events] == ["0.25", "unlimited"]


def test_what_was_changed_holds_for_the_next_supervisor(supervisor: Supervisor, rootfs: Path) -> None:
    start_tree(supervisor, rootfs)
    supervisor.client.update("c", nice=7)
    supervisor.kill()
    supervisor.start()
    assert supervisor.ps()[0]["nice"] == 7
    assert nice_values(supervisor, "c") == [7] * 4
    supervisor.client.update("c", nice=8)
    assert nice_values(supervisor, "c") == [8] * 4


def test_a_change_that_cannot_be_made_changes_nothing(supervisor: Supervisor, rootfs: Path) -> None:
    start_tree(supervisor, rootfs, "--nice", "3")
    before = weight(supervisor, "c")
    with pytest.raises(InvalidRequest, match="requested CPUs are not available: requested 0,4000, available: 0"):
        supervisor.client.update("c", nice=5, cpuset_cpus="0,4000")
    assert (weight(supervisor, "c"), nice_values(supervisor, "c")) == (before, [3] * 4)
    assert supervisor.ps()[0]["nice"] == 3
    with pytest.raises(NotFound):
        supervisor.client.update("nope", nice=5)


def test_cpus_that_are_not_there_start_nothing(supervisor: Supervisor, rootfs: Path) -> None:
    done = supervisor.engine("run", "--cpuset-cpus", "4000", "c", rootfs, "/bin/true", check=False)
    assert done.returncode == 125
    assert "requested CPUs are not available: requested 4000" in done.stderr
    assert supervisor.ps() == []


def test_throttling_is_counted(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.engine("start", "--cpus", "0.1", "c", rootfs, "/cpu_hog", "1000")

    def throttled() -> bool:
        found = supervisor.client.stats("c")["cpu_stats"]["throttling_data"]
        return bool(0 < found["throttled_periods"] <= found["periods"] and found["throttled_time"] > 0)

    wait_until(throttled)
