"""Case 26: what is unpacked stays as long as somebody uses it, and is removed when nobody does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.root.storage.archives import archive
from tests.tarballs import END, directory, file

from wherry.errors import InvalidRequest
from wherry.storage.rootfs import RootfsStore
from wherry.storage.tar.budget import ArchiveLimits

pytestmark = pytest.mark.root

MIB = 1 << 20


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
