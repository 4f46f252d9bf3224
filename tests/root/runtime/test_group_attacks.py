"""What a container can do about its control groups, by the programs of tests/attacks; and that each of these attacks
succeeds where the defence is taken out. Also run in guests, on control groups version 2.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.attacks.programs import kept
from tests.root.harness import Supervisor, Traces, Word, end_group
from tests.root.patched import Patched, Weaken
from tests.waiting import wait_until

from wherry.errors import NotKilled
from wherry.kernel import cgroup_trees as trees
from wherry.kernel import cgroups

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

ENFORCERS = os.environ.get("WHERRY_ENFORCERS", "bpf cgroup").split()
VERSION = cgroups.detect().version
LAST_CPU = (os.cpu_count() or 1) - 1
only_version1 = pytest.mark.skipif(VERSION == 2, reason="version 2 kills what is frozen")


@pytest.fixture(params=ENFORCERS)
def enforced(tmp_path: Path, rootfs: Path, leftovers: Traces, request: pytest.FixtureRequest) -> Iterator[Supervisor]:
    with Supervisor(tmp_path, rootfs, leftovers, "--memory-enforcer", request.param).serving() as instance:
        yield instance


def with_program(name: str) -> tuple[Word, ...]:
    """Without the seccomp filter, which keeps containers from making user namespaces: all this must hold without."""
    return ("-v", f"{kept(name)}:/{name}:ro", "--security-opt", "seccomp=unconfined")


def attack(
    supervisor: Supervisor, name: str, *words: Word, options: tuple[Word, ...] = (), until: str
) -> cgroups.Group:
    """Start one as a container of its own name; returns the group that holds it, when it has said ``until``."""
    supervisor.engine("start", *with_program(name), *options, name, supervisor.rootfs, f"/{name}", *words)
    group = supervisor.group(name)
    wait_until(lambda: until in supervisor.engine("logs", name).stdout)
    return group


def is_gone(group: cgroups.Group) -> bool:
    return not any(os.path.exists(directory) for directory in group.places)


def frozen(supervisor: Supervisor, *words: Word, options: tuple[Word, ...] = ()) -> cgroups.Group:
    """A container that has frozen itself, or part of itself."""
    group = attack(supervisor, "freeze", *words, options=options, until="freezing")
    wait_until(lambda: any(map(has_frozen, group.places)))
    return group


def has_frozen(directory: str) -> bool:
    return any(
        trees.read_at(descriptor, "freezer.state") == "FROZEN"
        or "frozen 1" in (trees.read_at(descriptor, "cgroup.events") or "")
        for _, descriptor, _, _ in trees.walk(directory)
    )


def forks(supervisor: Supervisor) -> int:
    found = re.search(r"^forks (\d+)$", supervisor.engine("logs", "escape").stdout, re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.attack("limits-lifted", "blocked")
@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("limit", ["--hard-mib", "--memory"])
def test_limits_of_memory_and_processes_hold(enforced: Supervisor, depth: int, limit: str) -> None:
    """Case 19: a container takes all limits away that it can see, and gets no more for it."""
    options = (*with_program("escape"), limit, {"--hard-mib": "64", "--memory": "64m"}[limit], "--pids-limit", "10")
    done = enforced.engine("run", *options, "escape", enforced.rootfs, "/escape", str(depth), check=False)
    assert done.returncode == 137
    assert "touched" not in done.stdout
    assert f"depth {depth}" in done.stdout
    assert forks(enforced) < 10
    (ended,) = enforced.ps()
    assert ended["reason"] == {"--hard-mib": "hard_limit", "--memory": "oom"}[limit]


@pytest.mark.parametrize("depth", [0, 3])
def test_limits_of_the_cpu_hold_and_are_changed(supervisor: Supervisor, depth: int) -> None:
    """Cases 19 and 21: groups of its own making change nothing, and do not keep anybody from changing its limits."""
    options = ("--cpus", "0.5", "--cpuset-cpus", "0", "--pids-limit", "10")
    group = attack(supervisor, "escape", str(depth), options=options, until="touched")
    assert group.read("pids", "pids.max") == "10"
    files = {1: ("cpu.cfs_quota_us", "50000", "25000"), 2: ("cpu.max", "50000 100000", "25000 100000")}
    file, before, after = files[VERSION]
    assert group.read("cpu", file) == before
    pids = trees.processes(group.places)
    assert len(pids) > 5
    assert {frozenset(os.sched_getaffinity(pid)) for pid in pids} == {frozenset({0})}
    for cpus in (f"0-{LAST_CPU}", str(LAST_CPU), "0"):
        supervisor.engine("update", "--cpuset-cpus", cpus, "escape")
        wanted = frozenset(range(LAST_CPU + 1)) if "-" in cpus else frozenset({int(cpus)})
        assert {frozenset(os.sched_getaffinity(pid)) for pid in pids} == {wanted}
    supervisor.engine("update", "--cpus", "0.25", "--nice", "7", "--pids-limit", "20", "escape")
    assert group.read("cpu", file) == after
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in trees.threads(group.places)} == {7}
    supervisor.engine("rm", "-f", "escape")
    assert is_gone(group)


@pytest.mark.attack("frozen", "blocked")
@pytest.mark.parametrize("depth", [0, 5])
@pytest.mark.parametrize("way", ["stop", "kill", "rm", "shutdown"])
def test_what_freezes_itself_ends(supervisor: Supervisor, depth: int, way: str) -> None:
    """Case 20: also when it does so in nested groups, and again whenever it has been thawed."""
    group = frozen(supervisor, str(depth))
    began = time.monotonic()
    if way == "stop":
        supervisor.engine("stop", "-t", "0", "freeze")
    elif way == "kill":
        supervisor.engine("kill", "freeze")
        supervisor.client.wait("freeze")
    elif way == "rm":
        supervisor.engine("rm", "-f", "freeze")
    else:
        assert supervisor.process is not None
        supervisor.process.send_signal(signal.SIGTERM)
        assert supervisor.process.wait(60) == 0
    print(f"{way} took {time.monotonic() - began:.2f} s")
    if way == "shutdown":
        assert is_gone(group)
        supervisor.kill()
    else:
        wait_until(lambda: is_gone(group))
        assert [entry["state"] for entry in supervisor.ps()] == ["exited"] * (way != "rm")


def test_a_hard_limit_ends_what_is_frozen(enforced: Supervisor) -> None:
    """Case 20: the process that crosses it is not the one that has to be thawed."""
    options = (*with_program("freeze"), "--hard-mib", "64")
    done = enforced.engine("run", *options, "freeze", enforced.rootfs, "/freeze", "1", "grow", check=False)
    assert done.returncode == 137
    assert enforced.ps()[0]["reason"] == "hard_limit"


@pytest.mark.attack("groups-left", "blocked")
@pytest.mark.parametrize("depth", [0, 40])
def test_groups_of_its_own_making_go_with_it(supervisor: Supervisor, depth: int) -> None:
    """Case 21: whatever they are called, also when their path is longer than any path may be."""
    group = attack(supervisor, "litter", str(depth), until="made")
    made = int(supervisor.engine("logs", "litter").stdout.split()[1])
    if VERSION == 2:
        assert made <= 21 + cgroups.NESTED_DEPTH
    else:
        assert made > 100
    assert len(trees.processes(group.places)) > 1
    supervisor.engine("update", "--nice", "3", "litter")
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in trees.threads(group.places)} == {3}
    supervisor.engine("stop", "-t", "0", "litter")
    wait_until(lambda: is_gone(group))


def test_the_next_supervisor_sweeps_nested_groups(supervisor: Supervisor) -> None:
    """Cases 20 and 21: when supervisor and shim have been killed, frozen and hidden processes too."""
    groups = [attack(supervisor, "litter", "40", until="made"), frozen(supervisor, "5")]
    shim = supervisor.info()["shim_pid"]
    supervisor.kill()
    os.kill(shim, signal.SIGKILL)
    supervisor.restart()
    assert {entry["reason"] for entry in supervisor.ps()} == {"lost"}
    assert all(map(is_gone, groups))


@pytest.mark.host_variant
@only_version1
def test_a_container_goes_on_that_was_frozen_for_a_change_of_its_limits(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 19: the supervisor was killed in the middle of that."""
    supervisor.client.start("c", str(rootfs), ["/bin/sh", "-c", "while :; do echo x; sleep 0.1; done"])
    group = supervisor.group("c")
    group.write("freezer", "freezer.state", "FROZEN")
    wait_until(lambda: group.read("freezer", "freezer.state") == "FROZEN")
    supervisor.kill()
    supervisor.restart()
    assert group.read("freezer", "freezer.state") == "THAWED"


@pytest.mark.host_variant
@only_version1
def test_the_next_supervisor_goes_on_killing(supervisor: Supervisor) -> None:
    """Case 20: a supervisor that is killed in the middle of ending a frozen container."""
    group = frozen(supervisor, "2")
    supervisor.engine("kill", "freeze")
    supervisor.kill()
    supervisor.restart()
    supervisor.client.wait("freeze")
    wait_until(lambda: is_gone(group))


ONE_LEVEL = "from wherry.kernel import cgroups\ncgroups.Group.inner = property(lambda self: self)"


@pytest.mark.attack("limits-lifted", "undefended")
def test_with_one_level_of_groups_it_escapes(weaken: Weaken) -> None:
    """Case 19, without the defence."""
    with weaken(ONE_LEVEL) as supervisor:
        attack(supervisor, "escape", options=("--memory", "64m", "--pids-limit", "10"), until="touched 200 MiB")
        assert forks(supervisor) == 40


def test_containers_of_the_version_before_are_taken_over(weaken: Weaken, rootfs: Path) -> None:
    """Case 19: their processes are in the group itself. They are changed, stopped and cleared up as ever."""
    with weaken(f"{ONE_LEVEL}\ncgroups.Group.create_for_container = cgroups.Group.create") as supervisor:
        for name in ("stopped", "lost"):
            supervisor.client.start(name, str(rootfs), ["/bin/sleep", "1000"], hard_mib=64)
        groups = {name: supervisor.group(name) for name in ("stopped", "lost")}
        assert all(group.processes() and not os.path.exists(group.inner.places[0]) for group in groups.values())
        supervisor.kill()
        assert isinstance(supervisor, Patched)
        supervisor.prelude = ""
        supervisor.restart()
        supervisor.client.update("stopped", nice=5, cpuset_cpus=str(LAST_CPU), hard_mib=48)
        (pid,) = groups["stopped"].processes()
        assert (os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid)) == (5, {LAST_CPU})
        supervisor.client.stop("stopped")
        wait_until(lambda: is_gone(groups["stopped"]))
        shim = supervisor.info()["shim_pid"]
        supervisor.kill()
        os.kill(shim, signal.SIGKILL)
        supervisor.restart()
        assert is_gone(groups["lost"])


@pytest.mark.attack("frozen", "undefended")
@pytest.mark.host_variant
@only_version1
def test_without_thawing_it_lives_on(weaken: Weaken) -> None:
    """Case 20, without the defence; and case 4: it is told what remains."""
    patch = "from wherry.kernel import cgroup_trees\ncgroup_trees.thaw = lambda _: None"
    with weaken(f"{patch}\nfrom wherry.supervisor.lifecycle import killing\nkilling.KILL_SECONDS = 0.5") as supervisor:
        group = frozen(supervisor, "2")
        with pytest.raises(NotKilled, match=r"pid \d+ \('freeze'\) is in state D .*frozen by its control group"):
            supervisor.client.stop("freeze", 0)
        while not is_gone(group):
            trees.thaw(group.places)


@pytest.mark.attack("groups-left", "undefended")
def test_without_walking_its_groups_they_stay(weaken: Weaken) -> None:
    """Case 21, without the defence."""
    patch = "from wherry.kernel import cgroup_trees\ncgroup_trees._below = lambda _: []"
    with weaken(patch) as supervisor:
        group = attack(supervisor, "litter", until="made")
        supervisor.engine("stop", "-t", "0", "litter")
        wait_until(lambda: supervisor.ps()[0]["state"] == "exited")
        wait_until(lambda: "still busy" in supervisor.log.read_text())
        assert not is_gone(group)
        wait_until(lambda: end_group(group))
