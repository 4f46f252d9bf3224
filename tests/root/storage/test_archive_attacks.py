"""Hostile archives: nothing outside the target directory is written, linked to, or given other attributes."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tarballs import END, directory, file, hard_link, header, pax, symlink

from wherry.errors import InvalidRequest
from wherry.storage.rootfs import RootfsStore
from wherry.storage.trees import remove

pytestmark = pytest.mark.root

DEEP = b"/".join([b"d"] * 1000)


class World:
    """A store, and beside it what an attacker is after: a file, a directory with a file, a link."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.victim = base / "victim"
        self.victim.mkdir(mode=0o755)
        (self.victim / "file").write_bytes(b"secret")
        (self.victim / "dir").mkdir()
        (self.victim / "link").symlink_to("file")
        self.store = RootfsStore(base / "store")
        self.up = "/".join([".."] * 30)

    def snapshot(self) -> dict[str, Any]:
        """Everything but what is in the store's own directory, and some of the machine's."""
        paths = [self.base, self.victim, *self.victim.rglob("*"), *map(Path, ["/etc/passwd", "/etc", "/", "/dev/null"])]
        return {str(path): _describe(path) for path in paths}

    def unpack(self, *members: bytes) -> Path:
        """Unpack, failing if anything outside changed. Raises InvalidRequest."""
        archive = self.victim / "archive.tar"
        archive.write_bytes(b"".join(members) + END)
        before = self.snapshot()
        try:
            return self.store.resolve(str(archive))
        finally:
            assert self.snapshot() == before

    def left(self) -> list[str]:
        return os.listdir(self.base / "store")


def _describe(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    content = path.read_bytes() if stat.S_ISREG(status.st_mode) else sorted(os.listdir(path)) if path.is_dir() else ""
    shared = path in {Path("/"), Path("/etc")}  # other processes may change their times
    times = () if shared else (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_mode, status.st_uid, status.st_gid, status.st_ino, status.st_nlink, times, content)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield World(tmp_path)
    subprocess.run(["rm", "-rf", tmp_path / "store"], check=True)  # may be too deep for pytest


Attack = list[bytes] | Callable[[World], list[bytes]]

# Each is refused as a whole.
REFUSED: dict[str, tuple[Attack, str]] = {
    "a name with ..": ([file("../x")], 'has ".." in it'),
    "a name with .. inside": ([directory("a"), file("a/../../x")], 'has ".." in it'),
    "a name that only ends in ..": ([directory("a/..", mode=0o777)], 'has ".." in it'),
    "a pax path with ..": ([pax({"path": b"../x"}) + file("x")], 'has ".." in it'),
    "a global pax path with ..": ([pax({"path": b"../x"}, "g") + file("x")], 'has ".." in it'),
    "a long name with ..": ([file("a/" * 200 + "../" * 300)], 'has ".." in it'),
    "a sparse file's name with ..": (
        [pax({"GNU.sparse.map": b"0,1", "GNU.sparse.size": b"1", "GNU.sparse.name": b"../x"}) + file("x", b"x")],
        'has ".." in it',
    ),
    "a hard link with ..": (lambda w: [hard_link("h", f"{w.up}/etc/passwd")], 'has ".." in it'),
    "a pax hard link with ..": (
        [file("f"), pax({"linkpath": b"../../victim/file"}) + hard_link("h", "f")],
        'has ".." in it',
    ),
    "a hard link to /etc/passwd": ([hard_link("h", "/etc/passwd")], "no earlier file of the archive"),
    "a hard link to a file by its path": (lambda w: [hard_link("h", f"{w.victim}/file")], "no earlier file"),
    "a hard link below a symbolic link": (
        lambda w: [symlink("d", str(w.victim)), hard_link("h", "d/file")],
        "no earlier file",
    ),
    "a hard link below a relative link": (
        lambda w: [symlink("d", f"{w.up}{w.victim}"), hard_link("h", "d/file")],
        "no earlier file",
    ),
    "a file below a symbolic link": (
        lambda w: [symlink("d", str(w.victim)), file("d/x")],
        "a symbolic link to nothing",
    ),
    "a file below a relative link": (
        lambda w: [symlink("d", f"{w.up}{w.victim}"), file("d/x")],
        "a symbolic link to nothing",
    ),
    "a file below two links": (
        lambda w: [symlink("a", "b"), symlink("b", str(w.victim)), file("a/x")],
        "a symbolic link to nothing",
    ),
    "a file below /proc/self/root": (
        lambda w: [symlink("p", "/proc/self/root"), file(f"p{w.victim}/x")],
        "a symbolic link to nothing",
    ),
    "a directory swapped for a link": (
        lambda w: [directory("d"), symlink("d", str(w.victim)), file("d/x")],
        "a symbolic link to nothing",
    ),
    "the root as a link": (lambda w: [symlink(".", str(w.victim)), file("x")], "makes the root a symbolic link"),
    "the root as a file": ([file(".", b"x")], "makes the root a file"),
    "the root as a hard link": ([file("f"), hard_link("/", "f")], "makes the root a hard link"),
    "the root as a device": ([header("", "3", device=(1, 3))], "makes the root a character device"),
    "a nameless file": ([file("", b"x")], "member '' makes the root a file"),
    "an unknown type": (lambda w: [header("x", "Z", link=str(w.victim))], "unknown member type 'Z'"),
}


@pytest.mark.attack("archive-escape", "blocked")
@pytest.mark.parametrize(("attack", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_an_attack_is_refused_and_nothing_is_left(world: World, attack: Attack, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        world.unpack(file("harmless"), *(attack(world) if callable(attack) else attack))
    assert world.left() == []


# Each is unpacked, inside: the path in it, and what is there then.
CONTAINED: dict[str, tuple[Attack, str, int]] = {
    "an absolute name": (lambda w: [file(f"{w.victim}/new")], "{victim}/new", stat.S_IFREG),
    "a file over a link to a file": (lambda w: [symlink("f", f"{w.victim}/file"), file("f", b"x")], "f", stat.S_IFREG),
    "a directory over a link to a directory": (
        lambda w: [symlink("d", str(w.victim)), directory("d", mode=0o777)],
        "d",
        stat.S_IFDIR,
    ),
    "a device over a link": (
        lambda w: [symlink("n", f"{w.victim}/file"), header("n", "3", device=(1, 3))],
        "n",
        stat.S_IFCHR,
    ),
    "a FIFO over a link": (
        lambda w: [symlink("n", f"{w.victim}/file"), header("n", "6", mode=0o777)],
        "n",
        stat.S_IFIFO,
    ),
    "a link over a link": (lambda w: [symlink("s", str(w.victim)), symlink("s", "other")], "s", stat.S_IFLNK),
    "a file over a hard link to a link": (
        lambda w: [symlink("s", f"{w.victim}/file"), hard_link("h", "s"), file("h", b"x", mode=0o777)],
        "h",
        stat.S_IFREG,
    ),
    "owner and mode of a link": (
        lambda w: [header("s", "2", link=f"{w.victim}/file", mode=0o4777, owner=(1000, 1000), mtime=5)],
        "s",
        stat.S_IFLNK,
    ),
    "a link with an attribute for its target": (
        lambda w: [pax({"SCHILY.xattr.trusted.x": b"y"}) + symlink("s", f"{w.victim}/file")],
        "s",
        stat.S_IFLNK,
    ),
    "the time of a directory that became a link": (
        lambda w: [directory("d", mtime=5), symlink("d", str(w.victim))],
        "d",
        stat.S_IFLNK,
    ),
    "the time of a directory below a link": (
        lambda w: [
            *(
                directory("in/dir", mtime=5),
                symlink("l", "in"),
                directory("l/dir", mtime=6),
                symlink("l", str(w.victim)),
            ),
        ],
        "l",
        stat.S_IFLNK,
    ),
    "a link to the root": ([symlink("r", "/"), file("r/etc/passwd", b"x")], "etc/passwd", stat.S_IFREG),
    "a link above the root": (
        lambda w: [symlink("r", w.up), file("r/etc/passwd", b"x", mode=0o666)],
        "etc/passwd",
        stat.S_IFREG,
    ),
    "links that meet inside": (
        lambda w: [directory(f"{w.victim}"), symlink("d", f"{w.up}{w.victim}"), file("d/file", b"x")],
        "{victim}/file",
        stat.S_IFREG,
    ),
    "a set-user-ID program behind the store's mode": ([file("su", b"x", mode=0o4755)], "su", stat.S_IFREG),
}


@pytest.mark.attack("archive-escape", "blocked")
@pytest.mark.parametrize(("attack", "path", "kind"), CONTAINED.values(), ids=CONTAINED.keys())
def test_an_attack_stays_inside(world: World, attack: Attack, path: str, kind: int) -> None:
    found = world.unpack(*(attack(world) if callable(attack) else attack))
    made = found / path.format(victim=world.victim).lstrip("/")
    assert stat.S_IFMT(made.lstat().st_mode) == kind
    assert found.parent == world.base / "store"


def test_others_have_no_way_to_what_is_unpacked(world: World) -> None:
    found = world.unpack(directory(".", mode=0o777), file("su", b"x", mode=0o4755))
    assert stat.S_IMODE((world.base / "store").stat().st_mode) == 0o700
    assert stat.S_IMODE((found / "su").stat().st_mode) == 0o4755
    reader = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "test", "-e", str(found / "su")]
    assert subprocess.run(reader, check=False).returncode == 1


def far_down(levels: int) -> list[bytes]:
    """Directories ``levels`` thousand deep, far beyond PATH_MAX: by links, each to a directory 1000 below the last."""
    members = [symlink("link 0", ".")]
    for level in range(levels):
        bottom = f"link {level}/".encode() + DEEP
        members += [directory(bottom), symlink(f"link {level + 1}", bottom)]
    return members


def test_a_tree_of_any_depth_is_removed_when_its_archive_is_refused(world: World) -> None:
    with pytest.raises(InvalidRequest, match=r"\.\."):
        world.unpack(*far_down(4), file(".."))
    assert world.left() == []


def test_removing_follows_no_link(world: World) -> None:
    found = world.unpack(
        *far_down(2), symlink("s", str(world.victim)), *[directory(f"wide/{n}/x") for n in range(2000)]
    )
    before = world.snapshot()
    parent = os.open(world.base / "store", os.O_RDONLY)
    try:
        remove(parent, found.name)
    finally:
        os.close(parent)
    assert world.snapshot() == before
    assert world.left() == []
