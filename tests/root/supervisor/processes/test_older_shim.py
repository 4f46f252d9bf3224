"""A supervisor that takes over from the shim of an earlier version, which goes on with its containers until they end.

``programs/shim-protocol-2.tar.xz`` is ``src/wherry`` of commit 14aa4c5, the last one whose shim spoke version 2,
without the experiments: a clone in CI may have no history.
"""

from __future__ import annotations

import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.root.harness import PACKAGES, Supervisor, Traces, Word
from tests.waiting import wait_until

from wherry.kernel.process_states import state_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
COUNTER = "i=0; while :; do i=$((i+1)); echo $i; [ $((i % 50)) = 0 ] && sleep 0.02; done"
OLD = Path(__file__).parent / "programs/shim-protocol-2.tar.xz"


def is_alive(pid: int) -> bool:
    found = state_of(pid)
    return found is not None and found.state[0] not in "ZX"


class Upgraded(Supervisor):
    """Begins as an old program; the next start after ``upgrade`` is ours."""

    def __init__(self, directory: Path, rootfs: Path, traces: Traces, *options: Word) -> None:
        super().__init__(directory, rootfs, traces, *options)
        self._packages = str(directory / "old")
        with tarfile.open(OLD) as archive:
            archive.extractall(self._packages, filter="data")

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"PYTHONPATH": self._packages}

    def upgrade(self) -> None:
        self.kill()
        self._packages = PACKAGES
        self.restart()

    def ps(self) -> list[dict[str, Any]]:
        """The old program printed one document, and not a line for each."""
        text = self.engine("ps", "--format", "json").stdout
        return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]

    def state(self, name: str) -> dict[str, Any]:
        (found,) = (entry for entry in self.ps() if entry["name"] == name)
        return found

    def sockets(self) -> set[str]:
        """The shims' in the state directory."""
        return {path.name for path in (self.state_dir / "run").glob("*.sock")}


@pytest.fixture
def supervisor(tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Upgraded]:
    instance = Upgraded(tmp_path, rootfs, leftovers)
    with instance.serving():
        yield instance


def test_containers_go_on_under_it_and_new_ones_come_from_a_new_one(
    supervisor: Upgraded, rootfs: Path, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    client, mount = supervisor.client, f"{volume}:/v"
    waits = "echo waiting; while [ ! -e /v/go ]; do sleep 0.02; done"
    client.start("counter", str(rootfs), ["/bin/sh", "-c", COUNTER])
    client.start("late", str(rootfs), ["/bin/sh", "-c", f"{waits}; echo late; exit 7"], volumes=[mount])
    hog = f"{waits}; while [ ! -e /v/grow ]; do sleep 0.02; done; exec /memory_hog 1 0 99"
    client.start("hog", str(rootfs), ["/bin/sh", "-c", hog], volumes=[mount], hard_mib=32)
    old = int(supervisor.info()["shim_pid"])
    before = {entry["name"]: entry["pid"] for entry in supervisor.ps()}
    supervisor.kill()
    (volume / "go").touch()
    wait_until(lambda: not is_alive(before["late"]))
    supervisor.restart()  # once more the old program, which has the rest
    supervisor.upgrade()
    assert int(supervisor.info()["shim_pid"]) != old
    assert is_alive(old)
    assert supervisor.sockets() == {"shim.sock", f"shim-{old}.sock"}
    assert (supervisor.state("late")["exit_code"], supervisor.engine("logs", "late").stdout) == (7, "waiting\nlate\n")
    for _ in range(2):  # the second time there are two shims to take over from
        result = client.run(None, str(rootfs), ["/bin/sh", "-c", "echo fine; exit 3"], rm=True)
        assert (result.exit_code, result.stdout) == (3, b"fine\n")
        assert {name: supervisor.state(name)["pid"] for name in ("counter", "hog")} == {
            name: before[name] for name in ("counter", "hog")
        }
        client.start("new", str(rootfs), ["/bin/sleep", "1000"])
        supervisor.kill()
        supervisor.restart()
        assert supervisor.state("new")["state"] == "running"
        supervisor.engine("rm", "-f", "new")
    (volume / "grow").touch()
    wait_until(lambda: supervisor.state("hog")["state"] == "exited")
    assert supervisor.state("hog")["reason"] == "hard_limit"
    assert is_alive(old)
    supervisor.engine("stop", "counter")
    lines = supervisor.engine("logs", "counter").stdout.split("\n")[:-1]
    assert [int(line) for line in lines] == list(range(1, len(lines) + 1))
    wait_until(lambda: not is_alive(old))
    wait_until(lambda: supervisor.sockets() == {"shim.sock"})
    assert client.start("counter-again", str(rootfs), ["/bin/true"]).pid


def test_the_death_of_the_older_one(supervisor: Upgraded, rootfs: Path) -> None:
    """Its containers go on. Their parent is whoever that of the old supervisor was: their exit status is lost."""
    supervisor.client.start("old", str(rootfs), ["/bin/sleep", "1000"])
    pid, old = supervisor.state("old")["pid"], int(supervisor.info()["shim_pid"])
    supervisor.upgrade()
    supervisor.client.start("new", str(rootfs), ["/bin/sleep", "1000"])
    new = int(supervisor.info()["shim_pid"])
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: supervisor.sockets() == {"shim.sock"})
    assert (supervisor.state("old")["state"], supervisor.state("old")["pid"]) == ("running", pid)
    assert int(supervisor.info()["shim_pid"]) == new
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: supervisor.state("old")["reason"] == "lost")
    supervisor.engine("stop", "-t", "0", "new")
    assert supervisor.state("new")["exit_code"] == 137


def test_the_death_of_the_new_one(supervisor: Upgraded, rootfs: Path) -> None:
    """Costs what the older one has nothing."""
    supervisor.client.start("old", str(rootfs), ["/bin/sh", "-c", "trap 'exit 6' TERM; while :; do sleep 0.01; done"])
    supervisor.upgrade()
    supervisor.client.start("new", str(rootfs), ["/bin/sleep", "1000"])
    new = int(supervisor.info()["shim_pid"])
    os.kill(new, signal.SIGKILL)
    wait_until(lambda: int(supervisor.info()["shim_pid"]) != new)
    supervisor._traces.shims.add(int(supervisor.info()["shim_pid"]))
    supervisor.engine("stop", "-t", "0", "new")
    assert supervisor.state("new")["exit_code"] == 137  # collected by the supervisor, to which it has come
    assert supervisor.client.run(None, str(rootfs), ["/bin/echo", "fine"], rm=True).stdout == b"fine\n"
    supervisor.engine("stop", "-t", "30", "old")
    assert supervisor.state("old")["exit_code"] in (6, 137)  # 137: before it had set its trap
