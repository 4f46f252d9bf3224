"""A spec's resources as control files of a group, version 1 or 2; and the high-water marks read back."""

from __future__ import annotations

import contextlib

from wherry.errors import InvalidRequest, NotSupported
from wherry.kernel import cgroup_memory
from wherry.kernel.cgroups import Group, weight_of_shares
from wherry.kernel.scheduling import format_cpu_list, parse_cpu_list
from wherry.runtime import nested_limits
from wherry.runtime.spec import Memory, Resources

_NONE = Resources()
_IO_WEIGHTS = {1: ("blkio", "blkio.weight", "blkio.bfq.weight"), 2: ("io", "io.weight", "io.bfq.weight")}
"""Controller, and the file of its own or of the BFQ I/O scheduler (Documentation/block/bfq-iosched.rst)."""

_Files = dict[tuple[str, str], str]
"""What is to stand in which file of which controller, in the order it is written."""


def apply(group: Group, resources: Resources) -> None:
    """Write every limit that is set; for a new group.

    Raises OSError naming the control file, InvalidRequest, NotSupported: a limit that cannot be set is not ignored.
    """
    _check_cpus(group, resources.cpu.cpus)
    _set_memory(group, resources.memory)
    _write(group, _changed(_settings(group, _NONE), _settings(group, resources)))


def update(group: Group, before: Resources, after: Resources) -> None:
    """Write what differs, except memory. When that fails, what has been written is put back.

    Raises what ``apply`` raises.
    """
    old, new = _settings(group, before), _settings(group, after)
    changed = _changed(old, new)
    if ("cpuset", "cpuset.cpus") in changed:
        _check_cpus(group, after.cpu.cpus)
    unset = {file: _read(group, *file) or "\n" for file in changed if file not in old}
    try:
        _write(group, changed)
    except BaseException:
        for (controller_name, file), value in (unset | _changed(new, old)).items():
            with contextlib.suppress(OSError):
                nested_limits.write(group, controller_name, file, value)
        raise


def _settings(group: Group, resources: Resources) -> _Files:
    files = (_cpu_version1 if group.layout.version == 1 else _cpu_version2)(resources)
    if resources.cpu.cpus:
        files["cpuset", "cpuset.cpus"] = resources.cpu.cpus
    if resources.block_io.weight is not None:
        files |= _io_weight(group, resources.block_io.weight)
    return files | {("pids", "pids.max"): "max" if resources.pids is None else str(resources.pids.limit)}


def _changed(old: _Files, new: _Files) -> _Files:
    return {file: value for file, value in new.items() if old.get(file) != value}


def _write(group: Group, files: _Files) -> None:
    for (controller_name, file), value in files.items():
        nested_limits.write(group, controller_name, file, value)


def _cpu_version1(resources: Resources) -> _Files:
    """Documentation/scheduler/sched-design-CFS.rst and sched-bwc.rst."""
    cpu = resources.cpu
    return {
        ("cpu", "cpu.shares"): str(cpu.shares or 1024),
        ("cpu", "cpu.cfs_period_us"): str(cpu.period or 100_000),
        ("cpu", "cpu.cfs_quota_us"): str(cpu.quota or -1),
        ("cpu", "cpu.idle"): str(cpu.idle or 0),
    }


def _cpu_version2(resources: Resources) -> _Files:
    """Documentation/admin-guide/cgroup-v2.rst, CPU Interface Files."""
    cpu = resources.cpu
    weight: _Files = {("cpu", "cpu.weight"): str(weight_of_shares(cpu.shares or 1024))}
    nice = resources.unified.get("cpu.weight.nice")
    if nice is not None:  # the same weight by another scale
        weight = {("cpu", "cpu.weight.nice"): nice}
    quota = f"{cpu.quota or 'max'} {cpu.period or 100_000}"
    return {**weight, ("cpu", "cpu.max"): quota, ("cpu", "cpu.idle"): str(cpu.idle or 0)}


def _check_cpus(group: Group, wanted: str) -> None:
    """The kernel takes CPUs that it does not have, on version 2 silently. Raises InvalidRequest, NotSupported."""
    if not wanted:
        return
    available = _available_cpus(group)
    if not parse_cpu_list(wanted) <= available:
        raise InvalidRequest(
            f"requested CPUs are not available: requested {wanted}, available: {format_cpu_list(available)}"
        )


def _available_cpus(group: Group) -> frozenset[int]:
    """Those of the group above, which are what any group of ours can have."""
    parent = Group(group.layout, group.path.rpartition("/")[0])
    files = ("cpuset.effective_cpus", "cpuset.cpus.effective")
    found = next((text for file in files if (text := _read(parent, "cpuset", file))), "")
    if not found:
        raise NotSupported("this host has no cpuset controller, which a list of CPUs needs")
    return parse_cpu_list(found)


def _io_weight(group: Group, weight: int) -> _Files:
    name, own, bfq = _IO_WEIGHTS[group.layout.version]
    if _read(group, name, own) is not None:
        # 10 to 1000 becomes 1 to 10000, as in runc (ConvertBlkIOToIOWeightValue).
        return {(name, own): str(weight if group.layout.version == 1 else 1 + (weight - 10) * 9999 // 990)}
    if _read(group, name, bfq) is not None:
        return {(name, bfq): str(weight)}
    raise NotSupported(f"this host cannot weigh I/O: control groups have neither {own} nor {bfq}")


def _read(group: Group, name: str, file: str) -> str | None:
    try:
        return group.read(name, file)
    except OSError:  # no such controller
        return None


def check_real_time(group: Group) -> None:
    """With CONFIG_RT_GROUP_SCHED a group has no real-time time of its own until it is given some, and the policies fifo
    and rr are refused with EPERM (Documentation/scheduler/sched-rt-group.rst). Raises NotSupported.
    """
    if _read(group, "cpu", "cpu.rt_runtime_us") == "0":
        raise NotSupported(
            "scheduling policies fifo and rr: this kernel (CONFIG_RT_GROUP_SCHED) gives the group no real-time time"
        )


def _set_memory(group: Group, memory: Memory) -> None:
    if memory.limit is not None:
        cgroup_memory.set_limit(group, memory.limit, _swap(memory))
    if memory.reservation is not None:
        # Version 2, as runc: what reclaim leaves alone.
        file = "memory.soft_limit_in_bytes" if group.layout.version == 1 else "memory.low"
        group.write("memory", file, memory.reservation)


def _swap(memory: Memory) -> int | None:
    """Swap alone, which is what version 2 limits; None for any amount."""
    if memory.swap is None or memory.limit is None:
        return 0
    return None if memory.swap < 0 else max(memory.swap - memory.limit, 0)


def peak_memory(group: Group) -> int | None:
    """Bytes; None when this kernel does not keep it (version 2 before 5.19)."""
    return cgroup_memory.peak(group)


def peak_pids(group: Group) -> int | None:
    return group.read_number("pids", "pids.peak")
