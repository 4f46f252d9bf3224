"""Many execs at once, and supervisors killed while they start, run and end."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.exploring import IS_CHAOS
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry import Client, WherryError

pytestmark = pytest.mark.root

KILLS = 200 if IS_CHAOS else 4


def left_of_execs(supervisor: Supervisor, name: str) -> list[str]:
    group = supervisor.group(name)
    return [entry for path in group.places for entry in os.listdir(path) if entry.startswith("exec-")]


def test_fifty_at_once_in_one_container_and_one_in_each_of_fifty(supervisor: Supervisor, rootfs: Path) -> None:
    names = [f"c{number}" for number in range(50)]
    shim = int(supervisor.info()["shim_pid"])
    assert supervisor.process is not None

    def one(name: str) -> int:
        with Client(str(supervisor.socket)) as client:
            return client.exec(name, ["/bin/true"], timeout=300).exit_code

    with ThreadPoolExecutor(16) as pool:
        started = pool.map(lambda name: supervisor.client.start(name, str(rootfs), ["/bin/sleep", "1000"]), names)
        assert len({each.pid for each in started}) == 50
        one(names[0])
        supervisor.connections()
        folders = [f"/proc/{pid}/fd" for pid in (shim, supervisor.process.pid)]
        before = [len(os.listdir(path)) for path in folders]
    with ThreadPoolExecutor(50) as pool:
        assert [*pool.map(one, [names[0]] * 50)] == [0] * 50
        assert [*pool.map(one, names)] == [0] * 50
    wait_until(lambda: [len(os.listdir(path)) for path in folders] <= before)
    wait_until(lambda: not any(left_of_execs(supervisor, name) for name in (names[0], names[-1])))
    children = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
    assert len(children) == 50 + int(supervisor.info()["spares"])
    assert supervisor.engine("stop", "--time", "0", *names).returncode == 0


class Starting:
    """A client that starts one exec after the other, whatever becomes of supervisors meanwhile."""

    def __init__(self, supervisor: Supervisor, name: str) -> None:
        self._supervisor = supervisor
        self._name = name
        self._stop = threading.Event()
        self.promised: dict[int, str] = {}
        """Number -> id of what the supervisor has said that it has started."""
        self.tried = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            number = self.tried
            self.tried += 1
            script = f"echo {number} >>/v/{self._name}; sleep 0.0$((RANDOM % 9)); exit {number % 100}"
            try:
                started = self._supervisor.client.start_exec(self._name, ["/bin/sh", "-c", script])
                self.promised[number] = started.id
            except (WherryError, OSError):
                time.sleep(0.01)  # there is no supervisor at the moment

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_kills_of_supervisors_lose_none_and_run_none_twice(
    supervisor: Supervisor, rootfs: Path, tmp_path: Path
) -> None:
    """Of each that a client was told the start of, the next supervisor knows the exit code; nothing is run twice."""
    (shared := tmp_path / "v").mkdir()
    names = ["a", "b"]
    for name in names:
        supervisor.client.start(name, str(rootfs), ["/bin/sleep", "100000"], volumes=[f"{shared}:/v"])
    chance = random.Random(2)
    for _ in range(KILLS):
        starting = [Starting(supervisor, name) for name in names]
        wait_until(lambda starting=starting: all(each.promised for each in starting))  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.2))  # nothing is expected to have happened by then
        supervisor.kill()
        for each in starting:
            each.stop()
        supervisor.restart()
        for name, each in zip(names, starting, strict=True):
            for number, identity in each.promised.items():
                wait_until(lambda identity=identity: _has_ended(supervisor, identity))  # type: ignore[misc]
                found = supervisor.client.inspect_exec(identity)
                assert (found["ExitCode"], found["Wherry"]["Reason"]) == (number % 100, "exited"), found
            lines = (shared / name).read_text().split()
            assert len(set(lines)) == len(lines)
            assert {str(number) for number in each.promised} <= set(lines) <= {*map(str, range(each.tried))}
            (shared / name).unlink()
        shim = int(supervisor.info()["shim_pid"])
        children = Path(f"/proc/{shim}/task/{shim}/children")
        wait_until(
            lambda children=children: len(children.read_text().split()) == 2 + int(supervisor.info()["spares"])  # type: ignore[misc]
        )


def _has_ended(supervisor: Supervisor, identity: str) -> bool:
    return supervisor.client.inspect_exec(identity)["Running"] is False
