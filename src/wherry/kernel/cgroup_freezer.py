"""Freezing all processes of a control group and of those below it.

Version 1: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst; version 2: cgroup-v2.rst, ``cgroup.freeze``. What
is frozen by a group further up cannot be let go further down.
"""

from __future__ import annotations

import errno
import os

from wherry.kernel.cgroups import Group
from wherry.kernel.libc import call_error


def is_there(group: Group) -> bool:
    """Whether this host can freeze it."""
    controller, file, _ = _control(group)
    return controller in group.directories and os.path.exists(f"{group.directories[controller]}/{file}")


def freeze(group: Group) -> None:
    """Have them freeze; ``is_frozen`` tells when all have. Again for those of version 1 that were missed is no error.

    Raises OSError.
    """
    _write(group, 0)


def thaw(group: Group) -> None:
    """Raises OSError."""
    _write(group, 1)


def is_wanted(group: Group) -> bool:
    """Whether the group itself has been told to freeze."""
    if "freezer" in group.directories:
        return group.read("freezer", "freezer.self_freezing") == "1"
    controller, file, _ = _control(group)
    return controller in group.directories and group.read(controller, file) == "1"


def is_frozen(group: Group) -> bool:
    """Whether all of them have stopped. A process that waits in the kernel (state D) freezes when that lets it go."""
    if "freezer" in group.directories:
        return group.read("freezer", "freezer.state") == "FROZEN"
    controller, _, _ = _control(group)
    events = group.read(controller, "cgroup.events") if controller in group.directories else None
    return "frozen 1" in (events or "").splitlines()


def _control(group: Group) -> tuple[str, str, tuple[str, str]]:
    """Controller, file, and what to write to freeze and to thaw."""
    if "freezer" in group.directories:
        return "freezer", "freezer.state", ("FROZEN", "THAWED")
    # A host with version 1's controllers may have version 2's tree without any beside them.
    return ("" if group.layout.version == 2 else "unified"), "cgroup.freeze", ("1", "0")


def _write(group: Group, which: int) -> None:
    controller, file, values = _control(group)
    if controller not in group.directories:
        raise call_error(errno.ENOENT, "open", "cgroup controller freezer")
    group.write(controller, file, values[which])
