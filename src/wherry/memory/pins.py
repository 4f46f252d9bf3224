"""Enforcers' descriptors by names in a bpffs, so that hard limits go on when supervisor and shim die together.

Each state directory has a directory of its own there, which only root may enter. A set of pins is made under a name
that nobody reads, and renamed when it is complete: whoever is killed meanwhile leaves the set before it in force.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Mapping

from wherry.kernel import bpf, mounts

_COMPLETE, _BEGUN = "set-", "new-"
_DOT = "@"  # bpffs reserves names with dots (kernel/bpf/inode.c: bpf_lookup)


class Unpinnable(Exception):
    """``str()`` is one line that says why nothing can be pinned there."""


class Pins:
    """``bpffs`` is where it is mounted, ``name`` this state directory's own name in it."""

    def __init__(self, bpffs: str, name: str) -> None:
        self._path = f"{bpffs}/wherry-{name}"
        self._pinned: dict[str, int] | None = None
        """What we have pinned; None before we have said anything of it."""

    @staticmethod
    def check(bpffs: str) -> None:
        """Raises Unpinnable."""
        if os.path.realpath(bpffs) not in mounts.points_of("bpf"):
            hint = f"mount -t bpf -o mode=700 bpf {bpffs}"
            raise Unpinnable(f"{bpffs} is no bpffs, in which limits could be pinned; {hint}")

    def open_all(self) -> dict[str, int]:
        """What an earlier supervisor has pinned, by the names that it had; the caller's to close. {} for nothing.

        Raises OSError.
        """
        found: dict[str, int] = {}
        for directory in self._sets(_COMPLETE)[-1:]:
            with contextlib.ExitStack() as undo:
                for name in sorted(os.listdir(directory)):
                    descriptor = bpf.open_pin(f"{directory}/{name}")
                    undo.callback(os.close, descriptor)
                    found[name.replace(_DOT, ".")] = descriptor
                undo.pop_all()
        return found

    def replace(self, descriptors: Mapping[str, int]) -> None:
        """Pin these, and nothing else. Raises OSError; then what was pinned is pinned still."""
        if descriptors == self._pinned:
            return
        old = self._sets(_COMPLETE)
        if descriptors:
            self._pin(descriptors)
        for directory in (*old, *self._sets(_BEGUN)):
            _remove(directory)
        if not descriptors:
            with contextlib.suppress(OSError):
                os.rmdir(self._path)
        self._pinned = dict(descriptors)

    def _pin(self, descriptors: Mapping[str, int]) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._path, 0o700)
        self._check_own()
        stamp = f"{time.time_ns():020d}"
        directory = f"{self._path}/{_BEGUN}{stamp}"
        os.mkdir(directory, 0o700)
        for name, descriptor in descriptors.items():
            bpf.pin(descriptor, f"{directory}/{name.replace('.', _DOT)}")
        os.rename(directory, f"{self._path}/{_COMPLETE}{stamp}")

    def _check_own(self) -> None:
        """Where others may make directories (mode 1777), one of them could have made ours. Raises PermissionError."""
        status = os.lstat(self._path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(1, "it is not ours alone", self._path)

    def _sets(self, prefix: str) -> list[str]:
        """Oldest first. Raises PermissionError."""
        try:
            self._check_own()
        except FileNotFoundError:
            return []
        return [f"{self._path}/{name}" for name in sorted(os.listdir(self._path)) if name.startswith(prefix)]


def _remove(directory: str) -> None:
    for name in os.listdir(directory):
        os.unlink(f"{directory}/{name}")
    os.rmdir(directory)
