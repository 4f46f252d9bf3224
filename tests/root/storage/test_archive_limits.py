"""Case 26: unpacking is limited in bytes, files and time, and free space stays free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.root.storage.archives import archive
from tests.tarballs import COMPRESS, END, directory, file, hard_link, pax, symlink

from wherry.errors import InvalidRequest, StartFailed
from wherry.storage.rootfs import RootfsStore
from wherry.storage.tar.budget import ArchiveLimits

pytestmark = pytest.mark.root

MIB = 1 << 20


def sparse_file(name: str, parts: int, size: int) -> bytes:
    """One byte every MiB, the rest of it holes."""
    numbers = ",".join(f"{number * MIB},1" for number in range(parts))
    return pax({"GNU.sparse.map": numbers.encode(), "GNU.sparse.size": str(size).encode()}) + file(name, b"x" * parts)


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
