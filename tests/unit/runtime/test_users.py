"""Users looked up in a root file system's own files, which may be hostile: read as data, confined, never blocking."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wherry.errors import InvalidRequest
from wherry.kernel import paths
from wherry.runtime.users import User, lookup
from wherry.supervisor import user_lookup

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:2:2:daemon:/sbin:/sbin/nologin
alice:x:1000:100:Alice:/home/alice:/bin/sh
homeless:x:1001:100:::/bin/sh
1234:x:55:66:numeric name:/home/n:/bin/sh
twice:x:7:7::/first:/bin/sh
twice:x:8:8::/second:/bin/sh
nobody:x:65534:65534:nobody:/:/sbin/nologin
"""
GROUP = """root:x:0:root
wheel:x:10:root,alice
users:x:100:games
audio:x:63:alice,bob
alicelike:x:77:malice,alice2
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


@pytest.fixture
def find(tree: Path) -> Iterator[Callable[[str], User]]:
    """``lookup`` in the tree, within five seconds."""
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY)

    def find(user: str) -> User:
        signal.alarm(5)
        try:
            return lookup(root, user)
        finally:
            signal.alarm(0)

    yield find
    os.close(root)


Find = Callable[[str], User]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", User(0, 0, (0, 10), "/root")),
        ("root", User(0, 0, (0, 10), "/root")),
        ("0", User(0, 0, (0, 10), "/root")),
        ("alice", User(1000, 100, (10, 63, 100), "/home/alice")),
        ("1000", User(1000, 100, (10, 63, 100), "/home/alice")),
        ("alice:wheel", User(1000, 10, (10,), "/home/alice")),
        ("alice:5", User(1000, 5, (5,), "/home/alice")),
        ("alice:100", User(1000, 100, (100,), "/home/alice")),
        ("4000", User(4000, 0, (0,), "/")),
        ("4000:4001", User(4000, 4001, (4001,), "/")),
        (":63", User(0, 63, (63,), "/root")),
        ("alice:", User(1000, 100, (10, 63, 100), "/home/alice")),
        ("1000:", User(1000, 100, (10, 63, 100), "/home/alice")),
        ("4000:", User(4000, 0, (0,), "/")),
        (":", User(0, 0, (0, 10), "/root")),
        ("1000:0", User(1000, 0, (0,), "/home/alice")),
        (":wheel", User(0, 10, (10,), "/root")),
        ("homeless", User(1001, 100, (100,), "/")),
        ("1234", User(55, 66, (66,), "/home/n")),
        ("twice", User(7, 7, (7,), "/first")),
        (str(2**31 - 1), User(2**31 - 1, 0, (0,), "/")),
    ],
)
def test_lookup(find: Find, user: str, expected: User) -> None:
    """Case 13: no group after the colon is the user's own, as in docker."""
    assert find(user) == expected


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("carol", "user 'carol' is not in the rootfs's /etc/passwd"),
        ("alice:carol", "group 'carol' is not in the rootfs's /etc/group"),
        ("ROOT", "user 'ROOT' is not in"),
        ("-1", "user '-1' is not in"),
        ("alice:-1", "group '-1' is not in"),
        ("-1:", "user '-1' is not in"),
        ("alice::", "group ':' is not in"),
        (f"{2**32 - 2}:", "is not a number between"),
        (f":{2**32 - 1}", "is not a number between"),
        (str(2**31), "uid '2147483648' is not a number between"),
        (f"0:{2**32}", "gid '4294967296' is not a number between"),
        ("9" * 5000, "is not a number between"),
        ("\u0661", "is not a number between"),
        ("ali", "user 'ali' is not in"),
    ],
)
def test_users_that_are_not_there(find: Find, user: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        find(user)


def test_without_files_numbers_still_mean_themselves(tree: Path, find: Find) -> None:
    (tree / "etc/passwd").unlink()
    (tree / "etc/group").unlink()
    assert find("") == User(0, 0, (0,), "/")
    assert find("12:34") == User(12, 34, (34,), "/")
    with pytest.raises(InvalidRequest, match="user 'root' is not in"):
        find("root")


def test_malformed_lines_are_passed_over(tree: Path, find: Find) -> None:
    junk = b"\n:::::\n\xff\xfe\0\nalice\nalice:x:5\nalice:x:1:1:::sh:extra\n#alice:x:1:1:::\n+::::::\n"
    (tree / "etc/passwd").write_bytes(junk + PASSWD.encode())
    (tree / "etc/group").write_bytes(b"wheel\nwheel:x\nwheel:x:1:2:3\n\n" + GROUP.encode())
    assert find("alice") == User(1000, 100, (10, 63, 100), "/home/alice")


@pytest.mark.parametrize("uid", ["", "x", "-5", "1e3", "99999999999"])
def test_an_entry_with_a_bad_number_is_named(tree: Path, find: Find, uid: str) -> None:
    (tree / "etc/passwd").write_text(f"bad:x:{uid}:1::/:/bin/sh\n")
    with pytest.raises(InvalidRequest, match=f"uid '{uid}' is not a number"):
        find("bad")


def test_a_name_need_not_be_utf8(tree: Path, find: Find) -> None:
    (tree / "etc/passwd").write_bytes(b"caf\xe9:x:5:6::/home/caf\xe9:/bin/sh\n")
    assert find(os.fsdecode(b"caf\xe9")) == User(5, 6, (6,), os.fsdecode(b"/home/caf\xe9"))


def test_only_a_newline_ends_a_line(tree: Path, find: Find) -> None:
    """Not what Unicode calls a line boundary: these are parts of a name to every C library."""
    (tree / "etc/passwd").write_text("zoe:x:5:6:Zo\u2028e\x0c\x85:/home/zoe:/bin/sh\n")
    assert find("zoe").uid == 5


@pytest.mark.parametrize("target", ["/secret/passwd", "../../../secret/passwd"])
def test_a_link_does_not_lead_out(
    tree: Path, find: Find, tmp_path_factory: pytest.TempPathFactory, target: str
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "passwd").write_text("eve:x:666:666::/:/bin/sh\n")
    (tree / "etc/passwd").unlink()
    (tree / "etc/passwd").symlink_to(target.replace("/secret", str(outside)))
    with pytest.raises(InvalidRequest, match="user 'eve' is not in"):
        find("eve")


def test_a_link_inside_is_followed(tree: Path, find: Find) -> None:
    (tree / "etc/passwd").rename(tree / "real")
    (tree / "etc/passwd").symlink_to("/real")
    assert find("alice").uid == 1000


@pytest.mark.parametrize("file", ["passwd", "group"])
def test_a_fifo_does_not_block(tree: Path, find: Find, file: str) -> None:
    (tree / "etc" / file).unlink()
    os.mkfifo(tree / "etc" / file)
    with pytest.raises(InvalidRequest, match=f"the rootfs's /etc/{file}"):
        find("alice")


@pytest.mark.parametrize("make", [os.mkdir, lambda path: os.symlink("passwd", path)])
def test_what_is_no_file_is_refused(tree: Path, find: Find, make: Callable[[Path], None]) -> None:
    (tree / "etc/passwd").unlink()
    make(tree / "etc/passwd")
    with pytest.raises(InvalidRequest, match="the rootfs's /etc/passwd: "):
        find("0")


def test_a_huge_file_is_refused(tree: Path, find: Find) -> None:
    os.truncate(tree / "etc/passwd", 1 << 40)  # sparse
    with pytest.raises(InvalidRequest, match="the rootfs's /etc/passwd: file too large"):
        find("alice")


def test_a_large_file_is_not_read_on_the_event_loop(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 23: 1 MiB of /etc/passwd kept all clients waiting for 150 ms."""
    read_in = []
    read_small_file = paths.read_small_file

    def read(root: int, path: str, most: int) -> bytes:
        read_in.append((threading.current_thread() is threading.main_thread(), most))
        return read_small_file(root, path, most)

    monkeypatch.setattr(paths, "read_small_file", read)
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    try:
        assert asyncio.run(user_lookup.find_user(root, "alice")).uid == 1000
        assert {is_main for is_main, _ in read_in} == {True}
        read_in.clear()
        (tree / "etc/group").write_bytes(b"alice:\n" * 100_000 + GROUP.encode())
        assert asyncio.run(user_lookup.find_user(root, "alice")).groups == (10, 63, 100)
        assert all(most <= user_lookup.QUICK for is_main, most in read_in if is_main)
        assert any(not is_main for is_main, _ in read_in)
        (tree / "etc/passwd").write_bytes(b"a" * (2 << 20))
        with pytest.raises(InvalidRequest, match="the rootfs's /etc/passwd: file too large"):
            asyncio.run(user_lookup.find_user(root, "alice"))
    finally:
        os.close(root)


HOSTILE = {
    "colons": b":" * 900_000,
    "lines that begin like the user's": b"alice:\n" * 130_000,
    "empty lines": b"\n" * 900_000,
    "one line": b"alice" * 180_000,
    "one line of names": b"x:x:5:" + b"alice," * 150_000 + b"alice",
    "no newline at the end": b"\n\nalice",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_change_nothing(tree: Path, find: Find, content: bytes) -> None:
    """Case 23."""
    (tree / "etc/passwd").write_bytes(PASSWD.encode() + content)
    (tree / "etc/group").write_bytes(GROUP.encode() + content)
    assert find("alice").uid == 1000
    assert find("4000:4001").gid == 4001
    with pytest.raises(InvalidRequest, match="is not in"):
        find("alic")


def test_more_groups_than_a_process_can_have(tree: Path, find: Find) -> None:
    """setgroups(2): NGROUPS_MAX."""
    (tree / "etc/group").write_text("".join(f"g:x:{gid}:alice\n" for gid in range(65537)))
    with pytest.raises(InvalidRequest, match="user 'alice' is in more than 65536 groups"):
        find("alice")


def test_further_groups_are_looked_up_as_the_first(tree: Path) -> None:
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    try:
        assert lookup(root, "alice", added=["audio", "4242", "10"]).groups == (10, 63, 100, 4242)
        assert lookup(root, "5:6", added=["wheel"]) == User(5, 6, (6, 10), "/")
        for wrong in ("nosuch", "99999999999"):
            with pytest.raises(InvalidRequest, match=wrong):
                lookup(root, "", added=["wheel", wrong])
    finally:
        os.close(root)
