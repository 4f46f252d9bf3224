"""Pause and unpause, also across kills of the supervisor and of a container that freezes by itself. Runs in guests, on
control groups version 2, as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.attacks.programs import kept
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry.errors import Conflict
from wherry.kernel import cgroup_freezer as freezer
from wherry.kernel import cgroup_trees as trees

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

COUNTING = "echo begun; i=0; while :; do i=$((i+1)); /bin/usleep 1000; done"
SLEEPING = "trap 'exit 7' TERM; echo begun; while :; do /bin/sleep 0.05; done"


def told(supervisor: Supervisor) -> list[str]:
    with supervisor.client.events(since_ns=1, until_ns=time.time_ns()) as events:
        return [event.kind for event in events]


def start(supervisor: Supervisor, script: str = COUNTING, name: str = "job") -> None:
    supervisor.client.start(name, str(supervisor.rootfs), ["/bin/sh", "-c", script])
    wait_until(lambda: "begun" in supervisor.engine("logs", name).stdout)


def cpu_ticks(supervisor: Supervisor, name: str = "job") -> int:
    """Of its first process, which spends some all the time while it runs."""
    pid = supervisor.client.inspect(name)["State"]["Pid"]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])


def state_of(supervisor: Supervisor, name: str = "job") -> str:
    return str(supervisor.client.inspect(name)["State"]["Status"])


def check_paused(supervisor: Supervisor, name: str = "job") -> None:
    assert freezer.is_frozen(supervisor.group(name))
    state = supervisor.client.inspect(name)["State"]
    assert (state["Status"], state["Running"], state["Paused"]) == ("paused", True, True)


def test_a_paused_container_stands_still_and_goes_on(supervisor: Supervisor) -> None:
    start(supervisor)
    assert supervisor.engine("pause", "job").stdout == "job\n"
    check_paused(supervisor)
    assert "paused" in supervisor.engine("ps").stdout
    before = cpu_ticks(supervisor)
    for _ in range(50):
        assert cpu_ticks(supervisor) == before
    with pytest.raises(Conflict, match="job is paused already"):
        supervisor.client.pause("job")
    assert supervisor.engine("unpause", "job").stdout == "job\n"
    assert state_of(supervisor) == "running"
    wait_until(lambda: cpu_ticks(supervisor) > before)
    with pytest.raises(Conflict, match="job is not paused"):
        supervisor.client.unpause("job")
    assert told(supervisor) == ["create", "start", "pause", "unpause"]


def test_only_what_runs_can_be_paused(supervisor: Supervisor) -> None:
    supervisor.client.run("done", str(supervisor.rootfs), ["/bin/true"])
    for command in ("pause", "unpause"):
        refused = supervisor.engine(command, "done", "nobody", check=False)
        assert refused.returncode == 1
        assert "container done is not " in refused.stderr
        assert "no such container: nobody" in refused.stderr
    start(supervisor)
    supervisor.client.pause("job")
    refused = supervisor.engine("start", "job", check=False)
    assert (refused.returncode, '"engine unpause job" lets it go on' in refused.stderr) == (125, True)
    refused = supervisor.engine("rm", "job", check=False)
    assert (refused.returncode, "job is paused" in refused.stderr) == (1, True)


def test_the_next_supervisor_knows_that_it_is_paused(supervisor: Supervisor) -> None:
    start(supervisor)
    supervisor.client.pause("job")
    before = cpu_ticks(supervisor)
    supervisor.kill()
    supervisor.start()
    check_paused(supervisor)
    assert cpu_ticks(supervisor) == before
    supervisor.client.unpause("job")
    wait_until(lambda: cpu_ticks(supervisor) > before)


def test_what_was_frozen_and_not_booked_goes_on(supervisor: Supervisor) -> None:
    """The supervisor was killed in the middle of a pause, or of an unpause."""
    start(supervisor)
    group = supervisor.group("job")
    supervisor.kill()
    freezer.freeze(group)
    supervisor.start()
    assert state_of(supervisor) == "running"
    wait_until(lambda: not freezer.is_wanted(group) and not freezer.is_frozen(group))
    supervisor.client.pause("job")
    supervisor.kill()
    freezer.thaw(group)
    supervisor.start()
    wait_until(lambda: freezer.is_frozen(group))
    check_paused(supervisor)


ENDS: dict[str, tuple[Callable[[Supervisor], object], str, int]] = {
    "stop": (lambda supervisor: supervisor.client.stop("job"), "stopped", 7),
    "stop at once": (lambda supervisor: supervisor.client.stop("job", 0), "stopped", 7),
    "kill": (lambda supervisor: supervisor.client.kill("job"), "signaled", 137),
    "kill with its stop signal": (lambda supervisor: supervisor.client.kill("job", "TERM"), "exited", 7),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("anew", [False, True], ids=["", "after a kill"])
def test_a_paused_container_can_be_ended(supervisor: Supervisor, end: str, anew: bool) -> None:
    start(supervisor, SLEEPING)
    supervisor.client.pause("job")
    if anew:
        supervisor.kill()
        supervisor.start()
    do, reason, code = ENDS[end]
    do(supervisor)
    found = supervisor.client.wait("job")
    (ended,) = supervisor.ps()
    assert (ended["state"], ended["reason"]) == ("exited", reason)
    assert found in ({7, 137} if end == "stop at once" else {code})
    assert told(supervisor)[2:4] == ["pause", "kill"]
    assert told(supervisor)[4] == "unpause"


def test_a_paused_container_can_be_removed(supervisor: Supervisor) -> None:
    start(supervisor, SLEEPING)
    group = supervisor.group("job")
    supervisor.client.pause("job")
    supervisor.client.rm("job", force=True)
    assert supervisor.ps() == []
    wait_until(lambda: not any(os.path.exists(place) for place in group.places))


def test_other_signals_wait_until_it_goes_on(supervisor: Supervisor) -> None:
    start(supervisor, "trap 'exit 9' USR1; echo begun; while :; do /bin/sleep 0.05; done")
    supervisor.client.pause("job")
    supervisor.client.kill("job", "USR1")
    check_paused(supervisor)
    supervisor.client.unpause("job")
    assert supervisor.client.wait("job") == 9


def test_a_change_of_limits_does_not_let_it_go_on(supervisor: Supervisor) -> None:
    """On version 1 a container may be stopped for a moment while its limits change."""
    start(supervisor)
    supervisor.client.pause("job")
    before = cpu_ticks(supervisor)
    supervisor.client.update("job", pids_limit=77, cpus=0.5, nice=5)
    check_paused(supervisor)
    assert cpu_ticks(supervisor) == before
    assert supervisor.group("job").read("pids", "pids.max") == "77"


@pytest.mark.parametrize("depth", [0, 3])
def test_a_container_that_freezes_itself(supervisor: Supervisor, depth: int) -> None:
    """What it has frozen by itself stays frozen over pause and unpause, and it can be stopped."""
    volume = f"{kept('freeze')}:/freeze:ro"
    words = ("-v", volume, "--security-opt", "seccomp=unconfined", "freeze", supervisor.rootfs, "/freeze", str(depth))
    supervisor.engine("start", *words)
    group = supervisor.group("freeze")
    wait_until(lambda: any(map(has_frozen_below, group.places)))
    for _ in range(2):
        supervisor.client.pause("freeze")
        check_paused(supervisor, "freeze")
        supervisor.client.unpause("freeze")
        assert not freezer.is_wanted(group)
    supervisor.client.pause("freeze")
    supervisor.client.stop("freeze", 0.1)
    assert supervisor.ps()[0]["reason"] == "stopped"


def has_frozen_below(place: str) -> bool:
    return any(
        trees.read_at(descriptor, "freezer.self_freezing") == "1" or trees.read_at(descriptor, "cgroup.freeze") == "1"
        for what, descriptor, depth, _ in trees.walk(place)
        if depth and what == trees.ENTER
    )


def test_a_container_cannot_let_itself_go_on(supervisor: Supervisor) -> None:
    """It is frozen above what it could write to: in its own group there is nothing to undo."""
    start(supervisor)
    supervisor.client.pause("job")
    inner = supervisor.group("job").inner
    for place in inner.places:
        for file, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            if os.path.exists(f"{place}/{file}"):
                Path(place, file).write_text(value)
    check_paused(supervisor)
