"""A spec's resources as control files of a group, version 1 or 2; and the high-water marks read back."""

from __future__ import annotations

import contextlib

from wherry.kernel.cgroups import Group, weight_of_shares
from wherry.runtime.spec import Resources


def apply(group: Group, resources: Resources) -> None:
    """Write every limit that is set. Raises OSError naming the control file: a limit that cannot be set is not
    ignored.
    """
    if group.layout.version == 1:
        _apply_version1(group, resources)
    else:
        _apply_version2(group, resources)
    if resources.pids is not None:
        group.write("pids", "pids.max", resources.pids.limit)


def _apply_version1(group: Group, resources: Resources) -> None:
    memory, cpu = resources.memory, resources.cpu
    if memory.limit is not None:
        group.write("memory", "memory.limit_in_bytes", memory.limit)
        # Memory and swap together: a hard limit that swap could stretch would not be one. Absent without swap
        # accounting.
        if group.read("memory", "memory.memsw.limit_in_bytes") is not None:
            group.write("memory", "memory.memsw.limit_in_bytes", memory.limit)
    if cpu.shares is not None and cpu.shares != 1024:
        group.write("cpu", "cpu.shares", cpu.shares)
    if cpu.quota is not None:
        group.write("cpu", "cpu.cfs_period_us", cpu.period or 100_000)
        group.write("cpu", "cpu.cfs_quota_us", cpu.quota)


def _apply_version2(group: Group, resources: Resources) -> None:
    memory, cpu = resources.memory, resources.cpu
    if memory.limit is not None:
        group.write("memory", "memory.max", memory.limit)
        if group.read("memory", "memory.swap.max") is not None:
            group.write("memory", "memory.swap.max", 0)
    if cpu.shares is not None and cpu.shares != 1024:
        group.write("cpu", "cpu.weight", weight_of_shares(cpu.shares))
    if cpu.quota is not None:
        group.write("cpu", "cpu.max", f"{cpu.quota} {cpu.period or 100_000}")


def peak_memory(group: Group) -> int | None:
    """Bytes; None when this kernel does not keep it (version 2 before 5.19)."""
    file = "memory.max_usage_in_bytes" if group.layout.version == 1 else "memory.peak"
    return _number(group.read("memory", file))


def peak_pids(group: Group) -> int | None:
    return _number(group.read("pids", "pids.peak"))


def _number(text: str | None) -> int | None:
    with contextlib.suppress(ValueError):
        return None if text is None else int(text)
    return None
