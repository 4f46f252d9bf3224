"""What users of docker stumble over first in ``start`` and ``run``, said when it happens."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_ORDER = "NAME comes first, then ROOTFS, a directory or a tar archive: there are no images"
_READ_STDIN = frozenset("sh ash bash csh dash fish ksh mksh tcsh zsh python python3".split())


def order(name: str, rootfs: str = "") -> str:
    """For a command line that was refused: the order of its words, if they look as if they were meant as docker's."""
    if "/" in name or ":" in name or os.path.isdir(name) or _looks_like_a_command(rootfs):
        return f"; {_ORDER}"
    return ""


def _looks_like_a_command(rootfs: str) -> bool:
    """``run alpine echo hi``, ``run alpine /bin/echo hi``; not the misspelt path of a root file system."""
    try:
        mode = os.stat(rootfs).st_mode
    except (OSError, ValueError):
        return bool(rootfs) and ("/" not in rootfs or rootfs.startswith(("/bin/", "/sbin/", "/usr/")))
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def reads_input(command: str, arguments: Sequence[str]) -> bool:
    """Whether it is a shell or the like that would read commands from standard input, and ends when there is none."""
    return os.path.basename(command) in _READ_STDIN and all(word in {"-i", "-l", "-il"} for word in arguments)
