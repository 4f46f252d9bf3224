"""What a container uses now, read from its control group."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from wherry import memory
from wherry.kernel import cgroup_memory
from wherry.kernel.cgroups import Group
from wherry.supervisor.containers.record import Record

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Throttling(NamedTuple):
    """Of a CPU quota: periods in which the group wanted to run, those in which it used its quota up, and the
    nanoseconds that its CPUs stood still for that (Documentation/scheduler/sched-bwc.rst, Statistics).
    """

    periods: int
    throttled_periods: int
    throttled_ns: int


class Usage(NamedTuple):
    """CPU times in nanoseconds since the group was made, memory in bytes; None for what this kernel does not tell.

    ``inactive_file_bytes`` is page cache that could go at once: docker's clients take it off ``memory_bytes``.
    """

    cpu_ns: int
    user_ns: int
    system_ns: int
    throttling: Throttling
    memory_bytes: int | None
    inactive_file_bytes: int
    memory_limit_bytes: int | None
    pids: int | None
    pids_limit: int | None


Resident = memory.MemoryUsage
"""What a memory enforcer counts against the limits it holds."""


class Held(NamedTuple):
    """What an enforcer counts, and the hard limit that it holds that against."""

    rss_bytes: int
    limit_bytes: int


def held(record: Record, counted: Resident | None) -> Held | None:
    """None when the group's own figures are those of the limit that kills: without a hard limit, with one that the
    group holds itself, or beside a ``--memory`` that is lower.
    """
    hard, own = record.request.hard_bytes, record.request.memory_bytes
    if counted is None or hard is None or record.traits.is_group or (own is not None and own < hard):
        return None
    return Held(counted.rss_bytes, hard)


def measure(group: Group) -> Usage:
    """A group that is gone has used nothing."""
    total, user, system = (_cpu_version1 if group.layout.version == 1 else _cpu_version2)(group)
    inactive = "total_inactive_file" if group.layout.version == 1 else "inactive_file"
    return Usage(
        cpu_ns=total,
        user_ns=user,
        system_ns=system,
        throttling=_throttling(group),
        memory_bytes=cgroup_memory.usage(group),
        inactive_file_bytes=_fields(group, "memory", "memory.stat").get(inactive, 0),
        memory_limit_bytes=cgroup_memory.limit(group),
        pids=group.read_number("pids", "pids.current"),
        pids_limit=group.read_number("pids", "pids.max"),
    )


def measure_all(groups: Mapping[str, Group]) -> dict[str, Usage]:
    return {key: measure(group) for key, group in groups.items()}


def host_cpu_ns(stat: str = "/proc/stat") -> int:
    """The time that all CPUs have spent, idle time included: what a share is a share of (proc(5), /proc/stat)."""
    with open(stat, encoding="ascii") as file:
        # user nice system idle iowait irq softirq steal; guest time is part of user's.
        return sum(int(word) for word in file.readline().split()[1:9]) * _TICK_NS


def _cpu_version1(group: Group) -> tuple[int, int, int]:
    """Documentation/admin-guide/cgroup-v1/cpuacct.rst; cpuacct.stat counts in ticks."""
    ticks = _fields(group, "cpuacct", "cpuacct.stat")
    total = group.read_number("cpuacct", "cpuacct.usage") or 0
    return total, ticks.get("user", 0) * _TICK_NS, ticks.get("system", 0) * _TICK_NS


def _cpu_version2(group: Group) -> tuple[int, int, int]:
    found = _fields(group, "cpu", "cpu.stat")
    total, user, system = (found.get(f"{name}_usec", 0) * 1000 for name in ("usage", "user", "system"))
    return total, user, system


def _throttling(group: Group) -> Throttling:
    found = _fields(group, "cpu", "cpu.stat")
    throttled_ns = found.get("throttled_time", found.get("throttled_usec", 0) * 1000)
    return Throttling(found.get("nr_periods", 0), found.get("nr_throttled", 0), throttled_ns)


def _fields(group: Group, name: str, file: str) -> dict[str, int]:
    return cgroup_memory.flat(group.read(name, file))
