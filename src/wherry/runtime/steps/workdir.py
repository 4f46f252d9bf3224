"""Steps for the working directory: made if need be, entered before or after privileges are dropped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from wherry.kernel import paths

if TYPE_CHECKING:
    from wherry.runtime.steps import Context


class MakeWorkingDirectory(NamedTuple):
    """Before the rootfs is made read-only: a missing directory is made in the container's layer."""

    path: str

    def describe(self) -> str:
        return f"make working directory {self.path}"

    def execute(self, context: Context) -> None:
        os.close(paths.make_directories(context.root, self.path))


class EnterDirectory(NamedTuple):
    """Change to the working directory with all privileges, which another user may lack: docker starts a container as
    user 1000 in /root as well. What fails here (a directory of NFS, which root may not enter) is tried again by
    ChangeDirectory.
    """

    path: str

    def describe(self) -> str:
        return f"change directory to {self.path}"

    def execute(self, context: Context) -> None:
        try:
            os.chdir(self.path)
        except PermissionError:
            return
        _check_inside(self.path)
        context.directory_entered = True


class ChangeDirectory(NamedTuple):
    """As the container's user, unless EnterDirectory has done it."""

    path: str

    def describe(self) -> str:
        return f"change directory to {self.path}"

    def execute(self, context: Context) -> None:
        if not context.directory_entered:
            os.chdir(self.path)
            _check_inside(self.path)


def _check_inside(path: str) -> None:
    """A working directory that leads out of the root through one of our own descriptors is refused (CVE-2024-21626).

    The kernel prefixes the name of a directory that is not below our root with "(unreachable)" (getcwd(2)); the C
    library makes ENOENT of that.
    """
    try:
        inside = os.getcwd().startswith("/")
    except FileNotFoundError:
        inside = False
    if not inside:
        raise PermissionError(1, "the working directory is outside the rootfs", path)
