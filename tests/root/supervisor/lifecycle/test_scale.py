"""Many containers, a supervisor that is killed again and again, logs followed and starts under way: nothing is lost.

``WHERRY_CHAOS=1`` (``make chaos``) makes it 1,000 containers and 20 kills, and prints how long each took.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.root.harness import Supervisor, Traces

from wherry.client import Client
from wherry.errors import Unavailable

CHAOS = os.environ.get("WHERRY_CHAOS", "") not in {"", "0"}
CONTAINERS = 1000 if CHAOS else 160
"""With limits each has 7 descriptors in the supervisor: more than 1,023 in both cases."""
KILLS = 20 if CHAOS else 3
WRITERS = 5
COUNTER = "i=0; while :; do i=$((i+1)); echo $i; [ $((i % 50)) = 0 ] && sleep 0.1; done"

pytestmark = [pytest.mark.root, pytest.mark.slow_start, pytest.mark.timeout(1800 if CHAOS else 300)]


class Worker(threading.Thread):
    """Does ``step`` again and again; that the supervisor goes away in the middle is what it is there for."""

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__()
        self.socket = str(supervisor.socket)
        self.done = threading.Event()
        self.failure: BaseException | None = None

    def step(self, client: Client) -> None:
        raise NotImplementedError

    def run(self) -> None:
        while not self.done.is_set():
            try:
                with Client(self.socket) as client:
                    self.step(client)
            except Unavailable:
                self.done.wait(0.01)  # until the next one is there
            except BaseException as failure:
                self.failure = failure
                return

    def finish(self) -> None:
        self.done.set()
        self.join(60)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure


class Starter(Worker):
    """Starts containers; ``started`` are those of which the supervisor has said so."""

    def __init__(self, supervisor: Supervisor, rootfs: Path) -> None:
        super().__init__(supervisor)
        self.rootfs = str(rootfs)
        self.started: dict[str, int] = {}
        self.ended: list[str] = []
        self._count = 0

    def step(self, client: Client) -> None:
        self._count += 1
        name = f"x{self._count}"
        if self._count % 2:
            self.started[name] = client.start(name, self.rootfs, ["/bin/sleep", "100000"], hard_mib=64).pid
        else:
            result = client.run(name, self.rootfs, ["/bin/sh", "-c", "echo out; exit 7"], hard_mib=64)
            assert (result.exit_code, result.stdout) == (7, b"out\n")
            self.ended.append(name)
        self.done.wait(0.05)  # not to fill the machine


class Follower(Worker):
    """Follows a counter's log from its beginning, and again when it is cut off."""

    def __init__(self, supervisor: Supervisor, name: str) -> None:
        super().__init__(supervisor)
        self.name_of_container = name
        self.most = 0

    def step(self, client: Client) -> None:
        with client.logs(self.name_of_container, follow=True) as stream:
            data = b""
            for _, piece in stream:
                data += piece
                lines = data.split(b"\n")
                if self.done.is_set():
                    break
            numbers = [int(line) for line in lines[:-1]]
            assert numbers == list(range(1, len(numbers) + 1))
            self.most = max(self.most, len(numbers))


@pytest.fixture
def crowd(tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Supervisor]:
    instance = Supervisor(tmp_path, rootfs, leftovers)
    with instance.serving():
        yield instance


def _start_all(supervisor: Supervisor, rootfs: Path) -> dict[str, int]:
    def start(number: int) -> tuple[str, int]:
        name, command = f"c{number}", ["/bin/sleep", "100000"]
        if number < WRITERS:
            command = ["/bin/sh", "-c", COUNTER]
        with Client(str(supervisor.socket)) as client:
            return name, client.start(name, str(rootfs), command, soft_mib=32, hard_mib=64).pid

    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(start, range(CONTAINERS)))


def _running(supervisor: Supervisor) -> dict[str, int]:
    return {container.name: container.pid or 0 for container in supervisor.client.ps(running=True)}


def test_a_supervisor_with_many_containers_is_killed_again_and_again(crowd: Supervisor, rootfs: Path) -> None:
    """Case 0, and acceptance 4: the next supervisor takes all over each time; stopping it leaves nothing."""
    pids = _start_all(crowd, rootfs)
    starter = Starter(crowd, rootfs)
    workers = [starter, *(Follower(crowd, f"c{number}") for number in range(WRITERS))]
    for worker in workers:
        worker.start()
    chance = random.Random(5)
    took = []
    try:
        for _ in range(KILLS):
            signal.sigtimedwait([], chance.uniform(0, 1))
            crowd.kill()
            known = dict(starter.started)
            begin = time.monotonic()
            crowd.restart()
            took.append(time.monotonic() - begin)
            running = _running(crowd)
            assert {name: running.get(name) for name in pids} == pids
            assert {name: running.get(name) for name in known} == known
    finally:
        for worker in workers:
            worker.finish()
    ended = {container.name: container for container in crowd.client.ps()}
    assert {(ended[name].reason, ended[name].exit_code) for name in starter.ended} <= {("exited", 7)}
    for number in range(WRITERS):
        crowd.client.stop(f"c{number}")
        lines = crowd.engine("logs", f"c{number}").stdout.split("\n")[:-1]
        assert [int(line) for line in lines] == list(range(1, len(lines) + 1))
        assert lines
    count = len(_running(crowd))
    begin = time.monotonic()
    crowd.stop()
    stopping = time.monotonic() - begin
    crowd.restart()
    assert _running(crowd) == {}
    print(f"{CONTAINERS} containers and {len(starter.started)} started meanwhile, {KILLS} kills")
    print(f"seconds to take over: {' '.join(f'{seconds:.1f}' for seconds in took)}")
    print(f"seconds to stop {count}: {stopping:.1f}")
