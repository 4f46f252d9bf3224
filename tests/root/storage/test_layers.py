"""Writable layers: mounted over a directory that is never changed, and deleted whatever a container left in them."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wherry.errors import InvalidRequest, StartFailed
from wherry.storage.layers import Layers, clone_writable, open_rootfs

pytestmark = pytest.mark.root


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    directory = tmp_path / "lower"
    directory.mkdir(0o750)
    os.chown(directory, 3, 4)
    (directory / "file").write_text("lower")
    return directory


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    """With at most two spares; no descriptor and no layer may be left at the end."""
    (tmp_path / "layers").mkdir()
    before = os.listdir("/proc/self/fd")
    made = Layers(tmp_path / "layers", 2)
    yield made
    for layer in list(made.known()):
        made.remove(layer)
    made.close()
    assert os.listdir("/proc/self/fd") == before
    assert list((tmp_path / "layers").iterdir()) == []


def on(directory: Path, work: Callable[[int], tuple[str, int]]) -> tuple[str, int]:
    rootfs = open_rootfs(str(directory))
    try:
        return work(rootfs)
    finally:
        os.close(rootfs)


def write(root: int, name: str, text: str) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=root)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def test_a_layer_takes_what_is_written(layers: Layers, lower: Path, tmp_path: Path) -> None:
    layer, root = on(lower, lambda rootfs: layers.mount("", rootfs))
    status = os.fstat(root)
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (3, 4, 0o750)
    write(root, "new", "x")
    os.unlink("file", dir_fd=root)
    os.close(root)
    assert (lower / "file").read_text() == "lower"
    assert os.listdir(lower) == ["file"]
    assert (tmp_path / "layers" / layer / "upper/new").read_text() == "x"
    again, root = on(lower, lambda rootfs: layers.mount(layer, rootfs))
    assert (again, sorted(os.listdir(f"/proc/self/fd/{root}"))) == (layer, ["new"])
    os.close(root)


def test_nobody_else_can_get_at_a_layer(layers: Layers, lower: Path, tmp_path: Path) -> None:
    layer, root = on(lower, lambda rootfs: layers.mount("", rootfs))
    os.close(root)
    assert stat.S_IMODE((tmp_path / "layers" / layer).stat().st_mode) == 0o700


def refill(layers: Layers, times: int) -> None:
    for _ in range(times):
        asyncio.run(layers.refill())


def test_spares_are_used_for_their_directory_only(layers: Layers, lower: Path, tmp_path: Path) -> None:
    _, root = on(lower, lambda rootfs: layers.mount("", rootfs))
    os.close(root)
    refill(layers, 5)
    spares = layers.known()
    assert len(spares) == 3
    layer, root = on(lower, lambda rootfs: layers.mount("", rootfs))
    os.close(root)
    assert layer in spares
    (tmp_path / "other").mkdir()
    layer, root = on(tmp_path / "other", lambda rootfs: layers.mount("", rootfs))
    assert layer not in spares
    assert os.listdir(f"/proc/self/fd/{root}") == []
    os.close(root)
    assert layers.has_retired
    layers.drop_retired()
    assert len(layers.known()) == 3


@pytest.mark.parametrize("change", [lambda path: path.chmod(0o700), lambda path: os.chown(path, 7, 7)])
def test_a_spare_is_what_a_mount_of_now_would_be(layers: Layers, lower: Path, change: Callable[[Path], None]) -> None:
    for _ in range(2):
        _, root = on(lower, lambda rootfs: layers.mount("", rootfs))
        os.close(root)
        refill(layers, 2)
        change(lower)
    expected = lower.stat()
    _, root = on(lower, lambda rootfs: layers.mount("", rootfs))
    status = os.fstat(root)
    os.close(root)
    assert (status.st_uid, status.st_mode) == (expected.st_uid, expected.st_mode)


def test_a_spare_shows_the_directory_as_it_is_when_it_is_used(layers: Layers, lower: Path) -> None:
    _, root = on(lower, lambda rootfs: layers.mount("", rootfs))
    os.close(root)
    refill(layers, 2)
    (lower / "later").write_text("later")
    _, root = on(lower, lambda rootfs: layers.mount("", rootfs))
    assert sorted(os.listdir(f"/proc/self/fd/{root}")) == ["file", "later"]
    os.close(root)


def test_no_spare_lies_over_a_directory_that_is_written_to(layers: Layers, lower: Path) -> None:
    _, root = on(lower, lambda rootfs: layers.mount("", rootfs))
    os.close(root)
    refill(layers, 2)
    rootfs = open_rootfs(str(lower))
    layers.stop_sparing(rootfs)
    os.close(rootfs)
    assert layers.has_retired
    layers.drop_retired()
    assert len(layers.known()) == 1
    refill(layers, 2)
    assert len(layers.known()) == 1


def test_a_layer_over_a_file_leaves_nothing(layers: Layers, tmp_path: Path) -> None:
    rootfs = os.open(tmp_path / "lower.txt", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(StartFailed, match="mount overlay: "):
            layers.mount("", rootfs)
    finally:
        os.close(rootfs)
    assert layers.known() == set()


def nest(directory: Path, depth: int) -> None:
    """Directories in directories, deeper than a path may be long: each is made from within the last."""
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=parent)
        child = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent)
        os.close(parent)
        parent = child
    os.close(parent)


def test_whatever_a_container_left_is_deleted(layers: Layers, lower: Path, tmp_path: Path) -> None:
    layer, root = on(lower, lambda rootfs: layers.mount("", rootfs))
    os.close(root)
    upper = tmp_path / "layers" / layer / "upper"
    (upper / os.fsdecode(b"caf\xe9")).write_text("")
    (upper / "link").symlink_to(lower)
    os.mkfifo(upper / "fifo")
    (upper / "closed").mkdir(0)
    nest(upper, 5000)
    layers.remove(layer)
    assert layers.known() == set()
    assert (lower / "file").exists()
    layers.remove(layer)
    layers.remove("")


def test_clone_writable(lower: Path) -> None:
    os.mknod(lower / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    rootfs = open_rootfs(str(lower))
    tree = clone_writable(rootfs)
    os.close(rootfs)
    write(tree, "new", "x")
    with pytest.raises(PermissionError):
        os.open("null", os.O_RDONLY, dir_fd=tree)
    os.close(tree)
    assert (lower / "new").read_text() == "x"


@pytest.mark.parametrize("name", ["nowhere", "file", "file/x"])
def test_a_rootfs_that_is_no_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match=f"rootfs '{tmp_path / name}': (no such file|not a directory)"):
        open_rootfs(str(tmp_path / name))
