"""Case 26: unpacking is limited, what is unpacked is removed when nobody uses it, and nothing stays of a removal."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.root.harness import PACKAGES, Supervisor, Traces
from tests.tarballs import COMPRESS, END, directory, file, hard_link, pax, symlink
from tests.waiting import wait_until

from wherry.client import Client
from wherry.errors import Conflict, InvalidRequest, StartFailed, WherryError
from wherry.kernel import inode_flags
from wherry.storage import trees
from wherry.storage.rootfs import RootfsStore
from wherry.storage.tar.budget import ArchiveLimits

pytestmark = pytest.mark.root

MIB = 1 << 20


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write_archive(content: bytes, name: str = "rootfs.tar") -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write_archive


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=20000,mode=755", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


# Without supervisor.


def archive(size: int, fill: str = "x") -> bytes:
    return directory("./", mode=0o755) + file(f"{fill}/data", fill.encode() * size) + END


def sparse_file(name: str, parts: int, size: int) -> bytes:
    """One byte every MiB, the rest of it holes."""
    numbers = ",".join(f"{number * MIB},1" for number in range(parts))
    return pax({"GNU.sparse.map": numbers.encode(), "GNU.sparse.size": str(size).encode()}) + file(name, b"x" * parts)


# ArchiveLimits.

BOMBS = {
    "one large file": file("f", bytes(20 * MIB)),
    "many small files": b"".join(file(f"f{number}", b"x") for number in range(6000)),
    "empty files": b"".join(file(f"f{number}") for number in range(6000)),
    "directories": b"".join(directory(f"d{number}") for number in range(6000)),
    "directories on the way": b"".join(file(f"{number}/" + "a/" * 900 + "f") for number in range(7)),
    "hard links": file("f", b"x") + b"".join(hard_link(f"l{number}", "f") for number in range(6000)),
    "symbolic links": b"".join(symlink(f"l{number}", "x" * 90) for number in range(6000)),
    "a byte in each block": b"".join(sparse_file(f"s{number}", 500, 500 * MIB) for number in range(10)),
    "one name again and again": file("f", bytes(MIB)) * 20,
    "attributes": b"".join(pax({"SCHILY.xattr.user.a": b"x" * 3500}) + file(f"f{n}") for n in range(5000)),
    "headers of no member": pax({"path": b"f"}) * 40_000,
}


@pytest.mark.attack("archive-bomb", "blocked")
@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_and_nothing_is_left(tmp_path: Path, write: Callable[..., str], content: bytes) -> None:
    store = RootfsStore(tmp_path / "store", ArchiveLimits(unpacked=16 * MIB, entries=5000))
    with pytest.raises(
        InvalidRequest,
        match=r"^rootfs '.*/rootfs.tar': (unpacked it takes more than 16.0 MiB, the limit of the supervisor "
        r"\(--rootfs-limit\)|it has more than 5000 files, directories and links|its tar data is longer than)",
    ):
        store.resolve(write(COMPRESS["zstd"](content + END)))
    assert os.listdir(tmp_path / "store") == []


@pytest.mark.attack("archive-bomb")
def test_terabytes_of_nothing_end_soon(tmp_path: Path, write: Callable[..., str]) -> None:
    """Zeros behind the end of the archive make no file, and may be 32,768 times their size."""
    content = archive(10) + bytes(64 * MIB)
    store = RootfsStore(tmp_path / "store", ArchiveLimits(unpacked=16 * MIB, entries=1000))
    with pytest.raises(InvalidRequest, match="its tar data is longer than"):
        store.resolve(write(COMPRESS["zstd"](content)))
    assert os.listdir(tmp_path / "store") == []
    assert (
        RootfsStore(tmp_path / "store", ArchiveLimits(unpacked=0, entries=0))
        .resolve(str(tmp_path / "rootfs.tar"))
        .is_dir()
    )


def test_holes_cost_nothing(tmp_path: Path, write: Callable[..., str]) -> None:
    store = RootfsStore(tmp_path / "store", ArchiveLimits(unpacked=4 * MIB))
    found = store.resolve(write(sparse_file("s", 100, 1 << 40) + END))
    assert (found / "s").stat().st_size == 1 << 40
    (entry,) = store.archives()
    assert entry.usage is not None
    assert entry.usage.bytes <= 4 * MIB


def test_what_fits_is_not_refused_for_how_it_is_packed(tmp_path: Path, write: Callable[..., str]) -> None:
    """Compressed data that hardly shrinks comes in pieces of about a KiB."""
    content = file("f", os.urandom(3 * MIB)) + END
    for compression, compress in COMPRESS.items():
        store = RootfsStore(tmp_path / compression, ArchiveLimits(unpacked=4 * MIB))
        assert store.resolve(write(compress(content))).is_dir()


def test_names_of_directories_are_not_kept_without_end(
    tmp_path: Path, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wherry.storage.tar.extract._MOST_PATHS", 100_000)
    store = RootfsStore(tmp_path / "store")
    deep = "/".join(["d" * 100] * 9)
    with pytest.raises(InvalidRequest, match="the names of its directories take too much memory"):
        store.resolve(write(b"".join(directory(f"{deep}/{n}") for n in range(200)) + END))
    assert os.listdir(tmp_path / "store") == []


@pytest.mark.parametrize(
    ("content", "reserve", "message"),
    [
        (
            file("f", bytes(60 * MIB)),
            16 * MIB,
            r"only \S+ MiB are free .* 16.0 MiB are to stay free \(--disk-reserve\)",
        ),
        (b"".join(file(f"f{n}") for n in range(19_500)), None, "only [0-9]+ inodes are free .* 1000 are to stay free"),
    ],
    ids=["bytes", "inodes"],
)
def test_free_space_stays_free(
    disk: Path, write: Callable[..., str], content: bytes, reserve: int | None, message: str
) -> None:
    store = RootfsStore(disk / "store", ArchiveLimits(reserve=reserve))
    least = [store.space()]
    used = shutil.disk_usage(disk).used
    with pytest.raises(StartFailed, match=rf"^unpack rootfs '.*/rootfs.tar': {message}"):
        store.resolve(write(content + END))
    assert os.listdir(disk / "store") == []
    assert (shutil.disk_usage(disk).used, store.space()) == (used, least[0])


def test_what_nobody_uses_gives_way_to_what_is_needed(disk: Path, write: Callable[..., str]) -> None:
    store = RootfsStore(disk / "store", ArchiveLimits(reserve=8 * MIB))
    old, used = (store.take(write(archive(20 * MIB, fill), fill)) for fill in "ab")
    store.drop(old)
    new = store.take(write(archive(20 * MIB, "c"), "c"))
    assert sorted(os.listdir(disk / "store")) == sorted([used, new])
    with pytest.raises(StartFailed, match="are to stay free"):
        store.take(write(archive(20 * MIB, "d"), "d"))
    assert sorted(os.listdir(disk / "store")) == sorted([used, new])


# What goes, and when.


def test_the_least_recently_used_go_first(tmp_path: Path, write: Callable[..., str]) -> None:
    store = RootfsStore(tmp_path / "store", ArchiveLimits(cache=5 * MIB))
    a, b, c = (store.take(write(archive(2 * MIB, fill), fill)) for fill in "abc")
    store.trim()
    assert len(store.archives()) == 3  # all in use
    for digest in (b, c, a):
        store.drop(digest)
    assert [entry.digest for entry in store.archives()] == [b, c, a]
    again = RootfsStore(tmp_path / "store", ArchiveLimits(cache=5 * MIB))  # remembers
    assert [(entry.digest, entry.users, entry.source) for entry in again.archives()] == [
        (b, 0, str(tmp_path / "b")),
        (c, 0, str(tmp_path / "c")),
        (a, 0, str(tmp_path / "a")),
    ]
    again.trim()
    assert [entry.digest for entry in again.archives()] == [c, a]
    assert sorted(os.listdir(tmp_path / "store")) == sorted([c, a])


def test_prune_takes_what_is_not_held(tmp_path: Path, write: Callable[..., str]) -> None:
    store = RootfsStore(tmp_path / "store")
    held, idle = (store.take(write(archive(MIB, fill), fill)) for fill in "ab")
    store.drop(idle)
    assert store.prune(before_ns=1) == []
    (gone,) = store.prune()
    assert gone.digest == idle
    assert gone.usage is not None
    assert MIB <= gone.usage.bytes <= MIB + 65536
    assert os.listdir(tmp_path / "store") == [held]
    assert store.prune() == []
    store.keeps_all = True
    store.drop(held)
    assert store.prune() == []


def test_an_archive_of_an_earlier_version_is_measured(tmp_path: Path, write: Callable[..., str]) -> None:
    found = RootfsStore(tmp_path / "store").resolve(write(archive(MIB)))
    os.removexattr(found, "trusted.wherry.archive")
    store = RootfsStore(tmp_path / "store")
    (entry,) = store.archives()
    assert (entry.usage, entry.users) == (None, 0)
    (gone,) = store.prune()
    assert gone.usage is not None
    assert gone.usage.bytes >= MIB


def test_a_link_with_the_name_of_an_archive_is_none(tmp_path: Path, write: Callable[..., str]) -> None:
    """Case 25."""
    path = write(archive(10))
    digest = RootfsStore(tmp_path / "other").take(path)
    store = RootfsStore(tmp_path / "store")
    (tmp_path / "store" / digest).symlink_to(tmp_path / "victim")
    (tmp_path / "victim").mkdir()
    with pytest.raises(InvalidRequest, match="not a directory"):
        store.take(path)
    assert os.listdir(tmp_path / "victim") == []
    assert os.listdir(tmp_path / "store") == [digest]


def test_starts_and_prunes_at_the_same_time(tmp_path: Path, write: Callable[..., str]) -> None:
    """What ``take`` gives is whole until ``drop``, whoever prunes meanwhile."""
    path = write(directory("./") + b"".join(file(f"f{n}", b"x" * 100) for n in range(20)) + END)
    store = RootfsStore(tmp_path / "store")
    done = threading.Event()

    def use(_: int) -> None:
        for _ in range(10):
            digest = store.take(path)
            assert len(os.listdir(store.directory_of(digest))) == 20
            store.drop(digest)

    def prune() -> int:
        count = 0
        while not (done.is_set() and count):  # at the latest when nobody uses it any more
            count += len(store.prune())
        return count

    with ThreadPoolExecutor(4) as pool:
        pruned = pool.submit(prune)
        try:
            list(pool.map(use, range(3)))
        finally:
            done.set()
        assert pruned.result() > 0
    store.prune()
    assert os.listdir(tmp_path / "store") == []


# Removing.

PRUNE = """
import pathlib, sys
from wherry.storage.rootfs import RootfsStore
store = RootfsStore(pathlib.Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
store.prune()
"""


def test_a_removal_that_was_killed_is_finished_by_the_next(tmp_path: Path, write: Callable[..., str]) -> None:
    path = write(directory("./") + b"".join(file(f"d{n % 50}/f{n}") for n in range(5000)) + END)
    store = tmp_path / "store"
    found = RootfsStore(store).resolve(path)
    command = [sys.executable, "-c", PRUNE, str(store)]
    child = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": PACKAGES}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    child.stdin.close()
    wait_until(lambda: not found.exists() or child.poll() is not None)
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    assert all(name.startswith(".remove-") for name in os.listdir(store))
    following = RootfsStore(store)
    assert following.archives() == []
    assert len(os.listdir(following.resolve(path))) == 50
    following.remove_leftovers()
    assert os.listdir(store) == [found.name]


def test_closing_ends_a_removal(tmp_path: Path, write: Callable[..., str]) -> None:
    store = RootfsStore(tmp_path / "store")
    found = store.resolve(write(archive(10)))
    store.close()
    with pytest.raises(Conflict, match="the supervisor is shutting down"):
        store.prune()
    assert found.is_dir()
    parent = os.open(tmp_path / "store", os.O_RDONLY)
    stop = threading.Event()
    stop.set()
    try:
        with pytest.raises(Conflict):
            trees.remove(parent, found.name, stop)
        with pytest.raises(Conflict):
            trees.usage(parent, found.name, stop)
    finally:
        os.close(parent)


def remove(path: Path) -> None:
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        trees.remove(parent, path.name)
    finally:
        os.close(parent)


def measure(path: Path) -> trees.TreeUsage:
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        return trees.usage(parent, path.name)
    finally:
        os.close(parent)


def test_flags_keep_nothing(tmp_path: Path) -> None:
    """chattr +i and +a on files and directories, from ``--rw-rootfs`` or by a host's root."""
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/file").touch()
    (tree / "append").touch()
    for path, flag in (
        (tree / "append", inode_flags.APPEND_ONLY),
        (tree / "a/file", inode_flags.IMMUTABLE),
        (tree / "a/b", inode_flags.IMMUTABLE),
        (tree / "a", inode_flags.APPEND_ONLY),
        (tree, inode_flags.IMMUTABLE),
    ):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            try:
                inode_flags.change(descriptor, add=flag)
            except OSError as error:
                pytest.skip(f"no flags on this file system: {error}")
            assert struct.unpack("i", fcntl.ioctl(descriptor, inode_flags._GET, bytes(4)))[0] & flag
        finally:
            os.close(descriptor)
    with pytest.raises(PermissionError):
        (tree / "append").unlink()
    remove(tree)
    assert os.listdir(tmp_path) == []


def test_depth_width_and_names_are_no_obstacle(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    current = os.open(tree, os.O_RDONLY)
    for _ in range(1500):  # far beyond PATH_MAX, the descriptors and the stack
        os.mkdir("d" * 200, dir_fd=current)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = inner
    os.close(os.open(b"\xff\n\x1b", os.O_CREAT | os.O_WRONLY, dir_fd=current))
    os.close(current)
    (tree / "wide").mkdir()
    for number in range(5000):
        (tree / f"wide/{number}").touch()
    before = os.listdir("/proc/self/fd")
    assert measure(tree).entries == 1 + 1500 + 1 + 1 + 5000
    remove(tree)
    assert os.listdir("/proc/self/fd") == before
    assert os.listdir(tmp_path) == []


def test_usage_counts_blocks_and_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/file").write_bytes(os.urandom(MIB))
    os.link(tmp_path / "tree/file", tmp_path / "tree/sub/link")
    with (tmp_path / "tree/hole").open("wb") as hole:
        hole.truncate(1 << 40)
    os.sync()
    found = measure(tmp_path / "tree")
    assert MIB <= found.bytes < MIB + 65536
    assert found.entries == 5
    with pytest.raises(FileNotFoundError):
        measure(tmp_path / "none")


# With a supervisor.


@pytest.fixture
def image(tmp_path: Path, rootfs: Path) -> str:
    """build/rootfs as an archive."""
    subprocess.run(["tar", "-C", rootfs, "-cf", tmp_path / "image.tar", "."], check=True)
    return str(tmp_path / "image.tar")


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
