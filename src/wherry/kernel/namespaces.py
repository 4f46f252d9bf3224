"""Namespaces: clone3(2), unshare(2)."""

from __future__ import annotations

import signal

from wherry.kernel import libc

# include/uapi/linux/sched.h; the names are those of /proc/PID/ns and of the OCI runtime spec
FLAGS = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}


def flags_of(names: list[str]) -> int:
    """The CLONE_NEW* bits of OCI namespace types. Raises KeyError for an unknown type."""
    return sum(FLAGS[name] for name in set(names))


def unshare(names: list[str]) -> None:
    """Move the calling process into new namespaces of these types."""
    libc.unshare(flags_of(names))


def fork_into(names: list[str]) -> tuple[int, int]:
    """Fork, the child in new namespaces: (pid, pidfd) for the parent, (0, -1) for the child. The caller must have
    one thread.
    """
    return libc.clone3(flags_of(names), signal.SIGCHLD)
