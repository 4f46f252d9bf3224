"""Take-overs without end while hogs grow: whoever dies, and whatever the next supervisor finds, limits hold.

``WHERRY_CHAOS=1`` (``make chaos``) makes it 100 take-overs and 20 containers. A third of the supervisors have another
layout of the enforcer's maps than the one before; in another third the shim is killed, before or after the supervisor.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.root.harness import REPOSITORY, Traces
from tests.root.patched import Patched
from tests.waiting import wait_until

CHAOS = os.environ.get("WHERRY_CHAOS", "") not in {"", "0"}
TAKEOVERS = 100 if CHAOS else 6
CONTAINERS = 20 if CHAOS else 4
GROW = f"{REPOSITORY}/build/workloads/memory_grow:/memory_grow:ro"
MIB = 1 << 20
HARD = 24 * MIB
BEYOND = 256 << 10
"""How far above its limit any container may get; with one thread each, it is no page with the BPF enforcer alone."""

pytestmark = [pytest.mark.root, pytest.mark.slow_start, pytest.mark.timeout(1800 if CHAOS else 300)]


@pytest.fixture
def supervisor(tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Patched]:
    bpffs = tmp_path / "bpf"
    bpffs.mkdir()
    leftovers.mounts.add(str(bpffs))
    subprocess.run(["mount", "-t", "bpf", "bpf", bpffs], check=True)
    try:
        instance = Patched(tmp_path, rootfs, leftovers, "--memory-enforcer", "bpf", "--pin-enforcer", bpffs)
        with instance.serving():
            yield instance
        assert list(bpffs.glob("wherry-*")) == []
    finally:
        subprocess.run(["umount", bpffs], check=True)


class Hogs:
    """Containers that do nothing but grow; one that has ended is looked at and started anew."""

    def __init__(self, supervisor: Patched, rootfs: Path, chance: random.Random) -> None:
        self.supervisor = supervisor
        self.rootfs = str(rootfs)
        self.chance = chance
        self.most = 0
        """The most that any of them has reached, in bytes."""
        self.reasons: dict[str, int] = {}

    def fill(self) -> None:
        """So that there are as many as there are to be."""
        entries = {entry.name: entry for entry in self.supervisor.client.ps()}
        for number in range(CONTAINERS):
            name = f"h{number}"
            entry = entries.get(name)
            if entry is not None and entry.state == "running":
                continue
            if entry is not None:
                self.look_at(name, entry.reason)
                self.supervisor.client.rm(name)
            self.start(name)

    def start(self, name: str) -> None:
        directory = self.supervisor.directory / name
        directory.mkdir(exist_ok=True)
        (directory / "progress").write_bytes(bytes(16))
        self.supervisor.client.start(
            name,
            self.rootfs,
            ["/memory_grow", "slowly", "500", str(self.chance.choice((1, 20, 60, 200)))],
            volumes=[GROW, f"{directory}:/hog"],
            env={"PROGRESS": "/hog/progress"},
            hard_mib=HARD // MIB,
        )

    def reached(self, name: str) -> int:
        begin, touched = struct.unpack("=QQ", (self.supervisor.directory / name / "progress").read_bytes())
        return int(begin + touched)

    def look_at(self, name: str, reason: str) -> None:
        reached = self.reached(name)
        self.most = max(self.most, reached)
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        assert reached <= HARD + BEYOND, (name, reason, reached)
        assert reason in {"hard_limit", "lost"}

    def look_at_all(self) -> None:
        for number in range(CONTAINERS):
            reached = self.reached(f"h{number}")
            assert reached <= HARD + BEYOND, (number, reached)


def kill_the_shim(supervisor: Patched, chance: random.Random) -> None:
    """And the supervisor, in one order or the other. Containers that live on are nobody's until the next one."""
    shim = int(supervisor.info()["shim_pid"])
    if chance.random() < 0.5:
        os.kill(shim, signal.SIGKILL)
        if chance.random() < 0.5:
            wait_until(lambda: int(supervisor.info()["shim_pid"]) != shim)
        supervisor.kill()
    else:
        supervisor.kill()
        os.kill(shim, signal.SIGKILL)


def test_no_hog_gets_past_its_limit(supervisor: Patched, rootfs: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    hogs = Hogs(supervisor, rootfs, chance)
    for number in range(TAKEOVERS):
        hogs.fill()
        signal.sigtimedwait([], chance.uniform(0, 0.3))
        what = number % 3
        if what == 2:
            kill_the_shim(supervisor, chance)
        else:
            supervisor.kill()
        if what == 1:
            supervisor.upgrade(number)
        signal.sigtimedwait([], chance.uniform(0, 0.3))
        hogs.look_at_all()
        supervisor.restart()
        hogs.look_at_all()
    hogs.fill()
    print(f"most {hogs.most} of {HARD} bytes; ends: {hogs.reasons}")
    assert hogs.most > HARD // 2
    names = [entry.name for entry in supervisor.client.ps()]
    for name in names:
        supervisor.client.rm(name, force=True)
