"""SIGKILL of the supervisor: containers notice nothing, the next supervisor misses nothing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import Supervisor
from tests.waiting import wait_until

pytestmark = pytest.mark.root

COUNTER = "i=0; while :; do i=$((i+1)); echo $i; [ $((i % 50)) = 0 ] && sleep 0.02; done"


def test_twenty_containers_survive(supervisor: Supervisor, rootfs: Path) -> None:
    for number in range(20):
        ends = number % 4 == 3
        script = (
            f"sleep 0.3; echo late; exit {number}"
            if ends
            else "trap 'exit 42' TERM; echo up; while :; do sleep 0.01; done"
        )
        supervisor.client.start(f"c{number}", str(rootfs), ["/bin/sh", "-c", script])
    before = {entry["name"]: entry["pid"] for entry in supervisor.ps()}
    supervisor.kill()
    wait_until(lambda: not any(_alive(before[f"c{number}"]) for number in range(3, 20, 4)))
    supervisor.restart()
    entries = {entry["name"]: entry for entry in supervisor.ps()}
    for number in range(20):
        entry = entries[f"c{number}"]
        if number % 4 == 3:
            assert (entry["state"], entry["reason"], entry["exit_code"]) == ("exited", "exited", number)
            assert supervisor.engine("logs", "-f", f"c{number}").stdout == "late\n"
        else:
            assert (entry["state"], entry["pid"]) == ("running", before[f"c{number}"])
    for name in ("c0", "c1"):  # which have their traps set then
        wait_until(lambda name=name: supervisor.engine("logs", name).stdout == "up\n")  # type: ignore[misc]
    with supervisor.popen("logs", "-f", "c0") as follower:
        supervisor.engine("stop", "c0", "c1")
        assert follower.communicate(timeout=PATIENCE)[0] == "up\n"
    assert [supervisor.client.wait(name) for name in ("c0", "c1")] == [42, 42]


def _alive(pid: int) -> bool:
    """Whether the process still runs; a zombie does not (its parent, the shim, reaps it)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_output_is_whole_across_ten_kills(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.start("counter", str(rootfs), ["/bin/sh", "-c", COUNTER])
    log = supervisor.state_dir / "logs/counter.log"
    chance = random.Random(7)
    for _ in range(10):
        size = log.stat().st_size
        wait_until(lambda size=size: log.stat().st_size > size + chance.randrange(2000))  # type: ignore[misc]
        supervisor.kill()
        supervisor.restart()
    supervisor.engine("stop", "counter")
    lines = supervisor.engine("logs", "counter").stdout.split("\n")
    numbers = [int(line) for line in lines[:-1]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 100


def test_killed_in_the_middle_of_starts(supervisor: Supervisor, rootfs: Path) -> None:
    """Whatever instant it is killed at, the next supervisor knows each container as what it is and can remove it."""
    chance = random.Random(11)
    for attempt in range(8):
        clients = [
            supervisor.popen("start", "--hard-mib", "64", f"s{attempt}x{number}", rootfs, "/bin/sleep", "1000")
            for number in range(4)
        ]
        delay = chance.uniform(0.03, 0.12)
        signal.sigtimedwait([], delay)
        supervisor.kill()
        for client in clients:
            client.communicate(timeout=PATIENCE)
        supervisor.restart()
        for entry in supervisor.ps():
            if entry["state"] == "running":
                assert _alive(entry["pid"])
                assert os.readlink(f"/proc/{entry['pid']}/exe") == "/bin/busybox"
        names = [entry["name"] for entry in supervisor.ps()]
        if names:
            supervisor.engine("rm", "-f", *names, timeout=PATIENCE)
    assert supervisor.ps() == []
    result = supervisor.client.run("after", str(rootfs), ["/bin/echo", "fine"], hard_mib=64)
    assert result.stdout == b"fine\n"
    assert (
        supervisor.client.run("hog", str(rootfs), ["/memory_hog", "1", "0", "99"], hard_mib=64).reason == "hard_limit"
    )


def test_the_death_of_the_shim_costs_no_exit_code(supervisor: Supervisor, rootfs: Path) -> None:
    script = "trap 'exit 6' TERM; echo up; while :; do sleep 0.01; done"
    supervisor.client.start("c", str(rootfs), ["/bin/sh", "-c", script])
    wait_until(lambda: "up" in supervisor.engine("logs", "c").stdout)
    shim = int(supervisor.info()["shim_pid"])
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: int(supervisor.info()["shim_pid"]) != shim)
    assert supervisor.ps()[0]["state"] == "running"
    supervisor.engine("stop", "c")
    assert supervisor.ps()[0]["exit_code"] == 6
    assert supervisor.client.run("next", str(rootfs), ["/bin/echo", "fine"]).stdout == b"fine\n"


def test_a_shim_without_containers_goes_with_its_supervisor(supervisor: Supervisor, rootfs: Path) -> None:
    shim = int(supervisor.info()["shim_pid"])
    supervisor.client.run("c", str(rootfs), ["/bin/true"])
    supervisor.kill()
    wait_until(lambda: not _alive(shim))
    supervisor.restart()
    assert [entry["name"] for entry in supervisor.ps()] == ["c"]


def test_a_supervisor_that_cannot_start_stops_nobody(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    """It has taken the containers over by then, and leaves them to the next."""
    supervisor.client.start("c", str(rootfs), ["/bin/sleep", "1000"])
    pid = supervisor.ps()[0]["pid"]
    supervisor.kill()
    for rootfs_word, socket_word in ((tmp_path / "typo", supervisor.socket), (rootfs, tmp_path / ("long" * 30))):
        words = ("supervisor", rootfs_word, "--state-dir", supervisor.state_dir, "--socket", socket_word)
        assert supervisor.engine(*words, check=False).returncode == 1
    supervisor.restart()
    assert [(entry["state"], entry["pid"]) for entry in supervisor.ps()] == [("running", pid)]


def test_a_record_that_cannot_be_read_costs_nobody_a_layer(supervisor: Supervisor, rootfs: Path) -> None:
    """Layers of no known record are deleted at the start; with one unreadable, none can be told to be nobody's."""
    for name in ("bad", "good"):
        supervisor.engine("run", name, rootfs, "/bin/sh", "-c", f"echo {name} > /kept")
    supervisor.stop()
    with contextlib.closing(sqlite3.connect(supervisor.state_dir / "records.sqlite", isolation_level=None)) as database:
        database.execute("UPDATE container SET record = '{' WHERE name = 'bad'")
    supervisor.restart()
    assert [entry["name"] for entry in supervisor.ps()] == ["good"]
    kept = [path.read_text() for path in (supervisor.state_dir / "containers").glob("*/upper/kept")]
    assert sorted(kept) == ["bad\n", "good\n"]
    # It says so with a traceback, which the fixture would take for a fault of ours.
    assert "cannot be read" in supervisor.log.read_text()
    supervisor.stop()
    supervisor.log.write_text("")
