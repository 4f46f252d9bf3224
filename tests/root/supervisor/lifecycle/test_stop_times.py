"""Case 2: how long stop waits, by who has asked for a time and by what the container does about the signal."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.waiting import wait_until

pytestmark = [pytest.mark.root]

SAVE = "echo begin; while [ ! -e /go/now ]; do usleep 10000; done; echo saved"
IGNORES = f'trap "" TERM; {SAVE}'
DOCKER = shutil.which("docker")
LONG = "600"


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "go").mkdir()
    yield tmp_path / "go/now"
    (tmp_path / "go/now").touch()  # after a failure nobody is to wait for long


def signals(supervisor: Supervisor) -> list[str]:
    """The numbers of those that have been sent to the container."""
    out = supervisor.engine(
        "events", "--since", "1", "--until", "0s", "--filter", "event=kill", "--format", "json"
    ).stdout
    return [line.split('"signal":"')[1].split('"')[0] for line in out.replace('": "', '":"').splitlines()]


def start(supervisor: Supervisor, go: Path, script: str, stop_seconds: int | None = None) -> None:
    volumes = [f"{go.parent}:/go"]
    command = ["/bin/sh", "-c", script]
    supervisor.client.start("c", str(supervisor.rootfs), command, volumes=volumes, stop_seconds=stop_seconds)
    wait_until(lambda: supervisor.engine("logs", "c").stdout == "begin\n")


def wait_and_save(supervisor: Supervisor, go: Path, stopping: subprocess.Popen[str]) -> None:
    """The container is asked, given its time, and says so."""
    wait_until(lambda: signals(supervisor) == ["15"])
    assert supervisor.ps()[0]["state"] == "running"
    go.touch()
    assert stopping.wait(30) == 0
    assert supervisor.engine("logs", "c").stdout == "begin\nsaved\n"
    (ended,) = supervisor.ps()
    assert (ended["reason"], ended["exit_code"], signals(supervisor)) == ("stopped", 0, ["15"])


@pytest.mark.parametrize("script", [IGNORES, SAVE], ids=["ignores it", "has no handler"])
@pytest.mark.parametrize("seconds", [LONG, "-1"])
def test_who_asks_for_a_time_gets_it(supervisor: Supervisor, go: Path, script: str, seconds: str) -> None:
    start(supervisor, go, script)
    with supervisor.popen("stop", "--time", seconds, "c") as stopping:
        wait_and_save(supervisor, go, stopping)


def test_a_time_that_it_was_made_with_counts(supervisor: Supervisor, go: Path) -> None:
    start(supervisor, go, SAVE, stop_seconds=600)
    with supervisor.popen("stop", "c") as stopping:
        wait_and_save(supervisor, go, stopping)


def test_who_ignores_the_signal_gets_the_default_time(supervisor: Supervisor, go: Path) -> None:
    start(supervisor, go, IGNORES)
    with supervisor.popen("stop", "c") as stopping:
        wait_and_save(supervisor, go, stopping)


def test_nobody_waits_for_what_cannot_come(supervisor: Supervisor, go: Path) -> None:
    """No time was asked for, and the kernel drops the signal."""
    start(supervisor, go, SAVE)
    supervisor.engine("stop", "c")
    assert (signals(supervisor), supervisor.ps()[0]["exit_code"]) == (["9"], 137)


def test_a_wait_for_ever_ends_when_somebody_kills(supervisor: Supervisor, go: Path) -> None:
    start(supervisor, go, IGNORES)
    with supervisor.popen("stop", "--time", "-1", "c") as stopping:
        wait_until(lambda: signals(supervisor) == ["15"])
        supervisor.engine("rm", "-f", "c")
        assert stopping.wait(30) == 0
    assert supervisor.ps() == []


def test_a_wait_for_ever_does_not_hold_up_the_end_of_the_supervisor(supervisor: Supervisor, go: Path) -> None:
    """Stopped by the fixture, it must exit with 0: a container is given ten seconds then, whatever it was made with."""
    start(supervisor, go, IGNORES, stop_seconds=-1)


@pytest.mark.docker
@pytest.mark.skipif(DOCKER is None, reason="no docker client")
@pytest.mark.parametrize("made_with", [False, True])
def test_docker_stop(supervisor: Supervisor, go: Path, made_with: bool) -> None:
    start(supervisor, go, SAVE, stop_seconds=600 if made_with else None)
    words = ["stop", "c"] if made_with else ["stop", "-t", LONG, "c"]
    command = [str(DOCKER), "-H", f"unix://{supervisor.socket}", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True) as stopping:
        wait_and_save(supervisor, go, stopping)


@pytest.mark.docker
@pytest.mark.skipif(DOCKER is None, reason="no docker client")
def test_docker_stop_without_a_time(supervisor: Supervisor, go: Path) -> None:
    start(supervisor, go, SAVE)
    subprocess.run([str(DOCKER), "-H", f"unix://{supervisor.socket}", "stop", "c"], check=True, timeout=60)
    assert (signals(supervisor), supervisor.ps()[0]["exit_code"]) == (["9"], 137)
