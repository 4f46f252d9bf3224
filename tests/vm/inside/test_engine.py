"""A supervisor with the kernel module as its memory enforcer, on control groups version 2."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Supervisor, Traces, wait_until
from tests.vm.inside.watched import MIB, kernel_log

from conftest import leftovers, rootfs

__all__ = ["leftovers", "rootfs"]


@pytest.fixture
def engine(module: None, tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Supervisor]:  # noqa: ARG001
    """``auto`` must choose the module, which passes its self-test."""
    with Supervisor(tmp_path, rootfs, leftovers).serving() as supervisor:
        info = supervisor.info()
        assert (info["enforcer"], info["cgroup_version"]) == ("kmod", 2)
        yield supervisor


def ended(engine: Supervisor, name: str) -> tuple[str, int]:
    wait_until(lambda: engine.client.inspect(name)["State"]["Status"] == "exited", 40)
    found = engine.client.inspect(name)
    return found["Wherry"]["Reason"], found["State"]["ExitCode"]


def test_the_readme_s_memory_tour(engine: Supervisor, rootfs: Path) -> None:
    events = engine.client.events()
    limits = ("--soft-mib", "3", "--hard-mib", "6")
    engine.engine("start", "memtest", rootfs, "/memory_hog", "1", "500", *limits)
    kinds = []
    for event in events:
        kinds.append(event.kind)
        if event.kind == "die":
            break
    assert [kind for kind in kinds if kind in ("soft-limit", "hard-limit", "die")] == [
        "soft-limit",
        "hard-limit",
        "die",
    ]
    assert ended(engine, "memtest") == ("hard_limit", 137)
    assert "exited (hard limit)" in engine.engine("ps").stdout
    lines = [line.partition("container_monitor: ")[2] for line in kernel_log() if " id=memtest " in line]
    assert [line.split()[0] for line in lines] == ["SOFT", "HARD"]
    assert f"limit={3 * MIB}" in lines[0]
    assert f"limit={6 * MIB}" in lines[1]


def test_each_end_is_booked_as_what_it_is(engine: Supervisor, rootfs: Path) -> None:
    limits = ("--soft-mib", "32", "--hard-mib", "64")
    for name, command in (("outside", "sleep 60"), ("stopped", "sleep 60"), ("itself", "exit 137")):
        engine.engine("start", name, rootfs, "/bin/sh", "-c", command, *limits)
    pid = engine.client.inspect("outside")["State"]["Pid"]
    subprocess.run(["kill", "-9", str(pid)], check=True)
    engine.engine("stop", "stopped")
    assert ended(engine, "outside") == ("signaled", 137)
    assert ended(engine, "stopped") == ("stopped", 137)
    assert ended(engine, "itself") == ("exited", 137)


def test_limits_hold_while_no_supervisor_lives(engine: Supervisor, rootfs: Path) -> None:
    for name, hard in (("dies", "24"), ("lives", "512")):
        limits = ("--soft-mib", "4", "--hard-mib", hard)
        engine.engine("start", name, rootfs, "/memory_hog", "1", "100", "48", *limits)
    pid = engine.client.inspect("dies")["State"]["Pid"]
    engine.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 40)
    engine.restart()
    assert engine.info()["enforcer"] == "kmod"
    assert ended(engine, "dies") == ("hard_limit", 137)
    assert ended(engine, "lives") == ("exited", 0)


def test_control_files_of_version_2(engine: Supervisor, rootfs: Path) -> None:
    options = ("--memory", "64m", "--pids-limit", "50", "--cpus", "0.5", "--nice", "10")
    engine.engine("start", "limited", rootfs, "/bin/sleep", "60", *options)
    wanted = {"memory.max": str(64 * MIB), "pids.max": "50", "cpu.max": "50000 100000"}
    for file, value in wanted.items():
        assert engine.control_file("limited", "", file, file) == value
    assert int(engine.control_file("limited", "", "cpu.weight", "cpu.weight")) < 100
    engine.engine("stop", "limited")
    assert ended(engine, "limited") == ("stopped", 137)


def test_the_controller_s_own_kill(engine: Supervisor, rootfs: Path) -> None:
    engine.engine("start", "oom", rootfs, "/memory_hog", "4", "10", "--memory", "24m")
    assert ended(engine, "oom") == ("oom", 137)
    assert engine.client.inspect("oom")["State"]["OOMKilled"] is True
