"""Whether an enforcer works on this host: a tiny process of its own is grown past a tiny limit, and must die of it.

On its way it stops at some 24 MiB, where what the enforcer counts is compared with what the kernel shows. That decides,
and no version number: kernels change what they count and how, and distributions what they allow.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import wherry
from wherry.kernel import cgroup_trees as trees
from wherry.kernel import libc
from wherry.kernel.cgroups import INNER, Group
from wherry.kernel.polling import readable
from wherry.memory.limiter import Host, Kind, Limits, MemoryEvent, MemoryLimiter, Target, Unusable

_SECONDS = 10.0
_SECONDS_AFTER_THE_END = 5.0
_MIB = 1 << 20
_ID = "0" * 56 + f"{os.getpid() & 0xFFFFFFFF:08x}"
# The helper clones the first process of a pid namespace, as the shim does. That one waits for the limit to be armed,
# joins the group and calls execve, from where on it is counted. An interpreter of its own, since it must have one
# thread.
_HELPER = """
import os, sys
sys.path.append({package!r})
from wherry.kernel import namespaces
pid, pidfd = namespaces.fork_into(["pid"])
if pid:
    os.write(1, b"%d\\n" % pid)
    information = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.write(1, b"%d %d\\n" % (information.si_code, information.si_status))
    os._exit(0)
os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
if os.read(0, 1):
    for path in {files!r}:
        with open(path, "wb", buffering=0) as file:
            file.write(b"0")
    os.execv({command!r}[0], {command!r})
os._exit(1)
"""
_HELD_PAGES = 24 * _MIB // os.sysconf("SC_PAGE_SIZE")
# It waits for a byte when it holds that much, and grows on when it gets one.
_GROWTH = f"""
import os
kept = []
while int(open("/proc/self/statm").read().split()[1]) < {_HELD_PAGES}: kept.append(b"x" * (1 << 20))
os.read(0, 1)
for _ in range(512): kept.append(b"x" * (1 << 20))
"""
_CHARGED_BESIDE = 8 * _MIB
"""Of what a group is charged: page cache and kernel memory beyond what its only process has resident."""


def check(limiter: MemoryLimiter, host: Host) -> None:
    """Raises Unusable, naming what did not happen. Leaves nothing behind."""
    group = Group(host.layout, f"{host.parent}/self-test-{os.getpid()}")
    # An interpreter takes about 10 MiB; what its own group is charged with is less than what it has resident.
    limits = Limits(soft_bytes=32 * _MIB, hard_bytes=48 * _MIB)
    command = [sys.executable, "-I", "-S", "-B", "-c", _GROWTH]
    with contextlib.ExitStack() as undo:
        try:
            undo.callback(_remove, group)
            group.create_for_container()
            helper = start_helper(group.inner, command)
            undo.callback(end_helper, helper)
            events, status = _grow(limiter, helper, group, limits)
        except OSError as error:
            raise Unusable(f"self-test: {libc.describe(error)}") from None
    _judge(limiter, events, status)


def start_helper(group: Group, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """A process that clones the first process of a pid namespace, which waits for a byte on stdin, joins ``group`` and
    executes ``command``. It writes two lines to stdout: the pid, and, at the end, si_code and si_status.
    """
    package = str(Path(wherry.__file__).resolve().parent.parent)
    script = _HELPER.format(package=package, files=group.process_files(), command=list(command))
    helper = [sys.executable, "-I", "-S", "-B", "-c", script]
    return subprocess.Popen(helper, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)


def _grow(
    limiter: MemoryLimiter, helper: subprocess.Popen[bytes], group: Group, limits: Limits
) -> tuple[list[MemoryEvent], tuple[int, int]]:
    """What the limiter said, and how the process ended (si_code and si_status)."""
    (pid,) = read_numbers(helper)
    with contextlib.ExitStack() as undo:
        pidfd = os.pidfd_open(pid)
        undo.callback(os.close, pidfd)
        undo.callback(_kill, pidfd)
        namespace = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, namespace)
        for descriptor in limiter.arm(Target(_ID, pid, pidfd, namespace, group), limits).values():
            undo.callback(os.close, descriptor)
        undo.callback(limiter.disarm, _ID)
        # Of what the kernel shows of a process, only what its own CPU holds back is missing then.
        os.sched_setaffinity(pid, {min(os.sched_getaffinity(pid))})
        _go_on(helper)
        _compare(limiter, pid, pidfd)
        _go_on(helper)
        events: list[MemoryEvent] = []
        deadline = time.monotonic() + _SECONDS
        waited_for = [limiter.fileno(), pidfd]
        while Kind.HARD not in {event.kind for event in events} and time.monotonic() < deadline:
            ready = readable(waited_for, deadline - time.monotonic())
            events += [event for event in limiter.read() if event.container_id == _ID]
            if pidfd in ready:  # what the kernel has to say of its end may come later
                waited_for.remove(pidfd)
                deadline = time.monotonic() + _SECONDS_AFTER_THE_END
        # An enforcer that tells the crossing need not have killed the first process: that is the reader's business.
        if Kind.HARD in {event.kind for event in events}:
            _kill(pidfd)
        code, status = read_numbers(helper)
        events += [event for event in limiter.read() if event.container_id == _ID]
    return events, (code, status)


def _go_on(helper: subprocess.Popen[bytes]) -> None:
    if helper.stdin is not None:
        helper.stdin.write(b".")


def _compare(limiter: MemoryLimiter, pid: int, pidfd: int) -> None:
    """What the enforcer counts and what the kernel shows, when the process holds its memory. Raises Unusable."""
    _wait_until_it_holds(pid, pidfd)
    counted, resident = limiter.stat(_ID).rss_bytes, _resident(pid, "VmRSS")
    if limiter.accuracy is not None:
        low, high = resident - limiter.accuracy.behind_bytes, resident + limiter.accuracy.behind_bytes
    else:  # page cache may be another group's
        low, high = _resident(pid, "RssAnon") - _MIB, resident + _CHARGED_BESIDE
    if not low <= counted <= high:
        text = f"{limiter.name} counts {counted} bytes of a process that has {resident}"
        raise Unusable(f"self-test: {text}, and not between {low} and {high}")


def _wait_until_it_holds(pid: int, pidfd: int) -> None:
    """It sleeps for nothing else. Raises Unusable when it never does, OSError when it is gone."""
    deadline = time.monotonic() + _SECONDS
    while True:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            is_asleep = file.read().rpartition(")")[2].split(maxsplit=1)[0] == "S"
        if is_asleep and _resident(pid, "VmRSS") >= _HELD_PAGES * os.sysconf("SC_PAGE_SIZE"):
            return
        if readable([pidfd]) or time.monotonic() > deadline:
            raise Unusable("self-test: the process that was to hold 24 MiB did not")
        time.sleep(0.001)


def _resident(pid: int, field: str) -> int:
    """Bytes; 0 when it has ended."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return next((int(line.split()[1]) << 10 for line in file if line.startswith(f"{field}:")), 0)


def read_numbers(helper: subprocess.Popen[bytes]) -> list[int]:
    """The next line of a helper. Raises Unusable when it does not come."""
    output = helper.stdout
    if output is None or not readable([output.fileno()], _SECONDS):
        raise Unusable("self-test: the process that was to die did not end")
    words = output.readline().split()
    if not words:
        raise Unusable("self-test: its process could not be started")
    return [int(word) for word in words]


def _judge(limiter: MemoryLimiter, events: list[MemoryEvent], status: tuple[int, int]) -> None:
    name, kinds = limiter.name, [event.kind for event in events]
    if status != (os.CLD_KILLED, signal.SIGKILL):
        raise Unusable(f"self-test: a process grew past a hard limit of {name} and lived on (status {status})")
    for kind in (Kind.SOFT, Kind.HARD):
        if kind not in kinds:
            raise Unusable(f"self-test: no {kind} event of {name} for a process that was grown past it")
    hard = next(event for event in events if event.kind is Kind.HARD)
    over = None if limiter.accuracy is None else limiter.accuracy.over_bytes
    above = hard.rss_bytes - hard.limit_bytes
    if above < 0 or (over is not None and above > over):
        raise Unusable(f"self-test: {name} tells {hard.rss_bytes} bytes at a limit of {hard.limit_bytes}")


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def end_helper(helper: subprocess.Popen[bytes]) -> None:
    helper.kill()  # its child is dead, or dies of the closed pipe
    helper.wait()
    for stream in (helper.stdin, helper.stdout):
        if stream is not None:
            stream.close()


def _remove(group: Group) -> None:
    deadline = time.monotonic() + 2
    while not trees.remove(group.places, INNER) and time.monotonic() < deadline:
        time.sleep(0.001)
