"""What a container uses now, read from its control group."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from wherry.kernel.cgroups import Group
from wherry.memory import controller

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """CPU times in nanoseconds since the group was made, memory in bytes; None for what this kernel does not tell.

    ``inactive_file_bytes`` is page cache that could go at once: docker's clients take it off ``memory_bytes``.
    """

    cpu_ns: int
    user_ns: int
    system_ns: int
    memory_bytes: int | None
    inactive_file_bytes: int
    memory_limit_bytes: int | None
    pids: int | None
    pids_limit: int | None


def measure(group: Group) -> Usage:
    """A group that is gone has used nothing."""
    total, user, system = (_cpu_version1 if group.layout.version == 1 else _cpu_version2)(group)
    inactive = "total_inactive_file" if group.layout.version == 1 else "inactive_file"
    return Usage(
        cpu_ns=total,
        user_ns=user,
        system_ns=system,
        memory_bytes=controller.usage(group),
        inactive_file_bytes=_fields(group.read("memory", "memory.stat")).get(inactive, 0),
        memory_limit_bytes=controller.limit(group),
        pids=_number(group.read("pids", "pids.current")),
        pids_limit=_number(group.read("pids", "pids.max")),
    )


def host_cpu_ns(stat: str = "/proc/stat") -> int:
    """The time that all CPUs have spent, idle time included: what a share is a share of (proc(5), /proc/stat)."""
    with open(stat, encoding="ascii") as file:
        # user nice system idle iowait irq softirq steal; guest time is part of user's.
        return sum(int(word) for word in file.readline().split()[1:9]) * _TICK_NS


def _cpu_version1(group: Group) -> tuple[int, int, int]:
    """Documentation/admin-guide/cgroup-v1/cpuacct.rst; cpuacct.stat counts in ticks."""
    ticks = _fields(group.read("cpuacct", "cpuacct.stat"))
    total = _number(group.read("cpuacct", "cpuacct.usage")) or 0
    return total, ticks.get("user", 0) * _TICK_NS, ticks.get("system", 0) * _TICK_NS


def _cpu_version2(group: Group) -> tuple[int, int, int]:
    found = _fields(group.read("cpu", "cpu.stat"))
    total, user, system = (found.get(f"{name}_usec", 0) * 1000 for name in ("usage", "user", "system"))
    return total, user, system


def _fields(text: str | None) -> dict[str, int]:
    """A flat keyed file: one name and number a line."""
    pairs = (line.split() for line in (text or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _number(text: str | None) -> int | None:
    with contextlib.suppress(ValueError):  # "max"
        return None if text is None else int(text)
    return None
