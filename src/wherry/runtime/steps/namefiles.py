"""Steps that give a container its own /etc/hosts and so on (``supervisor.namefiles`` says what is in them).

They are files of a tmpfs, mounted over what the rootfs has: charged to the container, bounded by the size of the tmpfs,
and gone with its mount namespace.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from wherry.kernel import mounts, paths

if TYPE_CHECKING:
    from wherry.runtime.steps import Context


PATHS = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")


class StageNameFiles(NamedTuple):
    """Empty files in the stage, which is a tmpfs of the container's own, and a detached mount of each: see
    AttachNameFile.
    """

    paths: list[str]

    def describe(self) -> str:
        return "make name files"

    def execute(self, context: Context) -> None:
        for path in self.paths:
            staged = context.stage + path
            os.makedirs(os.path.dirname(staged), exist_ok=True)
            writable = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            context.name_files[path] = (writable, mounts.clone_tree(staged))


class AttachNameFile(NamedTuple):
    """Show a file of StageNameFiles in the rootfs, with ``content``; a missing mount point is made with ``make``.

    Nobody has asked for it, so a rootfs that has no place for it (none without ``make``, a directory, a loop of
    links, /dev/null) goes without and the start goes on.
    """

    path: str
    content: str
    make: bool
    attributes: int

    def describe(self) -> str:
        return f"mount {self.path}"

    def execute(self, context: Context) -> None:
        writable, tree = context.name_files.pop(self.path)
        try:
            os.write(writable, self.content.encode("utf-8", "surrogateescape"))
            if self.attributes:
                mounts.set_attributes(tree, self.attributes)
            self._attach(context, tree)
        finally:
            os.close(writable)
            os.close(tree)

    def _attach(self, context: Context, tree: int) -> None:
        try:
            target = context.in_root(self.path, False) if self.make else paths.open_in_root(context.root, self.path)
        except OSError:
            return
        try:
            if stat.S_ISREG(os.fstat(target).st_mode) and not context.is_in_proc(target):
                mounts.attach(tree, target)
        finally:
            os.close(target)
