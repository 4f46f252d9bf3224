"""Unpacking keeps all that GNU tar keeps, and treats members that meet as tar does."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tarballs import COMPRESS, END, directory, file, hard_link, header, pax, symlink

from wherry.errors import InvalidRequest
from wherry.storage.rootfs import RootfsStore

pytestmark = pytest.mark.root

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
WHEN = 1_500_000_000_123_456_789


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RootfsStore]:
    yield RootfsStore(tmp_path / "store")
    subprocess.run(["rm", "-rf", tmp_path / "store"], check=True)  # may be too deep for pytest


@pytest.fixture
def unpacked(tmp_path: Path, store: RootfsStore) -> Callable[..., Path]:
    """The directory that an archive of these members becomes."""

    def unpack(*members: bytes) -> Path:
        archive = tmp_path / "archive.tar"
        archive.write_bytes(b"".join(members) + END)
        return store.resolve(str(archive))

    return unpack


def describe(path: Path) -> tuple[Any, ...]:
    """All that unpacking has to keep of one file."""
    status = path.lstat()
    content: bytes | str = ""
    if path.is_symlink():
        content = os.readlink(path)
    elif path.is_file():
        content = path.read_bytes()
    attributes = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if name != "trusted.wherry.archive"  # the store's own, of the root
    }
    return (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev, content, attributes)


def snapshot(root: Path) -> dict[str, Any]:
    paths = [root, *sorted(root.rglob("*"))]
    found: dict[str, Any] = {str(path.relative_to(root)): describe(path) for path in paths}
    links: dict[int, list[str]] = {}
    for path in paths:
        if not path.is_dir() or path.is_symlink():
            links.setdefault(path.lstat().st_ino, []).append(str(path.relative_to(root)))
    return found | {"hard links": sorted(group for group in links.values() if len(group) > 1)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with one of each."""
    root = tmp_path / "source"
    (root / "usr/lib/deep").mkdir(parents=True)
    (root / "empty").write_bytes(b"")
    (root / "big").write_bytes(os.urandom(3_000_001))
    (root / "usr/lib/deep/program").write_bytes(b"\x7fELF")
    os.link(root / "usr/lib/deep/program", root / "other name")
    (root / "usr/lib/link").symlink_to("deep/program")
    (root / "lib").symlink_to("usr/lib")
    (root / "absolute").symlink_to("/nowhere/at all")
    os.link(root / "absolute", root / "linked link", follow_symlinks=False)
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK, os.makedev(259, 70_000))
    (root / os.fsdecode(b"caf\xe9 \xff\n\\")).write_bytes(b"name in Latin-1")
    (root / ("long " * 30)).mkdir()
    (root / ("long " * 30) / ("longer " * 30)).write_bytes(b"x")
    (root / "attributes").write_bytes(b"x")
    (root / "private").mkdir()
    (root / "tmp").mkdir()
    _set_attributes(root)
    return root


def _set_attributes(root: Path) -> None:
    os.setxattr(root / "attributes", "user.any", bytes(range(256)))
    os.setxattr(root / "attributes", "user.empty", b"")
    os.setxattr(root / "private", "user.of a directory", b"yes")
    paths = sorted(root.rglob("*"), reverse=True)
    for number, path in enumerate([*paths, root]):
        os.chown(path, 1000 + number, 100_000 + number, follow_symlinks=False)
        os.utime(path, ns=(WHEN + number, WHEN + number), follow_symlinks=False)
    for name, mode in {
        "usr/lib/deep/program": 0o6755,
        "tmp": 0o1777,
        "private": 0o2500,
        "empty": 0,
        "null": 0o666,
    }.items():
        (root / name).chmod(mode)
    (root / "fifo").chmod(0o640)
    os.setxattr(root / "usr/lib/deep/program", "security.capability", CAPABILITY)


@pytest.mark.parametrize("compression", COMPRESS)
def test_all_that_gnu_tar_stores_is_kept(store: RootfsStore, source: Path, tmp_path: Path, compression: str) -> None:
    command = ["tar", "--format=posix", "--xattrs", "--xattrs-include=*", "-C", str(source), "-cf", "-", "."]
    stored = subprocess.run(command, check=True, capture_output=True).stdout
    (tmp_path / "archive").write_bytes(COMPRESS[compression](stored))
    assert snapshot(store.resolve(str(tmp_path / "archive"))) == snapshot(source)


def test_the_gnu_format_is_kept_as_far_as_it_goes(store: RootfsStore, source: Path, tmp_path: Path) -> None:
    for path in sorted(source.rglob("*"), reverse=True):
        for name in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, name)
        os.utime(path, (1_400_000_000, 1_400_000_000), follow_symlinks=False)
    os.utime(source, (1_400_000_000, 1_400_000_000))
    subprocess.run(["tar", "--format=gnu", "-C", source, "-cf", tmp_path / "archive", "."], check=True)
    assert snapshot(store.resolve(str(tmp_path / "archive"))) == snapshot(source)


def test_busybox_tar(store: RootfsStore, source: Path, tmp_path: Path) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("needs busybox")
    subprocess.run(["busybox", "tar", "-C", source / "usr", "-cf", tmp_path / "archive", "."], check=True)
    found = store.resolve(str(tmp_path / "archive"))
    assert (found / "lib/link").read_bytes() == b"\x7fELF"


def test_sparse_files_stay_sparse(store: RootfsStore, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with (tmp_path / "in/sparse").open("wb") as out:
        out.seek(50 << 20)
        out.write(b"in the middle")
        out.truncate(100 << 20)
    subprocess.run(["tar", "--format=posix", "-S", "-C", tmp_path / "in", "-cf", tmp_path / "a.tar", "."], check=True)
    found = store.resolve(str(tmp_path / "a.tar")) / "sparse"
    assert found.stat().st_size == 100 << 20
    assert found.stat().st_blocks * 512 < 1 << 20
    assert found.read_bytes() == bytes(50 << 20) + b"in the middle" + bytes((50 << 20) - 13)


def test_leading_dots_and_slashes_are_stripped(unpacked: Callable[..., Path]) -> None:
    found = unpacked(file("./a", b"a"), file("/b", b"b"), file("//c/./d//e", b"e"), hard_link("/h", "/./a"))
    assert sorted(str(path.relative_to(found)) for path in found.rglob("*")) == ["a", "b", "c", "c/d", "c/d/e", "h"]
    assert (found / "h").samefile(found / "a")


def test_the_root_has_the_attributes_that_the_archive_gives_it(unpacked: Callable[..., Path]) -> None:
    found = unpacked(header("./", "5", mode=0o1750, owner=(5, 6), mtime=1234), file("f"))
    assert describe(found)[:4] == (stat.S_IFDIR | 0o1750, 5, 6, 1234 * 10**9)


def test_what_the_archive_does_not_mention_is_roots_and_0755(unpacked: Callable[..., Path]) -> None:
    before = os.umask(0o077)
    try:
        found = unpacked(file("a/b/c", mode=0o666), directory("d", mode=0o777))
    finally:
        os.umask(before)
    assert [describe(found / name)[:3] for name in ("", "a", "a/b")] == [(stat.S_IFDIR | 0o755, 0, 0)] * 3
    assert stat.S_IMODE((found / "a/b/c").stat().st_mode) == 0o666
    assert stat.S_IMODE((found / "d").stat().st_mode) == 0o777


def test_directories_keep_their_times_although_they_are_filled_later(unpacked: Callable[..., Path]) -> None:
    found = unpacked(
        directory(".", mtime=1), directory("a", mtime=2), file("f"), directory("a/b", mtime=3), file("a/b/c")
    )
    assert [(found / name).stat().st_mtime for name in ("", "a", "a/b")] == [1, 2, 3]


def test_a_later_member_replaces_an_earlier_one(unpacked: Callable[..., Path]) -> None:
    found = unpacked(
        *(file("f", b"old", mode=0o600), file("f", b"new", mode=0o644)),
        *(symlink("s", "f"), file("s", b"file")),
        *(file("d", b"file"), directory("d", mode=0o700), file("d/in")),
        *(directory("e"), file("e", b"file")),
        *(directory("again", mode=0o700), file("again/kept"), directory("again", mode=0o711)),
        *(header("fifo", "6"), header("fifo", "3", device=(1, 3))),
    )
    assert ((found / "f").read_bytes(), (found / "s").read_bytes(), (found / "e").read_bytes()) == (
        b"new",
        b"file",
        b"file",
    )
    assert not (found / "s").is_symlink()
    assert (found / "d/in").is_file()
    assert (found / "again/kept").is_file()
    assert stat.S_IMODE((found / "again").stat().st_mode) == 0o711
    assert (found / "fifo").is_char_device()


def test_replacing_one_hard_link_leaves_the_other(unpacked: Callable[..., Path]) -> None:
    found = unpacked(file("a", b"old"), hard_link("b", "a"), file("a", b"new"))
    assert ((found / "a").read_bytes(), (found / "b").read_bytes()) == (b"new", b"old")


def test_a_hard_link_to_itself_keeps_the_file(unpacked: Callable[..., Path]) -> None:
    found = unpacked(file("a", b"content"), hard_link("a", "a"), hard_link("b", "a"), hard_link("b", "./a"))
    assert (found / "b").read_bytes() == b"content"
    assert (found / "a").stat().st_nlink == 2


def test_a_hard_link_to_a_symbolic_link_is_to_the_link(unpacked: Callable[..., Path]) -> None:
    found = unpacked(file("f", b"content"), symlink("s", "f"), hard_link("h", "s"))
    assert os.readlink(found / "h") == "f"
    assert (found / "f").stat().st_nlink == 1


def test_members_below_a_symbolic_link_go_where_it_leads_inside(unpacked: Callable[..., Path]) -> None:
    found = unpacked(
        *(directory("usr/lib"), symlink("lib", "usr/lib"), file("lib/relative", b"1")),
        *(symlink("abs", "/usr"), file("abs/lib/absolute", b"2")),
        *(symlink("usr/up", "../../../../../usr/lib"), file("usr/up/above", b"3")),
        *(hard_link("linked", "lib/relative"),),
    )
    assert sorted(path.name for path in (found / "usr/lib").iterdir()) == ["above", "absolute", "relative"]
    assert (found / "linked").read_bytes() == b"1"


def test_a_directory_member_replaces_a_link_to_a_directory(unpacked: Callable[..., Path]) -> None:
    found = unpacked(directory("real", mode=0o700), symlink("d", "real"), directory("d", mode=0o777), file("d/f"))
    assert not (found / "d").is_symlink()
    assert list((found / "real").iterdir()) == []
    assert stat.S_IMODE((found / "real").stat().st_mode) == 0o700


def test_other_machines_labels_and_orders_to_overlayfs_are_left_out(unpacked: Callable[..., Path]) -> None:
    names = [
        "trusted.overlay.redirect",
        "trusted.overlay.opaque",
        "security.selinux",
        "com.apple.quarantine",
        "user.ours",
    ]
    found = unpacked(pax({f"SCHILY.xattr.{name}": b"y" for name in names}) + directory("d"))
    assert os.listxattr(found / "d") == ["user.ours"]


def test_a_file_system_without_extended_attributes_gets_the_rest(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    # ramfs has none at all; tmpfs has those that begin with "user." since Linux 6.6.
    subprocess.run(["mount", "-t", "ramfs", "ramfs", mounted], check=True)
    try:
        (tmp_path / "a.tar").write_bytes(pax({"SCHILY.xattr.user.x": b"y"}) + file("f", b"content") + END)
        assert (RootfsStore(mounted).resolve(str(tmp_path / "a.tar")) / "f").read_bytes() == b"content"
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_path_of_nearly_path_max_works(unpacked: Callable[..., Path]) -> None:
    name = "/".join(["d"] * 2000)
    found = unpacked(file(name, b"deep"))
    listed = subprocess.run(["find", found, "-type", "f", "-printf", "%d"], check=True, capture_output=True).stdout
    assert listed == b"2000"


REFUSED = {
    "a file where a directory with files is": ([file("d/f"), file("d")], "file 'd': a directory with files is there"),
    "a link where a directory with files is": ([file("d/f"), symlink("d", "x")], "symbolic link 'd': a directory with"),
    "a member below a file": ([file("f"), file("f/x")], r"'f/x': not a directory \(ENOTDIR\)"),
    "a member below a dangling link": ([symlink("l", "no"), file("l/x")], "lies below 'l', a symbolic link to nothing"),
    "a member below a loop": ([symlink("l", "l"), file("l/x")], "'l/x': too many levels of symbolic links"),
    "a link to a later file": ([hard_link("h", "f"), file("f")], "hard link 'h' to 'f', which is no earlier file"),
    "a link to a directory": ([directory("d"), hard_link("h", "d")], "hard link 'h' to 'd', which is no earlier file"),
    "a link to the root": ([hard_link("h", ".")], "hard link 'h' to '.', which is no earlier file"),
    "a link to nothing": ([hard_link("h", "")], "hard link 'h' to '', which is no earlier file"),
    "a symbolic link to nothing": ([symlink("s", "")], r"'s': no such file or directory \(ENOENT\)"),
    "a name of 256 bytes": ([file("n" * 256)], r"file name too long \(ENAMETOOLONG\)"),
    "a directory path of 4096 bytes": (
        [file("n/" * 2050 + "x")],
        r"name too long \(ENAMETOOLONG\)",
    ),
    "a device number of 13 bits": ([header("d", "3", device=(4096, 0))], "device 'd': number 4096:0 is too large"),
    "a name with control characters": ([file("\x1b[2J\n"), file("\x1b[2J\n/x")], r"'\\x1b\[2J\\n/x': not a dir"),
    "no member at all": ([], "the archive is empty"),
}


@pytest.mark.parametrize(("members", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_made_is_refused_and_nothing_is_left(
    unpacked: Callable[..., Path], tmp_path: Path, members: list[bytes], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as refused:
        unpacked(file("before", b"x" * 100_000), *members) if members else unpacked()
    assert f"{tmp_path}/archive.tar" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path / "store") == []
