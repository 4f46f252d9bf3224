"""``--user``: names and numbers to ids, by the rootfs's own /etc/passwd and /etc/group, read as data."""

from __future__ import annotations

from typing import NamedTuple

from wherry.errors import InvalidRequest
from wherry.kernel import paths
from wherry.kernel.libc import describe_errno

_MAXIMUM_ID = 2**31 - 1


class User(NamedTuple):
    """``home`` is / for a user who is not in /etc/passwd, as in docker."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def lookup(root: int, user: str) -> User:
    """The user that ``user`` ("", "name", "uid", "name:group", "uid:gid") means in the root file system open at
    ``root``; no name is root, and no group after the colon is the user's own, as in docker.

    Raises InvalidRequest when a name is not there or a file cannot be read; numbers need no entry.
    """
    name, _, group = user.partition(":")
    entry = _find(_lines(root, "/etc/passwd", 7), name or "0")
    if entry is None and not name.isdecimal() and name:
        raise InvalidRequest(f"user {name!r} is not in the rootfs's /etc/passwd")
    uid = _number(entry[2], "uid") if entry else _number(name or "0", "uid")
    gid = _number(entry[3], "gid") if entry else 0
    home = (entry[5] if entry else "") or "/"
    if group:
        gid = _group(root, group)
        return User(uid, gid, (gid,), home)
    # The primary group is among the supplementary ones as well: without it a process could drop out of a group whose
    # members a file keeps out (CVE-2022-36109).
    return User(uid, gid, _memberships(root, entry[0], gid) if entry else (gid,), home)


def _group(root: int, group: str) -> int:
    entry = _find(_lines(root, "/etc/group", 4), group)
    if entry is None and not group.isdecimal():
        raise InvalidRequest(f"group {group!r} is not in the rootfs's /etc/group")
    return _number(entry[2] if entry else group, "gid")


def _memberships(root: int, name: str, gid: int) -> tuple[int, ...]:
    found = {_number(entry[2], "gid") for entry in _lines(root, "/etc/group", 4) if name in entry[3].split(",")}
    return tuple(sorted(found | {gid}))


def _find(entries: list[list[str]], wanted: str) -> list[str] | None:
    for entry in entries:
        if entry[0] == wanted:
            return entry
    return next((entry for entry in entries if entry[2] == wanted), None) if wanted.isdecimal() else None


def _lines(root: int, path: str, fields: int) -> list[list[str]]:
    try:
        content = paths.read_small_file(root, path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidRequest(f"the rootfs's {path}: {describe_errno(error.errno or 0)}") from None
    split = [line.split(":") for line in content.decode("utf-8", "surrogateescape").split("\n")]
    return [entry for entry in split if len(entry) == fields]


def _number(text: str, what: str) -> int:
    # The length first: the interpreter refuses to convert thousands of digits.
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) <= _MAXIMUM_ID):
        raise InvalidRequest(f"{what} {text[:40]!r} is not a number between 0 and {_MAXIMUM_ID}")
    return int(text)
