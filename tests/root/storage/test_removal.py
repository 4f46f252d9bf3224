"""Case 26: nothing stays of a removal, whatever is to be removed and whoever interrupts it."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.root.harness import PACKAGES
from tests.root.storage.archives import archive
from tests.tarballs import END, directory, file
from tests.waiting import wait_until

from wherry.errors import Conflict
from wherry.kernel import inode_flags
from wherry.storage import trees
from wherry.storage.rootfs import RootfsStore

pytestmark = pytest.mark.root

MIB = 1 << 20
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
