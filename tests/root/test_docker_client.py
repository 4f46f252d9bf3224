"""The docker command against our socket (docker client 20.10 to 28)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import Supervisor

DOCKER = shutil.which("docker")
pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.skipif(DOCKER is None, reason="no docker client")]


def docker(supervisor: Supervisor, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(DOCKER), "-H", f"unix://{supervisor.socket}", *words]
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=30)


def test_ps_logs_stop_inspect_rm(supervisor: Supervisor, rootfs: Path) -> None:
    script = "echo out; echo err >&2; sleep 1000"
    supervisor.client.start("web", str(rootfs), ["/bin/sh", "-c", script], memory=64 << 20)
    supervisor.client.run("done", str(rootfs), ["/bin/sh", "-c", "exit 3"])
    listing = docker(supervisor, "ps", "-a", "--format", "{{.Names}} {{.Status}}").stdout
    assert "web Up" in listing
    assert "done Exited (3)" in listing
    assert docker(supervisor, "ps", "-q").stdout.count("\n") == 1
    inspected = json.loads(docker(supervisor, "inspect", "web").stdout)[0]
    assert inspected["State"]["Running"] is True
    assert inspected["HostConfig"]["Memory"] == 64 << 20
    docker(supervisor, "stop", "web")
    logs = docker(supervisor, "logs", "-f", "web")
    assert (logs.stdout, logs.stderr) == ("out\n", "err\n")
    docker(supervisor, "rm", "web", "done")
    assert docker(supervisor, "ps", "-aq").stdout == ""


def test_kill_wait_start_version_info(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.start("job", str(rootfs), ["/bin/sleep", "1000"])
    docker(supervisor, "kill", "job")
    assert docker(supervisor, "wait", "job").stdout.strip() == "137"
    docker(supervisor, "start", "job")
    docker(supervisor, "rm", "-f", "job")
    assert "wherry" in docker(supervisor, "version").stdout.lower()
    assert "Containers: 0" in docker(supervisor, "info").stdout
    missing = docker(supervisor, "inspect", "job", check=False)
    assert missing.returncode == 1
    assert "No such" in missing.stderr
