"""Paths of a hostile tree, resolved the way a container's would be: never outside the root, never blocking."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.kernel import paths


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root directory ``tree``, beside a file that nothing in it may reach."""
    (tmp_path / "secret").write_text("outside")
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("inside")
    return root


@pytest.fixture
def root(tree: Path) -> Iterator[int]:
    """The tree, open; and no descriptor may be open at the end that was not at the start."""
    descriptor = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    before = os.listdir("/proc/self/fd")
    yield descriptor
    assert os.listdir("/proc/self/fd") == before
    os.close(descriptor)


def read(root: int, path: str) -> str:
    return paths.read_small_file(root, path).decode()


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../../../etc/passwd", "/../../etc/passwd", "etc/../../../etc/./passwd"]
)
def test_links_stay_inside(tree: Path, root: int, target: str) -> None:
    (tree / "link").symlink_to(target)
    assert read(root, "/link") == "inside"


@pytest.mark.parametrize("path", ["../secret", "/../secret", "etc/../../secret", "up/secret", "/up/../secret"])
def test_dots_do_not_lead_out(tree: Path, root: int, path: str) -> None:
    (tree / "up").symlink_to("..")
    with pytest.raises(FileNotFoundError) as caught:
        paths.open_in_root(root, path)
    assert caught.value.filename == path


def test_a_link_to_itself_is_an_error(tree: Path, root: int) -> None:
    (tree / "loop").symlink_to("/loop")
    with pytest.raises(OSError, match="Too many levels"):
        paths.open_in_root(root, "/loop")


@pytest.mark.parametrize("path", ["/proc/self/root/etc", "/proc/self/cwd", "/proc/self/fd/0", "/proc/self/exe"])
def test_magic_links_are_refused(path: str) -> None:
    host = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match="Too many levels"):
            paths.open_in_root(host, path)
    finally:
        os.close(host)


def test_descriptors_are_close_on_exec(root: int) -> None:
    descriptor = paths.open_in_root(root, "/etc/passwd", os.O_RDONLY)
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_a_file_name_need_not_be_utf8(tree: Path, root: int) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tree / name).write_text("coffee")
    assert read(root, name) == "coffee"


def made(root: int, path: str) -> None:
    os.close(paths.make_directories(root, path))


def test_directories_are_made_with_their_parents(tree: Path, root: int) -> None:
    made(root, "/a//b/./c/")
    made(root, "/a/b/c")
    assert (tree / "a/b/c").is_dir()


def test_existing_directories_keep_their_mode(tree: Path, root: int) -> None:
    (tree / "private").mkdir(0o700)
    made(root, "/private/below")
    assert stat.S_IMODE((tree / "private").stat().st_mode) == 0o700
    assert stat.S_IMODE((tree / "private/below").stat().st_mode) == 0o755


def test_directories_behind_a_link_are_made_inside(tree: Path, root: int, tmp_path: Path) -> None:
    (tree / "var").symlink_to("/../../real")
    (tree / "real").mkdir()
    made(root, "/var/lib/data")
    assert (tree / "real/lib/data").is_dir()
    assert not (tmp_path / "real").exists()


def test_dots_in_a_directory_that_is_to_be_made(tree: Path, root: int) -> None:
    made(root, "/x/../../y")
    assert (tree / "y").is_dir()
    assert not (tree.parent / "y").exists()


DANGLING = {
    "/nowhere": "nowhere",
    "../nowhere": "nowhere",
    "../../../../nowhere": "nowhere",
    "/../../nowhere": "nowhere",
    "nowhere/deeper": "nowhere/deeper",
    "./etc/../nowhere": "nowhere",
    "etc/up/nowhere": "nowhere",
    "/chain/sub": "etc/end/sub",
}


@pytest.mark.parametrize("directory", [True, False])
@pytest.mark.parametrize(("target", "where"), DANGLING.items())
def test_what_a_dangling_link_leads_to_is_made_inside(
    tree: Path, root: int, target: str, where: str, directory: bool
) -> None:
    """Case 10: for example /etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf."""
    (tree / "link").symlink_to(target)
    (tree / "etc/up").symlink_to("..")
    (tree / "chain").symlink_to("chain2")
    (tree / "chain2").symlink_to("/etc/end")
    assert stat.S_ISDIR(mount_point(root, "/link", directory)) == directory
    assert (tree / where).is_dir() == directory
    assert stat.S_ISDIR(mount_point(root, "/link", directory)) == directory  # it is there now
    assert sorted(os.listdir(tree.parent)) == ["secret", "tree"]


def test_below_a_dangling_link(tree: Path, root: int) -> None:
    (tree / "link").symlink_to("/real/dir")
    assert stat.S_ISREG(mount_point(root, "/link/sub/file", False))
    assert (tree / "real/dir/sub/file").is_file()


@pytest.mark.parametrize("directory", [True, False])
def test_a_loop_of_links_is_an_error(tree: Path, root: int, directory: bool) -> None:
    (tree / "one").symlink_to("two")
    (tree / "two").symlink_to("/one")
    with pytest.raises(OSError, match="Too many levels of symbolic links") as caught:
        paths.make_mount_point(root, "/one/sub", directory)
    assert caught.value.filename == "/one/sub"
    assert sorted(os.listdir(tree)) == ["etc", "one", "two"]


def test_links_are_followed_a_bounded_number_of_times(tree: Path, root: int) -> None:
    """The kernel follows 40; none of these comes back to itself before something has been made."""
    for number in range(60):
        (tree / f"l{number}").symlink_to(f"l{number + 1}")
    for path, fails in (("/l25", False), ("/l0", True)):
        if fails:
            (tree / "l60").rmdir()
            with pytest.raises(OSError, match="Too many levels of symbolic links"):
                paths.make_directories(root, path)
            assert not (tree / "l60").exists()
        else:
            os.close(paths.make_directories(root, path))


def test_a_path_that_grows_by_its_links_comes_to_an_end(tree: Path, root: int) -> None:
    """Each link doubles what is left: 2^16 components, and half of them are made anew each time."""
    for number in range(16):
        (tree / f"g{number}").symlink_to(f"g{number + 1}/../g{number + 1}")
    with pytest.raises(OSError, match=r"Too many levels|File name too long"):
        paths.make_directories(root, "/g0/x")


def test_a_link_to_below_a_file(tree: Path, root: int) -> None:
    (tree / "link").symlink_to("etc/passwd/deeper")
    with pytest.raises(NotADirectoryError):
        paths.make_directories(root, "/link")


@pytest.mark.parametrize("swapped", ["link", "nowhere"])
def test_a_link_that_is_changed_meanwhile_does_not_lead_out(
    tree: Path, root: int, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    """Case 10: another container has the same directory, and changes it right after each look at a link."""
    (tree / "link").symlink_to("nowhere/a/b")
    readlink = os.readlink

    def swap(name: str, *, dir_fd: int) -> str:
        found = readlink(name, dir_fd=dir_fd)
        (tree / swapped).unlink(missing_ok=True)
        (tree / swapped).symlink_to(f"../../../../../..{tree.parent}")
        return found

    monkeypatch.setattr(os, "readlink", swap)
    for directory in (True, False):
        with contextlib.suppress(OSError):
            os.close(paths.make_mount_point(root, "/link", directory))
    assert sorted(os.listdir(tree.parent)) == ["secret", "tree"]


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/passwd/sub"])
def test_a_file_in_the_way_of_a_directory(root: int, path: str) -> None:
    with pytest.raises(NotADirectoryError):
        paths.make_directories(root, path)


def mount_point(root: int, path: str, directory: bool) -> int:
    """The mode of the mount point."""
    descriptor = paths.make_mount_point(root, path, directory)
    try:
        return os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)


def test_a_mount_point_for_a_file_is_an_empty_file(tree: Path, root: int) -> None:
    assert mount_point(root, "/new/dir/file", False) == stat.S_IFREG | 0o644
    assert (tree / "new/dir/file").read_bytes() == b""
    assert mount_point(root, "/etc/passwd", False) & stat.S_IFREG
    assert (tree / "etc/passwd").read_text() == "inside"


def test_a_mount_point_for_a_directory(root: int) -> None:
    assert mount_point(root, "/new/dir", True) == stat.S_IFDIR | 0o755


def test_a_fifo_as_a_mount_point_does_not_block(tree: Path, root: int) -> None:
    os.mkfifo(tree / "fifo")
    assert stat.S_ISFIFO(mount_point(root, "/fifo", False))


@pytest.mark.parametrize("path", ["/etc", "/", "/etc/.."])
def test_a_file_is_not_mounted_on_a_directory(root: int, path: str) -> None:
    with pytest.raises(IsADirectoryError, match="it is a directory, not a file"):
        paths.make_mount_point(root, path, False)


def test_a_directory_is_not_mounted_on_a_file(tree: Path, root: int) -> None:
    (tree / "link").symlink_to("etc/passwd")
    for path in ("/etc/passwd", "/link"):
        with pytest.raises(NotADirectoryError, match="it is a file, not a directory"):
            paths.make_mount_point(root, path, True)


def test_what_is_no_regular_file_is_not_read(tree: Path, root: int) -> None:
    os.mkfifo(tree / "fifo")
    for path in ("/fifo", "/etc", "/"):
        with pytest.raises(OSError, match="not a regular file") as caught:
            paths.read_small_file(root, path)
        assert caught.value.filename == path


def test_a_file_is_read_up_to_the_limit(tree: Path, root: int) -> None:
    (tree / "full").write_bytes(b"x" * 1000)
    assert len(paths.read_small_file(root, "/full", limit=1000)) == 1000
    with pytest.raises(OSError, match="larger than 999 bytes"):
        paths.read_small_file(root, "/full", limit=999)
    assert paths.read_small_file(root, "/etc/passwd", limit=6) == b"inside"
