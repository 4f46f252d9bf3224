"""A supervisor that can make no use of what the one before it left: whoever was limited is limited again."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.patience import PATIENCE
from tests.root.harness import REPOSITORY, Supervisor, Traces
from tests.root.patched import Patched
from tests.waiting import wait_until

from wherry.kernel import cgroups
from wherry.kernel.polling import readable
from wherry.shim import protocol
from wherry.supervisor.memory_watch.memory import backstop

pytestmark = pytest.mark.root

GROW = f"{REPOSITORY}/build/workloads/memory_grow:/memory_grow:ro"
MIB = 1 << 20
HARD = 32 * MIB
BEYOND = 256 << 10
"""How far above its limit a container may have been: its processes and CPUs may each have had a page on the way."""


@pytest.fixture
def supervisor(tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Patched]:
    instance = Patched(tmp_path, rootfs, leftovers, "--memory-enforcer", "bpf")
    with instance.serving():
        yield instance


class Hog:
    """A container with 16 MiB that sleep, and a process that grows without end once ``go`` is called."""

    def __init__(self, supervisor: Supervisor, rootfs: Path, name: str, pace: int = 5, **options: Any) -> None:
        self.name = name
        self.client = supervisor.client
        self.directory = supervisor.directory / f"hog-{name}"
        self.directory.mkdir()
        self.progress = self.directory / "progress"
        self.progress.write_bytes(bytes(16))
        script = (
            "/memory_grow pages-held 16 1 & "
            "while [ ! -e /hog/go ]; do sleep 0.01; done; "
            f"PROGRESS=/hog/progress /memory_grow slowly 500 {pace}; wait"
        )
        options = {"hard_mib": HARD // MIB, **options}
        volumes = [GROW, f"{self.directory}:/hog"]
        self.pid = self.client.start(name, str(rootfs), ["/bin/sh", "-c", script], volumes=volumes, **options).pid
        wait_until(lambda: b"held" in b"".join(data for _, data in self.client.logs(name)))

    def go(self) -> None:
        (self.directory / "go").touch()

    def reached(self) -> int:
        """Bytes that its growing process had in the end."""
        begin, touched = struct.unpack("=QQ", self.progress.read_bytes())
        return int(begin + touched)

    def has_begun(self) -> bool:
        return int(struct.unpack("=QQ", self.progress.read_bytes())[1]) > 0

    def grower(self) -> int | None:
        """The pid of its growing process."""
        with contextlib.suppress(OSError):
            for child in map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()):
                if b"slowly" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
        return None

    def is_alive(self) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        return False

    def check_held(self) -> None:
        """It was ended at its limit, which counted what its sleeping process had."""
        assert self.client.wait(self.name) == 137
        assert 0 < self.reached() <= HARD - 16 * MIB + BEYOND


@contextlib.contextmanager
def in_the_place_of_a_supervisor(supervisor: Supervisor) -> Iterator[socket.socket]:
    """A connection to the shim; nothing of what it hands over is kept."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(str(supervisor.state_dir / "run/shim.sock"))
        while True:
            assert readable([connection.fileno()], PATIENCE)
            received = protocol.receive(connection)
            assert received is not None
            for descriptor in received[1]:
                os.close(descriptor)
            if received[0]["type"] == "synced":
                break
        yield connection


def lose(supervisor: Supervisor, what: str) -> None:
    """The supervisor is killed, and the next one finds nothing that it could go on with."""
    supervisor.kill()
    if what == "layout":
        assert isinstance(supervisor, Patched)
        supervisor.upgrade()
        return
    with in_the_place_of_a_supervisor(supervisor) as connection:
        protocol.send(connection, {"type": "keep", "names": []})


@pytest.mark.parametrize("what", ["layout", "descriptors"])
def test_what_slept_through_the_loss_is_counted(supervisor: Patched, rootfs: Path, what: str) -> None:
    hog = Hog(supervisor, rootfs, "idle")
    lose(supervisor, what)
    supervisor.restart()
    assert hog.is_alive()
    assert "armed anew" in supervisor.log.read_text()
    assert 16 * MIB < rss(supervisor, "idle") < HARD
    hog.go()
    hog.check_held()
    assert supervisor.ps()[0]["reason"] == "hard_limit"


def rss(supervisor: Supervisor, name: str) -> int:
    """What its enforcer counts."""
    (found,) = supervisor.client.stats_of([name])
    return int(found["memory_stats"]["usage"])


def test_a_hog_that_grows_meanwhile_is_held(supervisor: Patched, rootfs: Path) -> None:
    """Without a break: by the old limit, by the new one, or by both."""
    hog = Hog(supervisor, rootfs, "live", pace=200)
    hog.go()
    wait_until(hog.has_begun)
    lose(supervisor, "layout")
    supervisor.restart()
    hog.check_held()
    assert supervisor.ps()[0]["reason"] == "hard_limit"


def test_the_old_limit_holds_until_the_new_one_does(supervisor: Patched, rootfs: Path) -> None:
    """The hog is over its limit before the new supervisor is there, at whatever moment of its start that is."""
    hogs = [Hog(supervisor, rootfs, f"h{number}", pace=number) for number in range(4)]
    supervisor.kill()
    supervisor.upgrade()
    for hog in hogs:
        hog.go()
    supervisor.restart()
    for hog in hogs:
        hog.check_held()


def test_one_over_its_limit_by_the_time_it_is_counted_ends(supervisor: Patched, rootfs: Path) -> None:
    """Nobody has held it meanwhile; it sleeps, and no page fault of its own will tell."""
    hog = Hog(supervisor, rootfs, "over", hard_mib=64)
    lose(supervisor, "descriptors")
    records = supervisor.state_dir / "records.sqlite"
    lower_limit(records, "over", 12 * MIB)
    supervisor.restart()
    assert supervisor.client.wait("over") == 137
    assert supervisor.ps()[0]["reason"] == "hard_limit"
    assert not hog.is_alive()


def lower_limit(records: Path, name: str, size: int) -> None:
    with contextlib.closing(sqlite3.connect(records, isolation_level=None)) as database:
        statement = "UPDATE container SET record = json_set(record, '$.request.hard_bytes', ?) WHERE name = ?"
        database.execute(statement, (size, name))


UNABLE = {
    "rearm": """
from wherry.memory import bpf
def refuse(self, target, limits): raise OSError(28, "No space left on device")
bpf.BpfLimiter.rearm = refuse
""",
    "take_stock": """
from wherry.memory import bpf
def refuse(self): raise OSError(1, "Operation not permitted")
bpf.BpfLimiter.take_stock = refuse
""",
}


@pytest.mark.parametrize("cannot", UNABLE)
def test_what_cannot_be_limited_again_is_ended(tmp_path: Path, rootfs: Path, leftovers: Traces, cannot: str) -> None:
    """With a reason of its own; who has no hard limit goes on."""
    supervisor = Patched(tmp_path, rootfs, leftovers, "--memory-enforcer", "bpf")
    with supervisor.serving():
        client = supervisor.client
        Hog(supervisor, rootfs, "hard")
        client.start("soft", str(rootfs), ["/bin/sleep", "1000"], soft_mib=16)
        client.start("free", str(rootfs), ["/bin/sleep", "1000"])
        lose(supervisor, "descriptors")
        supervisor.prelude = UNABLE[cannot]
        supervisor.restart()
        assert client.wait("hard") == 137
        entries = {entry["name"]: entry for entry in supervisor.ps()}
        assert (entries["hard"]["state"], entries["hard"]["reason"]) == ("exited", "limit_lost")
        assert "could not be taken over" in client.inspect("hard")["State"]["Error"]
        assert [entries[name]["state"] for name in ("soft", "free")] == ["running"] * 2


def test_what_a_limit_does_not_count_is_told(supervisor: Patched, rootfs: Path) -> None:
    """And what stands behind it, which only a host with a memory controller has."""
    supervisor.client.start("hard", str(rootfs), ["/bin/sleep", "1000"], hard_mib=HARD // MIB)
    supervisor.client.start("none", str(rootfs), ["/bin/sleep", "1000"])
    ours = {name: supervisor.client.inspect(name)["Wherry"] for name in ("hard", "none")}
    has_group = supervisor.info()["backstop"]
    assert has_group is ("memory" in cgroups.detect().mounts or cgroups.detect().version == 2)
    assert ours["hard"]["Backstop"] == (backstop(HARD) if has_group else None)
    assert "page tables" in ours["hard"]["NotCounted"]
    assert (ours["none"]["Backstop"], ours["none"]["NotCounted"]) == (None, [])
    shown = supervisor.engine("info").stdout
    assert ("no backstop" in shown) is not has_group
    assert "do not count files of tmpfs" in shown


def test_the_shim_ends_what_nobody_else_does(supervisor: Patched, rootfs: Path) -> None:
    """The process that crosses dies in its page fault; its siblings sleep, and there is no supervisor."""
    hog, other = Hog(supervisor, rootfs, "crosses"), Hog(supervisor, rootfs, "stays")
    supervisor.kill()
    hog.go()
    wait_until(lambda: not hog.is_alive())
    assert other.is_alive()
    supervisor.restart()
    assert {entry["name"]: entry["reason"] for entry in supervisor.ps()} == {"crosses": "hard_limit", "stays": ""}
    events = supervisor.client.events(since_ns=1, until_ns=time.time_ns())
    assert [event.kind for event in events if event.name == "crosses"].count(
        "hard-limit"
    ) == 1  # the shim has read nothing away


def test_what_the_shim_has_ended_is_known_to_another_version(supervisor: Patched, rootfs: Path) -> None:
    hog = Hog(supervisor, rootfs, "crosses")
    supervisor.kill()
    hog.go()
    wait_until(lambda: not hog.is_alive())
    supervisor.upgrade()
    supervisor.restart()
    assert supervisor.ps()[0]["reason"] == "hard_limit"
    death = supervisor.client.inspect("crosses")["Wherry"]["MemoryDeath"]
    assert (death["Enforcer"], death["Limit"]) == ("bpf", HARD)
