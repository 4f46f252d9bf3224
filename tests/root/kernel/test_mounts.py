"""Mounts, each test in a mount namespace of its own, from which nothing reaches the machine."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from tests.forked import in_child

from wherry.kernel import libc, mounts, namespaces

pytestmark = pytest.mark.root
T = TypeVar("T")
_MS_SHARED = 1 << 20


def apart(function: Callable[[], T]) -> T:
    """``function``'s result, from a private mount namespace; no descriptor may be open after it that was not before."""

    def work() -> T:
        namespaces.unshare(["mount"])
        mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_PRIVATE)
        before = os.listdir("/proc/self/fd")
        result = function()
        assert os.listdir("/proc/self/fd") == before
        return result

    return in_child(work)


def mounted() -> dict[str, str]:
    """Mount point to options and file system, of this mount namespace."""
    lines = (line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return {fields[4]: f"{fields[5]} {fields[fields.index('-') + 1]} {fields[-1]}" for fields in lines}


def attach(tree: int, target: Path) -> None:
    """Attach a detached mount and close it."""
    descriptor = os.open(target, os.O_PATH)
    mounts.attach(tree, descriptor)
    os.close(descriptor)
    os.close(tree)


def test_mount_and_detach(tmp_path: Path) -> None:
    def check() -> None:
        mounts.mount("name", str(tmp_path), "tmpfs", mounts.MS_NOSUID | mounts.MS_NOEXEC, "size=64k,mode=700")
        options = mounted()[str(tmp_path)]
        assert options.startswith("rw,nosuid,noexec,relatime tmpfs")
        assert "size=64k,mode=700" in options
        mounts.detach(str(tmp_path))
        assert str(tmp_path) not in mounted()

    apart(check)
    assert str(tmp_path) not in mounted()


def test_a_refused_mount_names_the_target(tmp_path: Path) -> None:
    def check() -> None:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            mounts.mount("x", str(tmp_path), "tmpfs", 0, "bogus=1")
        assert caught.value.filename == str(tmp_path)

    apart(check)


def test_a_new_file_system_is_nowhere_until_it_is_attached(tmp_path: Path) -> None:
    def check() -> None:
        before = mounted()
        tree = mounts.new_filesystem("tmpfs", [("size", "64k"), ("mode", "1777")], mounts.MOUNT_ATTR_NODEV)
        assert mounted() == before
        attach(tree, tmp_path)
        assert mounted()[str(tmp_path)].startswith("rw,nodev,relatime tmpfs")
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "file").write_bytes(b"x" * 70_000)

    apart(check)


def test_the_kernels_own_explanation_is_kept() -> None:
    def check() -> str:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            mounts.new_filesystem("tmpfs", [("bogus", "1")])
        assert caught.value.errno == errno.EINVAL
        return str(caught.value)

    assert "Unknown parameter 'bogus'" in apart(check)


def test_a_file_system_type_that_is_not_there() -> None:
    def check() -> str:
        with pytest.raises(OSError, match="No such device") as caught:
            mounts.new_filesystem("nosuchfs", [])
        return libc.call_of(caught.value)

    assert apart(check) == "fsopen"


def test_a_clone_has_attributes_of_its_own(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    copy.mkdir()

    def check() -> None:
        tree = mounts.clone_tree(str(original))
        mounts.set_attributes(tree, mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOEXEC)
        mounts.set_attributes(tree, mounts.MOUNT_ATTR_NOSUID)
        attach(tree, copy)
        assert mounted()[str(copy)].startswith("ro,nosuid,noexec,relatime")
        (original / "file").write_text("x")
        assert (copy / "file").read_text() == "x"
        with pytest.raises(OSError, match="Read-only file system"):
            (copy / "file").write_text("y")

    apart(check)


@pytest.mark.parametrize("recursive", [False, True])
def test_what_is_mounted_below_is_cloned_if_asked_for(tmp_path: Path, recursive: bool) -> None:
    for name in ("original", "original/sub", "copy"):
        (tmp_path / name).mkdir()

    def check() -> None:
        mounts.mount("x", str(tmp_path / "original/sub"), "tmpfs")
        (tmp_path / "original/sub/file").write_text("")
        tree = mounts.clone_tree(str(tmp_path / "original"), recursive=recursive)
        mounts.set_attributes(tree, mounts.MOUNT_ATTR_RDONLY, recursive=recursive)
        attach(tree, tmp_path / "copy")
        assert (tmp_path / "copy/sub/file").exists() is recursive
        assert mounted().get(str(tmp_path / "copy/sub"), "ro").startswith("ro")
        assert mounted()[str(tmp_path / "original/sub")].startswith("rw")

    apart(check)


def test_a_clone_is_no_peer_of_its_original(tmp_path: Path) -> None:
    """On a host with shared mounts (systemd's default) what is mounted on a volume must not appear on the host."""
    for name in ("original", "copy"):
        (tmp_path / name).mkdir()

    def check() -> None:
        mounts.mount("x", str(tmp_path / "original"), "tmpfs")
        mounts.mount("", str(tmp_path / "original"), "", _MS_SHARED)
        (tmp_path / "original/sub").mkdir()
        attach(mounts.clone_tree(str(tmp_path / "original"), recursive=True), tmp_path / "copy")
        mounts.mount("y", str(tmp_path / "copy/sub"), "tmpfs")
        assert str(tmp_path / "copy/sub") in mounted()
        assert str(tmp_path / "original/sub") not in mounted()

    apart(check)


def test_a_clone_by_descriptor(tmp_path: Path) -> None:
    for name in ("original", "copy"):
        (tmp_path / name).mkdir()
    (tmp_path / "original/file").write_text("")

    def check() -> None:
        directory = os.open(tmp_path / "original", os.O_PATH)
        attach(mounts.clone_tree("", directory), tmp_path / "copy")
        os.close(directory)
        assert (tmp_path / "copy/file").exists()

    apart(check)


def test_a_file_is_mounted_on_a_file_only(tmp_path: Path) -> None:
    for name in ("file", "target"):
        (tmp_path / name).write_text(name)
    (tmp_path / "directory").mkdir()

    def check() -> None:
        attach(mounts.clone_tree(str(tmp_path / "file")), tmp_path / "target")
        assert (tmp_path / "target").read_text() == "file"
        tree = mounts.clone_tree(str(tmp_path / "file"))
        target = os.open(tmp_path / "directory", os.O_PATH)
        with pytest.raises(OSError, match="Invalid argument"):
            mounts.attach(tree, target)
        os.close(target)
        os.close(tree)

    apart(check)


def test_an_overlay_of_directories_with_any_name(tmp_path: Path) -> None:
    """Colons, commas and backslashes mean something in the options of overlayfs."""
    lower, upper, work, target = (tmp_path / f"{name}:a,b\\c=d e" for name in ("lower", "upper", "work", "target"))
    for directory in (lower, upper, work, target):
        directory.mkdir()
    (lower / "file").write_text("lower")
    os.mknod(lower / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))

    def check() -> None:
        directories = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (lower, upper, work)]
        tree = mounts.overlay_of(*directories)
        for descriptor in directories:
            os.close(descriptor)
        attach(tree, target)
        (target / "file").write_text("changed")
        with pytest.raises(PermissionError):
            (target / "null").read_bytes()

    apart(check)
    assert (lower / "file").read_text() == "lower"
    assert (upper / "file").read_text() == "changed"


def test_an_overlay_that_cannot_be(tmp_path: Path) -> None:
    """overlayfs wants two directories of one file system, which do not contain each other."""
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()

    def check() -> None:
        lower, upper = (os.open(tmp_path / name, os.O_PATH | os.O_DIRECTORY) for name in ("lower", "upper"))
        with pytest.raises(OSError, match="Invalid argument"):
            mounts.overlay_of(lower, upper, upper)
        os.close(lower)
        os.close(upper)

    apart(check)


def test_pivot_into_leaves_nothing_of_the_old_root(tmp_path: Path) -> None:
    def check() -> tuple[list[str], list[str]]:
        mounts.mount("new", str(tmp_path), "tmpfs")
        (tmp_path / "proc").mkdir()
        mounts.mount("proc", str(tmp_path / "proc"), "proc")
        root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
        mounts.pivot_into(root)
        os.close(root)
        assert os.getcwd() == "/"
        return sorted(mounted()), os.listdir("/..")

    assert apart(check) == (["/", "/proc"], ["proc"])
