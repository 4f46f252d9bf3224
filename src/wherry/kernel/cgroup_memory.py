"""The memory controller's files, version 1 and 2, as far as limits and their events need them.

Sources: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst ("Memory Interface Files").
"""

from __future__ import annotations

import os

from wherry.kernel import cgroup_trees as trees
from wherry.kernel.cgroups import Group, Layout

_MEMORY = "memory"
_MOST_GROUPS = 1000
"""Of a container's, whose OOM kills are looked for: nobody waits longer for one that has made a hundred thousand."""
_UNLIMITED_V1 = 1 << 62
"""A version 1 group without a limit shows PAGE_COUNTER_MAX, the largest multiple of a page below 2 to the 63."""


def is_there(group: Group) -> bool:
    """Whether the group has a memory controller at all."""
    if group.layout.version == 1:
        return _MEMORY in group.directories
    return os.path.exists(f"{group.directories['']}/memory.max")


def is_offered(layout: Layout, parent: str) -> bool:
    """Whether groups below ``parent`` can have a memory controller."""
    if layout.version == 1:
        return _MEMORY in layout.mounts
    return _MEMORY in (Group(layout, parent).read("", "cgroup.controllers") or "").split()


def usage(group: Group) -> int | None:
    """What is charged to the group now, page cache and kernel memory included, in bytes."""
    return _number(group, "memory.usage_in_bytes", "memory.current")


def peak(group: Group) -> int | None:
    """The highest usage; None where the kernel does not keep it (version 2 before 5.19)."""
    return _number(group, "memory.max_usage_in_bytes", "memory.peak")


def limit(group: Group) -> int | None:
    """None when there is none."""
    found = _number(group, "memory.limit_in_bytes", "memory.max")
    return None if found is None or found >= _UNLIMITED_V1 else found


def set_limit(group: Group, size: int, swap: int | None = 0) -> None:
    """Memory up to ``size`` bytes, and ``swap`` bytes of swap besides (None: any amount), where swap is accounted.

    Raises OSError naming the file.
    """
    if group.layout.version == 2:
        group.write(_MEMORY, "memory.max", size)
        if group.read(_MEMORY, "memory.swap.max") is not None:
            group.write(_MEMORY, "memory.swap.max", "max" if swap is None else swap)
        return
    # Memory and swap together (memsw) may not be below memory: which of the two goes first depends on the direction.
    together = -1 if swap is None else size + swap
    writes = [("memory.limit_in_bytes", size)]
    if group.read(_MEMORY, "memory.memsw.limit_in_bytes") is not None:
        current = limit(group)
        writes.append(("memory.memsw.limit_in_bytes", together))
        if current is not None and size > current:
            writes.reverse()
    for file, value in writes:
        group.write(_MEMORY, file, value)


def can_throttle(group: Group) -> bool:
    """Whether the kernel can slow down who is above a size (memory.high)."""
    return group.layout.version == 2 and os.path.exists(f"{group.directories['']}/memory.high")


def throttle(group: Group, size: int) -> None:
    """Slow down whoever allocates while the group has more than ``size`` bytes. Raises OSError."""
    group.write(_MEMORY, "memory.high", size)


def can_reclaim(group: Group) -> bool:
    """Whether the kernel can be asked to reclaim a number of bytes (memory.reclaim, from Linux 5.19 on).

    Version 1 has nothing of the kind: memory.force_empty throws out all that can be reclaimed, and
    memory.soft_limit_in_bytes is looked at only when the whole machine is short of memory.
    """
    return group.layout.version == 2 and os.path.exists(f"{group.directories['']}/memory.reclaim")


def reclaim(group: Group, size: int) -> bool:
    """Have the kernel take ``size`` bytes from the group, page cache first; blocks while it tries. False when it found
    less than that, or the group is gone.
    """
    try:
        group.write(_MEMORY, "memory.reclaim", size)
    except OSError:  # EAGAIN: less than that
        return False
    return True


def set_backstop(group: Group, size: int) -> None:
    """As ``set_limit``, of a limit that is there in case that another one does not hold: the kernel kills the whole
    container then, where it can, and not a process of its choice. Raises OSError.
    """
    if group.layout.version == 2:
        group.write(_MEMORY, "memory.oom.group", 1)
    set_limit(group, size)


def oom_kills(group: Group) -> int:
    """How many of the group's processes the kernel's OOM killer has killed, for whatever shortage; 0 when unknown.

    Version 1 counts since 4.13, and only in the group that the victim was in (mm/memcontrol.c, memcg_memory_event):
    a container's inner group, or one that it has made below. On version 2 no group below a container's has a memory
    controller. ``memory.events.local`` leaves out what happened in groups below.
    """
    if group.layout.version == 1:
        if _MEMORY not in group.directories:
            return 0
        return sum(
            flat(trees.read_at(descriptor, "memory.oom_control")).get("oom_kill", 0)
            for what, descriptor, _depth, _name in trees.walk(group.directories[_MEMORY], _MOST_GROUPS)
            if what == trees.ENTER
        )
    text = group.read(_MEMORY, "memory.events.local")
    return flat(group.read(_MEMORY, "memory.events") if text is None else text).get("oom_kill", 0)


def flat(text: str | None) -> dict[str, int]:
    """A "flat keyed" file: NAME NUMBER, one a line."""
    lines = (line.split() for line in (text or "").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].lstrip("-").isdecimal()}


def _number(group: Group, version1: str, version2: str) -> int | None:
    return group.read_number(_MEMORY, version1 if group.layout.version == 1 else version2)


def watch_version1(group: Group, file: str, argument: str = "") -> int:
    """An eventfd that the kernel signals: with ``memory.oom_control`` when the group runs out of memory, with
    ``memory.usage_in_bytes`` and a size when usage crosses it, upwards or downwards.

    Held by whoever holds the descriptor; the registration goes with the group. Raises OSError.
    """
    descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        watch_also_version1(group, descriptor, file, argument)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def watch_also_version1(group: Group, descriptor: int, file: str, argument: str = "") -> None:
    """Have the same eventfd signalled for one thing more. Raises OSError."""
    control = os.open(f"{group.directories[_MEMORY]}/{file}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        group.write(_MEMORY, "cgroup.event_control", f"{descriptor} {control} {argument}".strip())
    finally:
        os.close(control)


def open_events_version2(group: Group) -> int:
    """``memory.events.local``, or ``memory.events`` before 5.2: it polls EPOLLPRI after a change, until it is read."""
    directory = group.directories[""]
    for name in ("memory.events.local", "memory.events"):
        try:
            return os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
    return os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)


def read_events(descriptor: int) -> dict[str, int]:
    """What such a descriptor says now; empty when the group is gone (ENODEV)."""
    try:
        return flat(os.pread(descriptor, 4096, 0).decode())
    except OSError:
        return {}


def signalled(descriptor: int) -> bool:
    """Whether an eventfd has been signalled since the last call."""
    try:
        return os.eventfd_read(descriptor) > 0
    except BlockingIOError:
        return False
