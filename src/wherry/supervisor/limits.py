"""A spec's resources as control files of a group, version 1 or 2; and the high-water marks read back."""

from __future__ import annotations

from wherry.kernel.cgroups import Group, weight_of_shares
from wherry.memory import controller
from wherry.runtime.spec import Memory, Resources


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
        controller.set_limit(group, memory.limit, _swap(memory))
    if memory.reservation is not None:
        group.write("memory", "memory.soft_limit_in_bytes", memory.reservation)
    if cpu.shares is not None and cpu.shares != 1024:
        group.write("cpu", "cpu.shares", cpu.shares)
    if cpu.quota is not None:
        group.write("cpu", "cpu.cfs_period_us", cpu.period or 100_000)
        group.write("cpu", "cpu.cfs_quota_us", cpu.quota)


def _apply_version2(group: Group, resources: Resources) -> None:
    memory, cpu = resources.memory, resources.cpu
    if memory.limit is not None:
        controller.set_limit(group, memory.limit, _swap(memory))
    if memory.reservation is not None:
        group.write("memory", "memory.low", memory.reservation)  # as runc: what reclaim leaves alone
    if cpu.shares is not None and cpu.shares != 1024:
        group.write("cpu", "cpu.weight", weight_of_shares(cpu.shares))
    if cpu.quota is not None:
        group.write("cpu", "cpu.max", f"{cpu.quota} {cpu.period or 100_000}")


def _swap(memory: Memory) -> int | None:
    """Swap alone, which is what version 2 limits; None for any amount."""
    if memory.swap is None or memory.limit is None:
        return 0
    return None if memory.swap < 0 else max(memory.swap - memory.limit, 0)


def peak_memory(group: Group) -> int | None:
    """Bytes; None when this kernel does not keep it (version 2 before 5.19)."""
    return controller.peak(group)


def peak_pids(group: Group) -> int | None:
    return group.read_number("pids", "pids.peak")
