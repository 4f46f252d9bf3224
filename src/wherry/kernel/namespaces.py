"""Namespaces: clone3(2), unshare(2), setns(2)."""

from __future__ import annotations

import contextlib
import os
import signal

from wherry.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

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

_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # include/linux/proc_ns.h


def flags_of(names: list[str]) -> int:
    """The CLONE_NEW* bits of OCI namespace types. Raises KeyError for an unknown type."""
    return sum(FLAGS[name] for name in set(names))


def in_user_namespace() -> bool:
    """Whether we are in another than the first one: that has a fixed inode number (PROC_USER_INIT_INO)."""
    return os.stat("/proc/self/ns/user").st_ino != _FIRST_USER_NAMESPACE


def unshare(names: list[str]) -> None:
    """Move the calling process into new namespaces of these types."""
    libc.unshare(flags_of(names))


def fork_into(names: list[str]) -> tuple[int, int]:
    """Fork, the child in new namespaces: (pid, pidfd) for the parent, (0, -1) for the child. The caller must have
    one thread.
    """
    return libc.clone3(flags_of(names), signal.SIGCHLD)


def join(pidfd: int, names: list[str]) -> None:
    """Move the calling process into all these namespaces of the process ``pidfd``, or into none of them, in one call
    (Linux 5.8). A pid namespace is that of children to come.
    """
    libc.setns(pidfd, flags_of(names))


@contextlib.contextmanager
def children_in_pid_namespace_of(pidfd: int) -> Iterator[None]:
    """Children that the calling process forks meanwhile are in the pid namespace of the process ``pidfd``.

    setns(2) lets a process come back, because it never leaves its own.
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        join(pidfd, ["pid"])
        try:
            yield
        finally:
            libc.setns(own, FLAGS["pid"])
    finally:
        os.close(own)
