"""Case 26: what a supervisor lets its disk be used for, and what it removes, with containers that run meanwhile."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.root.harness import Supervisor, Traces
from tests.waiting import wait_until

from wherry.client import Client
from wherry.errors import InvalidRequest, WherryError

pytestmark = pytest.mark.root

MIB = 1 << 20


def tree_of(state: Path) -> list[str]:
    """What is in the state directory, but for layers, which are prepared ahead at any moment, and for what SQLite keeps
    beside its file.
    """
    skipped = {"containers", "records.sqlite", "records.sqlite-wal", "records.sqlite-shm"}
    found: list[str] = []
    for folder, folders, files in os.walk(state):  # unlike rglob it passes over what vanishes meanwhile
        folders[:] = [name for name in folders if name not in skipped]
        found += [os.path.relpath(f"{folder}/{name}", state) for name in (*folders, *files) if name not in skipped]
    return sorted(found)


def test_an_archive_stays_for_a_container_that_may_be_started_again(supervisor: Supervisor, image: str) -> None:
    client, store = supervisor.client, supervisor.state_dir / "rootfs"
    client.start("runs", image, ["/bin/sleep", "1000"])
    client.run("ended", image, ["/bin/sh", "-c", "echo x >> /kept; cat /kept"])
    (digest,) = os.listdir(store)
    client.stop("runs", 0)
    assert client.prune(containers=False).archives == []
    supervisor.kill()
    supervisor.restart()
    client = supervisor.client
    assert client.prune(containers=False).archives == []
    Path(image).unlink()  # it is not needed any more, as an image that docker has loaded
    reply = supervisor.command(
        "curl", "-sS", "--unix-socket", str(supervisor.socket), "-X", "POST", "http://e/containers/ended/start"
    )
    assert reply == ""
    client.wait("ended")
    assert b"".join(bytes(data) for _, data in client.logs("ended")).endswith(b"x\nx\n")
    client.rm("runs")
    assert client.prune(containers=False).archives == []
    assert os.listdir(store) == [digest]
    client.rm("ended")
    done = client.prune()
    assert (done.containers, done.archives) == ([], [f"sha256:{digest}"])
    assert done.bytes > MIB
    assert os.listdir(store) == []


def test_nothing_is_left_after_rm_and_prune(supervisor: Supervisor, image: str, rootfs: Path) -> None:
    client = supervisor.client
    client.run("warm", str(rootfs), ["/bin/true"], rm=True)
    wait_until(lambda: not os.listdir(supervisor.state_dir / "logs"))
    before = tree_of(supervisor.state_dir)
    containers = supervisor.state_dir / "containers"
    noise = ["/bin/sh", "-c", "dd if=/dev/zero of=/f bs=1048576 count=3 2>/dev/null; dd if=/dev/zero bs=65536 count=40"]
    supervisor.engine("run", "one", image, "--log-max-size", "1m", "--", *noise)
    supervisor.engine("run", "two.log.1", str(rootfs), "--log-max-size", "1m", "--", *noise)
    client.run("gone", image, ["/bin/echo", "x"], rm=True)
    wait_until(lambda: [each["Users"] for each in client.df()["Wherry"]["Archives"]] == [1])
    used = client.df()["Wherry"]
    sizes = {each["Name"]: (each["LayerBytes"], each["LogBytes"]) for each in used["Containers"]}
    assert sizes.keys() == {"one", "two.log.1"}
    assert all(3 * MIB <= layer < 4 * MIB and 2 * MIB <= log < 4 * MIB for layer, log in sizes.values())
    assert [(each["Source"], each["Users"]) for each in used["Archives"]] == [(image, 1)]
    client.rm("one")
    client.rm("two.log.1")
    assert client.prune().bytes == used["Archives"][0]["Bytes"]
    wait_until(lambda: tree_of(supervisor.state_dir) == before)
    wait_until(lambda: len(os.listdir(containers)) <= 2)  # those prepared ahead


def test_prune_leaves_what_runs_and_what_is_starting(supervisor: Supervisor, image: str, rootfs: Path) -> None:
    client = supervisor.client
    client.start("runs", str(rootfs), ["/bin/sleep", "1000"], labels={"a": "1"})
    client.run("ended", str(rootfs), ["/bin/sh", "-c", "echo 1 > /f"], labels={"a": "1"})
    client.run("other", image, ["/bin/true"])
    done = client.prune(labels=["a=1"])
    assert (len(done.containers), done.archives) == (1, [])
    assert [each.name for each in client.ps()] == ["other", "runs"]
    done = client.prune(until_ns=1)
    assert (done.containers, done.archives, done.bytes) == ([], [], 0)
    words = supervisor.engine("prune", "-f").stdout
    assert "Removed containers:" in words
    assert "Removed unpacked archives:\nsha256:" in words
    assert [each.name for each in client.ps()] == ["runs"]
    assert supervisor.engine("prune", "-f").stdout == "Total reclaimed space: 0 B\n"
    assert supervisor.engine("prune", check=False).stderr == "engine: stdin is no terminal to ask on: say --force\n"
    assert json.loads(supervisor.engine("df", "--format", "json").stdout)["Wherry"]["Archives"] == []


def test_runs_and_prunes_at_the_same_time(supervisor: Supervisor, image: str) -> None:
    done = threading.Event()

    def prune() -> None:
        with Client(str(supervisor.socket)) as client:
            while not done.is_set():
                client.prune()

    def run(number: int) -> int:
        with Client(str(supervisor.socket)) as client:
            return client.run(f"c{number}", image, ["/bin/busybox", "true"], rm=True).exit_code

    with ThreadPoolExecutor(3) as pool:
        pruning = pool.submit(prune)
        try:
            assert list(pool.map(run, range(12))) == [0] * 12
        finally:
            done.set()
        pruning.result()
    client, store = supervisor.client, supervisor.state_dir / "rootfs"

    def is_empty() -> bool:  # the last one's layer may just be being removed
        client.prune()
        return os.listdir(store) == []

    wait_until(is_empty)


def test_leftovers_of_a_killed_supervisor_are_removed(tmp_path: Path, rootfs: Path, leftovers: Traces) -> None:
    with Supervisor(tmp_path, rootfs, leftovers).serving() as supervisor:
        supervisor.client.run("a.log", str(rootfs), ["/bin/echo", "kept"])
        supervisor.kill()
        state = supervisor.state_dir
        for name in (
            "logs/gone.log",
            "logs/gone.log.idx",
            "logs/a.log",
            "logs/gone.log.3.idx",
            "logs/gone.log.idx.damaged",
        ):
            (state / name).touch()
        (state / "logs/notes.txt").touch()
        for name in ("rootfs/.unpack-x/a/b", "rootfs/.remove-y/a", "containers/" + "0" * 32 + "/upper/a"):
            (state / name).mkdir(parents=True)
        supervisor.restart()
        wait_until(lambda: os.listdir(state / "rootfs") == [])
        wait_until(lambda: not (state / "containers" / ("0" * 32)).exists())
        assert sorted(os.listdir(state / "logs")) == ["a.log.log", "a.log.log.idx", "notes.txt"]


def test_the_cache_is_limited(tmp_path: Path, rootfs: Path, leftovers: Traces, image: str) -> None:
    with Supervisor(tmp_path, rootfs, leftovers, "--rootfs-cache", "0").serving() as supervisor:
        supervisor.client.run("one", image, ["/bin/true"], rm=True)
        wait_until(lambda: os.listdir(supervisor.state_dir / "rootfs") == [])


def test_the_limit_is_the_supervisors(tmp_path: Path, rootfs: Path, leftovers: Traces, image: str) -> None:
    with Supervisor(tmp_path, rootfs, leftovers, "--rootfs-limit", "1m").serving() as supervisor:
        with pytest.raises(
            InvalidRequest, match=r"takes more than 1.0 MiB, the limit of the supervisor \(--rootfs-limit\)"
        ):
            supervisor.client.run("one", image, ["/bin/true"])
        assert supervisor.client.ps() == []
        assert os.listdir(supervisor.state_dir / "rootfs") == []


def test_the_supervisors_own_archive_stays(tmp_path: Path, leftovers: Traces, image: str) -> None:
    with Supervisor(tmp_path, Path(image), leftovers, "--rootfs-cache", "0").serving() as supervisor:
        supervisor.client.run("one", image, ["/bin/true"], rm=True)
        assert supervisor.client.prune().archives == []
        assert len(os.listdir(supervisor.state_dir / "rootfs")) == 1


# A full disk.


def test_a_full_disk_is_told_of_and_nothing_is_left(
    tmp_path: Path, rootfs: Path, leftovers: Traces, disk: Path
) -> None:
    (tmp_path / "state").symlink_to(disk)
    with Supervisor(tmp_path, rootfs, leftovers).serving() as supervisor:
        client = supervisor.client
        client.run("warm", str(rootfs), ["/bin/true"], rm=True)
        wait_until(lambda: not os.listdir(disk / "logs"))
        before = tree_of(disk)
        fill(disk / "filler")
        failures = []
        for number in range(8):  # the log of SQLite has some room left at first
            try:
                client.start(f"c{number}", str(rootfs), ["/bin/sleep", "1000"], env={"A": "x" * 50_000})
                client.rm(f"c{number}", force=True)
            except WherryError as error:
                failures.append(str(error))
        assert failures
        assert all("full" in each or "no space left on device (ENOSPC)" in each for each in failures), failures
        assert client.ps() == []
        (disk / "filler").unlink()
        assert client.run("after", str(rootfs), ["/bin/echo", "fine"], rm=True).stdout == b"fine\n"
        wait_until(lambda: tree_of(disk) == before)
    (tmp_path / "state").unlink()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as filler:
        for size in (MIB, 4096):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError:
                continue
