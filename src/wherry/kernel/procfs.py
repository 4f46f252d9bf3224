"""What /proc tells of a process: proc(5)."""

from __future__ import annotations

import itertools
import os
import signal

MOST_THREADS = 512
"""How many threads of a process are looked at. Reading all of 12,000 takes a second and more."""
# rt_sigtimedwait: 137 in asm-generic/unistd.h
_SIGTIMEDWAIT = {"x86_64": b"128"}.get(os.uname().machine, b"137")


def receives(pid: int, signal: int) -> bool:
    """Whether ``signal`` would reach the program of process ``pid``, the first process of its pid namespace.

    The kernel drops a signal whose action is the default for such a process, and one that it ignores
    (pid_namespaces(7)). It does reach a handler (SigCgt) and, since a blocked signal is always queued, signalfd(2)
    (SigBlk, per thread). A thread inside sigtimedwait(2) (sigwait, sigwaitinfo) shows in SigBlk its mask without the
    signals it waits for; one that waits for any is taken to wait for this one. A process of more threads than are
    looked at is taken to receive it. False also when the process is gone. Blocking: the process chooses the cost.
    """
    bit = 1 << (signal - 1)
    try:
        with os.scandir(f"/proc/{pid}/task") as tasks:
            for number, task in enumerate(tasks):
                if number == MOST_THREADS:
                    return True
                if _signal_masks(f"{task.path}/status") & bit or _waits_for_signals(f"{task.path}/syscall"):
                    return True
    except OSError:
        pass
    return False


def ignores(pid: int, signal: int) -> bool:
    """Whether process ``pid`` has asked not to be disturbed by ``signal`` (SigIgn, of the whole process); False also
    when it is gone.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            masks = [int(line.split()[1], 16) for line in file if line.startswith(b"SigIgn:")]
    except OSError:
        return False
    return any(mask & 1 << (signal - 1) for mask in masks)


def namespaced_pids(pid: int) -> int:
    """How many pid namespaces, from ours on down, number process ``pid`` (NSpid), also a zombie; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return sum(len(line.split()) - 1 for line in file if line.startswith(b"NSpid:"))
    except OSError:
        return 0


def _signal_masks(path: str) -> int:
    masks = 0
    with open(path, "rb") as file:
        for line in file:
            if line.startswith((b"SigCgt:", b"SigBlk:")):
                masks |= int(line.split()[1], 16)
    return masks


def _waits_for_signals(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read().split(maxsplit=1)[:1] == [_SIGTIMEDWAIT]
    except OSError:  # a kernel without CONFIG_HAVE_ARCH_TRACEHOOK has no such file
        return False


def start_ticks(pid: int) -> int:
    """When a process was made, in clock ticks after boot (field "starttime" of /proc/PID/stat). Raises OSError."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[19])


_PF_EXITING = 0x4  # include/linux/sched.h; field "flags" of /proc/PID/stat


def is_dying(pid: int) -> bool:
    """Whether a process has SIGKILL pending, is on its way out, or has gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            pending = [int(line.split()[1], 16) for line in file if line.startswith(("SigPnd:", "ShdPnd:"))]
    except (FileNotFoundError, ProcessLookupError):
        return True
    kill = 1 << (signal.SIGKILL - 1)
    return fields[0] in "ZX" or bool(int(fields[6]) & _PF_EXITING) or any(mask & kill for mask in pending)


def running_threads(pid: int, most: int = 64) -> dict[int, int]:
    """Threads that want a CPU or have one, and the nanoseconds that each has had so far; of the first ``most`` only.

    A thread for which these do not grow has executed nothing meanwhile, in its program or in the kernel:
    Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat. Empty where a process is gone or the kernel does not
    count.
    """
    found = {}
    try:
        with os.scandir(f"/proc/{pid}/task") as tasks:
            for task in itertools.islice(tasks, most):
                with open(f"{task.path}/stat", encoding="utf-8", errors="replace") as file:
                    is_running = file.read().rpartition(")")[2].split(maxsplit=1)[0] == "R"
                if is_running:
                    with open(f"{task.path}/schedstat", encoding="ascii") as file:
                        found[int(task.name)] = int(file.read().split(maxsplit=1)[0])
    except OSError:
        pass
    return found
