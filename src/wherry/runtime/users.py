"""``--user``: names and numbers to ids, by the rootfs's own /etc/passwd and /etc/group, read as data.

Whoever filled the rootfs chose what looking a user up costs, so the files have a size above which they are refused,
no line is looked at twice, and whoever has no time for a large one reads it elsewhere (``most``).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from wherry.errors import InvalidRequest
from wherry.kernel import paths
from wherry.kernel.libc import describe_errno

_FILE_MAX = 1 << 20
_MAXIMUM_ID = 2**31 - 1
_GROUPS_MAX = 65536  # NGROUPS_MAX: setgroups(2)


class User(NamedTuple):
    """``home`` is / for a user who is not in /etc/passwd, as in docker."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class LargeFileError(Exception):
    """A file is larger than the caller wanted to read."""


def lookup(root: int, user: str, most: int = _FILE_MAX, added: Sequence[str] = ()) -> User:
    """The user that ``user`` ("", "name", "uid", "name:group", "uid:gid") means in the root file system open at
    ``root``; no name is root, and no group after the colon is the user's own, as in docker. ``added`` are further
    groups.

    Raises InvalidRequest when a name is not there or a file cannot be read; numbers need no entry. LargeFileError when
    a file has more than ``most`` bytes, and less than are too many in any case.
    """
    found = _lookup(root, user, most)
    if not added:
        return found
    file = _File(root, "/etc/group", 4, most)
    return found._replace(groups=tuple(sorted({*found.groups, *(_group(file, group) for group in added)})))


def _lookup(root: int, user: str, most: int) -> User:
    name, _, group = user.partition(":")
    entry = _find(_File(root, "/etc/passwd", 7, most), name or "0")
    if entry is None and not name.isdecimal() and name:
        raise InvalidRequest(f"user {name!r} is not in the rootfs's /etc/passwd")
    uid = _number(entry[2], "uid") if entry else _number(name or "0", "uid")
    gid = _number(entry[3], "gid") if entry else 0
    home = (entry[5] if entry else "") or "/"
    if group:
        gid = _group(_File(root, "/etc/group", 4, most), group)
        return User(uid, gid, (gid,), home)
    # The primary group is among the supplementary ones as well: without it a process could drop out of a group whose
    # members a file keeps out (CVE-2022-36109).
    return User(uid, gid, _memberships(root, entry[0], gid, most) if entry else (gid,), home)


def _group(file: _File, group: str) -> int:
    entry = _find(file, group)
    if entry is None and not group.isdecimal():
        raise InvalidRequest(f"group {group!r} is not in the rootfs's /etc/group")
    return _number(entry[2] if entry else group, "gid")


def _memberships(root: int, name: str, gid: int, most: int) -> tuple[int, ...]:
    found = {gid}
    for entry in _File(root, "/etc/group", 4, most).lines_with(name):
        if name in entry[3].split(","):
            found.add(_number(entry[2], "gid"))
            if len(found) > _GROUPS_MAX:
                raise InvalidRequest(f"user {name!r} is in more than {_GROUPS_MAX} groups in the rootfs's /etc/group")
    return tuple(sorted(found))


def _find(file: _File, wanted: str) -> list[str] | None:
    for entry in file.lines_with(wanted):
        if entry[0] == wanted:
            return entry
    if not wanted.isdecimal():
        return None
    return next((entry for entry in file.lines_with(wanted) if entry[2] == wanted), None)


class _File:
    """The lines of a file that have the right number of fields; none when there is no file."""

    def __init__(self, root: int, path: str, fields: int, most: int) -> None:
        self._colons = fields - 1
        self._content = b""
        try:
            self._content = paths.read_small_file(root, path, most)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno == errno.EFBIG and most < _FILE_MAX:
                raise LargeFileError from None
            raise InvalidRequest(f"the rootfs's {path}: {describe_errno(error.errno or 0)}") from None

    def lines_with(self, text: str) -> Iterator[list[str]]:
        """Only lines in which ``text`` stands are taken apart, and each once."""
        wanted, content = os.fsencode(text), self._content
        start = 0
        while (found := content.find(wanted, start)) >= 0:
            begin = content.rfind(b"\n", start, found) + 1 or start
            end = content.find(b"\n", found)
            end = len(content) if end < 0 else end
            if content.count(b":", begin, end) == self._colons:
                yield content[begin:end].decode("utf-8", "surrogateescape").split(":")
            start = end + 1
            if start > len(content):
                return


def _number(text: str, what: str) -> int:
    # The length first: the interpreter refuses to convert thousands of digits.
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) <= _MAXIMUM_ID):
        raise InvalidRequest(f"{what} {text[:40]!r} is not a number between 0 and {_MAXIMUM_ID}")
    return int(text)
