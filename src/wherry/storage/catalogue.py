"""The unpacked archives of a store: what each takes, when it was used last, and how many use it now.

What must outlive the supervisor is in an extended attribute of the directory itself, so that it comes and goes with it.
In ``trusted.*``, which overlayfs needs of the file system anyway; a container, without CAP_SYS_ADMIN, does not see it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wherry.kernel.libc import describe
from wherry.storage.trees import TreeUsage

_log = logging.getLogger(__name__)
_ATTRIBUTE = "trusted.wherry.archive"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass
class Unpacked:
    """One archive. ``usage`` is None while nobody has measured it; ``made_ns`` and ``used_ns`` are when it was unpacked
    and used last, nanoseconds since the epoch.

    ``source`` is the path that it was unpacked from, "" when that is not known; ``users`` are containers, started or
    being started, and a supervisor that was told to have it ready.
    """

    digest: str
    source: str = ""
    usage: TreeUsage | None = None
    made_ns: int = 0
    used_ns: int = 0
    users: int = 0


class Catalogue:
    """Thread-safe: a lock over the table and over what makes an archive part of it, or takes it out."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        found = [name for name in os.listdir(directory) if self._is_archive(name)]
        self._table = {digest: _read(directory / digest, digest) for digest in found}

    def _is_archive(self, name: str) -> bool:
        """Whether there is a directory of that name itself: a link is nothing that we have unpacked."""
        try:
            return bool(_DIGEST.fullmatch(name)) and stat.S_ISDIR(os.lstat(self._directory / name).st_mode)
        except FileNotFoundError:
            return False

    def hold(self, digest: str) -> bool:
        """One more uses it; False when it is not there."""
        with self._lock:
            entry = self._table.get(digest)
            if entry is None and self._is_archive(digest):  # put there by another store
                entry = self._table[digest] = _read(self._directory / digest, digest)
            if entry is None:
                return False
            entry.users += 1
            self._touch(entry)
            return True

    def drop(self, digest: str) -> None:
        """The opposite of ``hold``."""
        with self._lock:
            entry = self._table.get(digest)
            if entry is not None and entry.users:
                entry.users -= 1
                self._touch(entry)

    def add(self, digest: str, source: str, usage: TreeUsage, move_in: Callable[[], None]) -> None:
        """A new one, held once; ``move_in`` gives the directory its name."""
        with self._lock:
            move_in()
            entry = self._table[digest] = Unpacked(digest, source, usage, time.time_ns(), users=1)
            self._touch(entry)

    def take_out(self, digest: str, move_away: Callable[[], None]) -> Unpacked | None:
        """It is no archive any more; None when it is none, or in use. ``move_away`` takes its name from it."""
        with self._lock:
            entry = self._table.get(digest)
            if entry is None or entry.users:
                return None
            move_away()
            del self._table[digest]
            return entry

    def measured(self, digest: str, usage: TreeUsage) -> None:
        with self._lock:
            if digest in self._table:
                self._table[digest].usage = usage
                self._write(self._table[digest])

    def all(self) -> list[Unpacked]:
        """Copies, the least recently used first."""
        with self._lock:
            return sorted((replace(entry) for entry in self._table.values()), key=lambda entry: entry.used_ns)

    def _touch(self, entry: Unpacked) -> None:
        entry.used_ns = time.time_ns()
        self._write(entry)

    def _write(self, entry: Unpacked) -> None:
        data = {"source": entry.source, "usage": entry.usage, "made_ns": entry.made_ns, "used_ns": entry.used_ns}
        try:
            os.setxattr(self._directory / entry.digest, _ATTRIBUTE, json.dumps(data).encode(), follow_symlinks=False)
        except OSError as error:  # then the next supervisor measures it, and takes it for old
            _log.debug("cannot note the use of %s: %s", entry.digest, describe(error))


def _read(path: Path, digest: str) -> Unpacked:
    """What an earlier supervisor noted; one of a version before that noted nothing."""
    changed = os.lstat(path).st_ctime_ns
    entry = Unpacked(digest, made_ns=changed, used_ns=changed)
    try:
        data: Any = json.loads(os.getxattr(path, _ATTRIBUTE, follow_symlinks=False))
        times = {name: int(data[name]) for name in ("made_ns", "used_ns")}
        return Unpacked(digest, str(data["source"]), TreeUsage(*map(int, data["usage"])), **times)
    except (OSError, ValueError, KeyError, TypeError):
        return entry
