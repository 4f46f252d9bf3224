"""wherry.storage.rootfs: what ROOTFS may be, and that archives are unpacked once, wholly or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.disks import disk_of
from tests.tarballs import COMPRESS, END, directory, file, symlink
from tests.waiting import wait_until

import wherry
from wherry.errors import Conflict, InvalidRequest, StartFailed
from wherry.storage import rootfs
from wherry.storage.rootfs import RootfsStore
from wherry.storage.tar import archive
from wherry.storage.tar.budget import ArchiveBudget
from wherry.storage.tar.extract import unpack
from wherry.storage.tar.members import Archive

pytestmark = pytest.mark.root

SMALL = directory("./", mode=0o755) + file("etc/hostname", b"small\n") + END
LONG_AGO = 1_000_000_000


@pytest.fixture
def rootfs_store(tmp_path: Path) -> RootfsStore:
    return RootfsStore(tmp_path / "store")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each time that an archive file is read from its beginning."""
    begun: list[int] = []

    class Counted(archive.ArchiveFile):
        def __init__(self, descriptor: int, stop: threading.Event) -> None:
            begun.append(descriptor)
            super().__init__(descriptor, stop)

    monkeypatch.setattr(rootfs, "ArchiveFile", Counted)
    return begun


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "small disk", "size=1m,nr_inodes=200") as path:
        yield path


# What ROOTFS may be.


def test_a_directory_is_itself(rootfs_store: RootfsStore, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    for path in ("dir", "link", "dir/", "./link/../dir"):
        assert rootfs_store.resolve(f"{tmp_path}/{path}") == (tmp_path / "dir").resolve()


def test_a_link_to_an_archive_is_the_archive(
    rootfs_store: RootfsStore, write: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(write(SMALL))
    assert (rootfs_store.resolve(str(tmp_path / "link")) / "etc/hostname").read_text() == "small\n"


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("name", ["rootfs", "misleading.zip"])
def test_the_format_is_known_by_the_content(
    rootfs_store: RootfsStore, write: Callable[..., str], compression: str, name: str
) -> None:
    found = rootfs_store.resolve(write(COMPRESS[compression](SMALL), name))
    assert (found / "etc/hostname").read_text() == "small\n"


def test_what_has_no_content_is_refused_without_opening_it(rootfs_store: RootfsStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "device", stat.S_IFCHR, os.makedev(4000, 4000))  # no driver: open would say ENXIO
    os.mknod(tmp_path / "disk", stat.S_IFBLK, os.makedev(4000, 4000))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    kinds = {"fifo": "a FIFO", "device": "a character device", "disk": "a block device", "socket": "a socket"}
    for name, kind in kinds.items():
        with pytest.raises(InvalidRequest) as refused:
            rootfs_store.resolve(str(tmp_path / name))
        assert str(refused.value) == f"rootfs '{tmp_path}/{name}' is {kind}, neither a directory nor a tar archive"


NO_ROOTFS = {
    "missing": ("{0}/missing", r"rootfs '.*/missing': no such file or directory \(ENOENT\)"),
    "below a file": ("{0}/file/x", r"rootfs '.*/file/x': not a directory \(ENOTDIR\)"),
    "empty": ("", r"rootfs '': no such file or directory \(ENOENT\)"),
    "with a NUL": ("{0}/a\0b", r"rootfs '.*/a\\x00b': embedded null byte"),
    "not encodable": ("{0}/\ud800", r"rootfs '.*\\ud800': "),
    "too long": ("/" + "x" * 5000, r"rootfs '/x*': file name too long \(ENAMETOOLONG\)"),
    "a text": ("{0}/file", "rootfs '.*/file': it is not a tar archive"),
    "an empty file": ("{0}/empty", "rootfs '.*/empty': it is not a tar archive"),
}


@pytest.mark.parametrize(("path", "message"), NO_ROOTFS.values(), ids=NO_ROOTFS.keys())
def test_what_is_no_rootfs_is_refused(rootfs_store: RootfsStore, tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "file").write_text("#!/bin/sh\n")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(InvalidRequest, match=message):
        rootfs_store.resolve(path.format(tmp_path))
    assert os.listdir(tmp_path / "store") == []


def test_the_stores_directory_is_roots_alone(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    RootfsStore(tmp_path / "store")
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


# Once.


def test_an_archive_is_unpacked_once_and_known_by_its_content(
    rootfs_store: RootfsStore, write: Callable[..., str], tmp_path: Path
) -> None:
    first = rootfs_store.resolve(write(SMALL, "one"))
    (first / "mark").touch()
    assert rootfs_store.resolve(write(SMALL, "other")) == first
    assert RootfsStore(tmp_path / "store").resolve(str(tmp_path / "one")) == first
    assert (first / "mark").exists()
    second = rootfs_store.resolve(write(file("etc/hostname", b"other\n") + END, "one"))
    assert second != first
    assert (second / "etc/hostname").read_text() == "other\n"


def test_an_archive_that_did_not_change_is_not_read_again(
    rootfs_store: RootfsStore, write: Callable[..., str], reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(SMALL)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 10**11)
    found = rootfs_store.resolve(path)
    assert len(reads) == 2  # for the digest, and to unpack it
    assert rootfs_store.resolve(path) == found
    assert len(reads) == 2
    os.utime(path)
    assert rootfs_store.resolve(path) == found
    assert len(reads) == 3


def test_an_archive_written_just_now_is_read_again(
    rootfs_store: RootfsStore, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions of one size within a step of the file system's clock look the same."""
    versions = [file("version", text) + END for text in (b"one", b"two")]
    monkeypatch.setattr(rootfs, "_identity", lambda _status: (0, 0, 0, 0, 0))
    found = [(rootfs_store.resolve(write(version)) / "version").read_bytes() for version in versions]
    assert found == [b"one", b"two"]


def test_the_memory_of_digests_is_bounded(
    rootfs_store: RootfsStore, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    monkeypatch.setattr(rootfs, "_MOST_DIGESTS", 3)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 10**11)
    paths = [write(SMALL, f"archive{number}") for number in range(4)]
    for path in paths:
        rootfs_store.resolve(path)
    before = len(reads)
    rootfs_store.resolve(paths[3])
    assert len(reads) == before
    rootfs_store.resolve(paths[0])
    assert len(reads) == before + 1


def test_concurrent_starts_of_one_archive_unpack_it_once(
    rootfs_store: RootfsStore, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write(COMPRESS["gzip"](b"".join(file(f"f{number}", b"x" * 1000) for number in range(300)) + END))
    calls: list[int] = []
    all_there = threading.Barrier(8)

    def counted(source: Archive, root: int, budget: ArchiveBudget) -> None:
        calls.append(root)
        time.sleep(0.05)  # let the others come to the lock
        unpack(source, root, budget)

    monkeypatch.setattr(rootfs, "unpack", counted)

    def resolve(_: int) -> Path:
        all_there.wait(PATIENCE)
        found = rootfs_store.resolve(path)
        assert len(os.listdir(found)) == 300
        return found

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(resolve, range(8)))) == 1
    assert len(calls) == 1
    assert len(os.listdir(tmp_path / "store")) == 1


def test_different_archives_are_unpacked_at_the_same_time(
    rootfs_store: RootfsStore, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)

    def meet(source: Archive, root: int, budget: ArchiveBudget) -> None:
        both.wait(PATIENCE)
        unpack(source, root, budget)

    monkeypatch.setattr(rootfs, "unpack", meet)
    paths = [write(file("f", content) + END, content.decode()) for content in (b"one", b"two")]
    with ThreadPoolExecutor(2) as pool:
        assert [(found / "f").read_text() for found in pool.map(rootfs_store.resolve, paths)] == ["one", "two"]


def test_a_failed_start_does_not_spoil_the_next(
    rootfs_store: RootfsStore, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(rootfs, "unpack", _fail)
        with pytest.raises(StartFailed, match="EIO"):
            rootfs_store.resolve(path)
    assert (rootfs_store.resolve(path) / "etc/hostname").exists()


def _fail(_source: Archive, _root: int, _budget: ArchiveBudget) -> None:
    raise OSError(5, "Input/output error", "'etc/hostname'")


# Wholly or not at all.


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_truncated_archive_leaves_nothing(
    rootfs_store: RootfsStore, write: Callable[..., str], tmp_path: Path, compression: str
) -> None:
    content = COMPRESS[compression](file("a", os.urandom(100_000)) + file("b", os.urandom(100_000)) + END)
    with pytest.raises(InvalidRequest, match=r"rootfs '.*/rootfs.tar': truncated: "):
        rootfs_store.resolve(write(content[: len(content) * 2 // 3]))
    assert os.listdir(tmp_path / "store") == []


def test_an_archive_that_changes_while_it_is_unpacked_is_refused(
    rootfs_store: RootfsStore, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write(file("large", bytes(1 << 20)) + SMALL)

    def change(source: Archive, root: int, budget: ArchiveBudget) -> None:
        with open(path, "r+b") as archive_file:
            archive_file.seek(1 << 20)  # far beyond what has been read ahead
            archive_file.write(b"changed")
        unpack(source, root, budget)

    monkeypatch.setattr(rootfs, "unpack", change)
    with pytest.raises(InvalidRequest, match="it changed while it was read"):
        rootfs_store.resolve(path)
    assert os.listdir(tmp_path / "store") == []


FILLING = {
    "in a file": b"".join(file(f"f{number}", os.urandom(300_000)) for number in range(5)) + END,
    "by files": b"".join(file(f"dir/f{number}") for number in range(300)) + END,
    "by directories": b"".join(directory(f"d{number}") for number in range(300)) + END,
    "by links": b"".join(symlink(f"l{number}", "x" * 90) for number in range(300)) + END,
}


@pytest.mark.parametrize("content", FILLING.values(), ids=FILLING.keys())
def test_a_full_disk_is_said_to_be_full_and_nothing_is_left(
    small_disk: Path, write: Callable[..., str], content: bytes
) -> None:
    rootfs_store = RootfsStore(small_disk / "store")
    used = shutil.disk_usage(small_disk).used
    message = r"^unpack rootfs '.*/rootfs.tar': '\S+': no space left on device \(ENOSPC\)$"
    with pytest.raises(StartFailed, match=message):
        rootfs_store.resolve(write(content))
    assert os.listdir(small_disk / "store") == []
    assert shutil.disk_usage(small_disk).used == used
    assert (rootfs_store.resolve(write(SMALL, "fits")) / "etc/hostname").exists()


UNPACK = """
import pathlib, sys
from wherry.storage.rootfs import RootfsStore
print(RootfsStore(pathlib.Path(sys.argv[1])).resolve(sys.argv[2]))
"""


def test_an_unpacking_that_was_killed_is_never_taken_for_whole(tmp_path: Path, write: Callable[..., str]) -> None:
    count = 3000
    path = write(COMPRESS["gzip"](b"".join(file(f"dir{n % 7}/f{n}", b"x" * 2000) for n in range(count)) + END))
    for files in (1, 100, 1500):
        wait_until(lambda files=files: _killed_in_the_middle(tmp_path / "store", path, files))  # type: ignore[misc]
    assert len(os.listdir(tmp_path / "store")) == 3
    rootfs_store = RootfsStore(tmp_path / "store")
    rootfs_store.remove_leftovers()
    assert os.listdir(tmp_path / "store") == []
    found = rootfs_store.resolve(path)
    assert sum(len(names) for _, _, names in os.walk(found)) == count


def _killed_in_the_middle(folder: Path, path: str, files: int) -> bool:
    """Unpack an archive in a process that is killed; false, and nothing left of it, when that came too late."""
    source = str(Path(wherry.__file__).parents[1])
    child = subprocess.Popen([sys.executable, "-c", UNPACK, folder, path], env=os.environ | {"PYTHONPATH": source})
    try:
        _wait_for_files(folder, files)
    finally:
        child.kill()
        child.wait(PATIENCE)
    whole = [name for name in os.listdir(folder) if not name.startswith(".unpack-")]
    for name in whole:
        shutil.rmtree(folder / name)
    return not whole


def _wait_for_files(directory_: Path, wanted: int) -> None:
    """Until the newest unfinished tree has ``wanted`` files in its first sub-directory's seventh part."""
    deadline = time.monotonic() + PATIENCE
    seen = set(os.listdir(directory_)) if directory_.exists() else set()
    while time.monotonic() < deadline:
        new = (set(os.listdir(directory_)) if directory_.exists() else set()) - seen
        if any(not name.startswith(".unpack-") for name in new):
            return  # it is done already
        for name in new:
            first = directory_ / name / "dir0"
            with contextlib.suppress(FileNotFoundError):  # it has just got its name
                if len(os.listdir(first)) * 7 >= wanted:
                    return
        time.sleep(0.001)
    raise AssertionError(f"no {wanted} files")


def test_only_leftovers_are_removed(rootfs_store: RootfsStore, write: Callable[..., str], tmp_path: Path) -> None:
    found = rootfs_store.resolve(write(SMALL))
    (tmp_path / "store/.unpack-left/sub").mkdir(parents=True)
    (tmp_path / "store/.unpack-left/link").symlink_to(found)
    (tmp_path / "store/other").mkdir()
    RootfsStore(tmp_path / "store").remove_leftovers()
    assert sorted(os.listdir(tmp_path / "store")) == sorted([found.name, "other"])
    assert (found / "etc/hostname").exists()


def test_leftovers_that_cannot_be_removed_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "store/.unpack-busy").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "store/.unpack-busy"], check=True)
    try:
        RootfsStore(tmp_path / "store").remove_leftovers()
    finally:
        subprocess.run(["umount", tmp_path / "store/.unpack-busy"], check=True)
    assert "cannot remove" in caplog.text
    assert ".unpack-busy" in caplog.text
    assert "EBUSY" in caplog.text


def test_closing_stops_an_unpacking_and_leaves_nothing(
    rootfs_store: RootfsStore, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def close_first(source: Archive, root: int, budget: ArchiveBudget) -> None:
        rootfs_store.close()
        unpack(source, root, budget)

    monkeypatch.setattr(rootfs, "unpack", close_first)
    with pytest.raises(Conflict, match="the supervisor is shutting down"):
        rootfs_store.resolve(write(b"".join(file(f"f{n}", os.urandom(100_000)) for n in range(20)) + END))
    assert os.listdir(tmp_path / "store") == []


def test_no_descriptor_is_left_open(rootfs_store: RootfsStore, write: Callable[..., str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    arguments = [
        *(str(tmp_path), str(tmp_path / "fifo"), str(tmp_path / "missing"), write(SMALL, "good")),
        *(write(SMALL[:1024], "cut"), write(symlink("l", "no") + file("l/x") + END, "dangling")),
        *(write(file("a/b/c") + file("a/b/c/d/e") + END, "below a file"), write(b"text", "text")),
    ]
    before = os.listdir("/proc/self/fd")
    for argument in arguments:
        try:
            rootfs_store.resolve(argument)
        except InvalidRequest:
            continue
    assert os.listdir("/proc/self/fd") == before
