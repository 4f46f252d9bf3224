"""Restart policies on a machine: real ends, real kills of supervisors, and docker's client."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest
from tests.exploring import IS_CHAOS
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry import Conflict, InvalidRequest

pytestmark = pytest.mark.root

KILLS = 200 if IS_CHAOS else 4
COUNT_RUNS = "echo run >>/v/runs; [ -e /v/stay ] && exec sleep 1000; exit 3"


def restarts_of(supervisor: Supervisor, name: str) -> int:
    count: int = supervisor.client.inspect(name)["RestartCount"]
    return count


def test_kills_of_supervisors_lose_no_restart_and_count_none_twice(
    supervisor: Supervisor, rootfs: Path, tmp_path: Path
) -> None:
    """Each run of the command leaves a line, whoever started it."""
    (shared := tmp_path / "v").mkdir()
    names = ["a", "b", "c"]
    for name in names:
        (shared / name).mkdir()
        script, volumes = ["/bin/sh", "-c", COUNT_RUNS], [f"{shared}/{name}:/v"]
        supervisor.client.start(name, str(rootfs), script, volumes=volumes, restart="on-failure")
    chance = random.Random(1)
    for _ in range(KILLS):
        time.sleep(chance.uniform(0, 0.3))  # nothing is expected to have happened by then
        supervisor.kill()
        supervisor.restart()
    for name in names:
        (shared / name / "stay").touch()
        wait_until(lambda name=name: _stays(supervisor, name))  # type: ignore[misc]
        runs = (shared / name / "runs").read_text().count("\n")
        assert runs == restarts_of(supervisor, name) + 1 > 1
    supervisor.client.stop("a", 0)
    assert {entry["name"]: entry["state"] for entry in supervisor.ps()}["a"] == "exited"


def _stays(supervisor: Supervisor, name: str) -> bool:
    pid = next(entry["pid"] for entry in supervisor.ps() if entry["name"] == name)
    return bool(pid) and Path(f"/proc/{pid}/comm").read_text() == "sleep\n"


@pytest.mark.docker
def test_docker_sets_policies_and_shows_what_they_do(supervisor: Supervisor, rootfs: Path) -> None:
    docker = [shutil.which("docker") or "docker", "-H", f"unix://{supervisor.socket}"]
    supervisor.client.start("c", str(rootfs), ["/bin/false"], restart="on-failure:4000")
    wait_until(lambda: restarts_of(supervisor, "c") >= 4)
    wait_until(lambda: "Restarting (1) " in supervisor.command(*docker, "ps", "--format", "{{.Status}}"))
    shown = supervisor.command(*docker, "inspect", "-f", "{{json .HostConfig.RestartPolicy}} {{.State.Status}}", "c")
    policy, state = shown.rsplit(maxsplit=1)
    assert json.loads(policy) == {"Name": "on-failure", "MaximumRetryCount": 4000}
    assert state in ("restarting", "running")
    supervisor.command(*docker, "stop", "c")
    assert [(entry["state"], entry["exit_code"]) for entry in supervisor.ps()] == [("exited", 1)]
    supervisor.command(*docker, "update", "--restart", "no", "c")
    supervisor.engine("start", "c")
    assert supervisor.client.wait("c") == 1
    assert restarts_of(supervisor, "c") == 0


def test_the_command_line(supervisor: Supervisor, rootfs: Path) -> None:
    """What it refuses leaves nothing; what it starts again is seen in ps, and in the logs of all runs."""
    wrong = supervisor.engine("start", "--restart", "often", "c", rootfs, "/bin/true", check=False)
    assert (wrong.returncode, supervisor.ps()) == (125, [])
    assert "'often' is not no, on-failure[:N], always or unless-stopped" in wrong.stderr
    both = supervisor.engine("run", "--rm", "--restart", "always", "c", rootfs, "/bin/true", check=False)
    assert (both.returncode, supervisor.ps()) == (125, [])
    assert "a container that is removed when it ends cannot have a restart policy" in both.stderr
    run = supervisor.engine("run", "--restart", "always", "c", rootfs, "/bin/echo", "hello")
    assert (run.returncode, run.stdout) == (0, "hello\n")
    wait_until(lambda: "restarting (0)" in supervisor.engine("ps").stdout)
    wait_until(lambda: supervisor.engine("logs", "c").stdout.count("hello\n") >= 3)
    with pytest.raises(Conflict, match=r"is r(estarting|unning); stop it first"):
        supervisor.client.rm("c")
    supervisor.engine("rm", "-f", "c")
    with pytest.raises(InvalidRequest, match=r"restart: expected .*, not 'sometimes'"):
        supervisor.client.start("c", str(rootfs), ["/bin/true"], restart="sometimes")
    wait_until(lambda: supervisor.remains() == [])


def test_a_shutdown_stops_and_the_next_supervisor_starts(supervisor: Supervisor, rootfs: Path) -> None:
    for policy in ("always", "unless-stopped", "on-failure"):
        supervisor.client.start(policy, str(rootfs), ["/bin/sleep", "1000"], restart=policy)
    supervisor.client.start("stopped", str(rootfs), ["/bin/sleep", "1000"], restart="unless-stopped")
    supervisor.client.stop("stopped", 0)
    supervisor.stop()
    supervisor.start()
    expected = {"always": "running", "unless-stopped": "running", "on-failure": "exited", "stopped": "exited"}
    wait_until(lambda: {entry["name"]: entry["state"] for entry in supervisor.ps()} == expected)


def test_what_crosses_its_memory_limit_is_started_again_and_held_to_it(supervisor: Supervisor, rootfs: Path) -> None:
    """Each run is armed anew."""
    command = ["/memory_hog", "64", "0"]
    supervisor.client.start("hog", str(rootfs), command, hard_mib=16, restart="on-failure:2")
    wait_until(lambda: {entry["state"] for entry in supervisor.ps()} == {"exited"})
    (entry,) = supervisor.ps()
    assert (entry["reason"], entry["exit_code"], restarts_of(supervisor, "hog")) == ("hard_limit", 137, 2)
