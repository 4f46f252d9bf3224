"""Attributes of the calling process: prctl(2), close_range(2), signal dispositions."""

from __future__ import annotations

import errno
import functools
import os
import signal

from wherry.kernel import libc

_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_SECUREBITS = 28
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CLOSE_RANGE_CLOEXEC = 4
_KEYCTL_JOIN_SESSION_KEYRING = 1
_LAST = 0xFFFFFFFF


def set_name(name: str) -> None:
    """The name in /proc/PID/comm, 15 bytes."""
    libc.prctl_string(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def set_title(title: str) -> None:
    """What ps shows: the name and, by overwriting the memory of argv, the command line (proc(5), /proc/PID/cmdline)."""
    set_name(title)
    start, end = _argument_area()
    if end > start:
        libc.overwrite(start, title.encode()[: end - start - 1].ljust(end - start, b"\0"))


@functools.cache
def _argument_area() -> tuple[int, int]:
    # Once: later there may be no /proc. arg_start and arg_end are fields 48 and 49 of proc_pid_stat(5).
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[45]), int(fields[46])


def set_oom_score_adjustment(value: int, pid: int | None = None) -> None:
    """/proc/PID/oom_score_adj, our own by default, -1000 to 1000. From who has CAP_SYS_RESOURCE it is also the lowest
    that the process can set itself. Raises PermissionError when it is lowered without.
    """
    with open(f"/proc/{pid or 'self'}/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(value))


def become_root() -> None:
    """Of the user namespace that we are in, whose ids have been written: until then we are nobody in there."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def set_dumpable(dumpable: bool) -> None:
    """Not dumpable: /proc/PID/{exe,fd,mem,root} is closed to processes without CAP_SYS_PTRACE (proc(5)). execve
    resets it.
    """
    libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0)


def set_no_new_privileges() -> None:
    """No execve of this process or its descendants grants privileges: set-user-ID bits and file capabilities are
    void.
    """
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def keep_capabilities_of_other_users() -> None:
    """Setting another user id, also with setfsuid(2), leaves the calling thread's capabilities alone:
    SECBIT_NO_SETUID_FIXUP, capabilities(7).
    """
    libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)


def become_subreaper() -> None:
    """Orphaned descendants become children of this process instead of pid 1 (PR_SET_CHILD_SUBREAPER)."""
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def close_from(first: int) -> None:
    """Close every descriptor from ``first`` up."""
    if first <= _LAST:
        libc.close_range(first, _LAST, 0)


def close_all_but(keep: list[int]) -> None:
    """Close every descriptor that is not in ``keep``."""
    first = 0
    for descriptor in sorted(keep):
        if descriptor > first:
            libc.close_range(first, descriptor - 1, 0)
        first = descriptor + 1
    libc.close_range(first, _LAST, 0)


def mark_close_on_exec(first: int) -> None:
    """Every descriptor from ``first`` up is closed by execve."""
    libc.close_range(first, _LAST, _CLOSE_RANGE_CLOEXEC)


def reset_signals() -> None:
    """Default dispositions and an empty mask, before execve: it hands on what is ignored.

    The interpreter ignores SIGPIPE and SIGXFSZ, and who started the supervisor may have ignored any (nohup(1)).
    """
    for number in range(1, 65):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            libc.default_action(number)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def join_new_session_keyring() -> None:
    """A session keyring of our own, so that no key of the caller's session is within reach (keyctl(2)).

    Nothing happens on a kernel without key retention.
    """
    try:
        libc.keyctl(_KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
