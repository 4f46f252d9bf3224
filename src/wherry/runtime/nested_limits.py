"""Limits of version 1 that the kernel refuses to lower while a group further down has more.

Those further down are a container's inner group and whatever groups the container has made below it, with values of
its own choosing. A container that goes on changing them while we write is frozen meanwhile, by the group that it cannot
reach.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from wherry.kernel import cgroup_freezer as freezer
from wherry.kernel import cgroup_trees as trees
from wherry.kernel.cgroups import Group
from wherry.kernel.scheduling import format_cpu_list, parse_cpu_list

_PASSES = 3
_FREEZE_SECONDS = 1.0


def write(group: Group, controller: str, file: str, value: str) -> None:
    """``group.write``, so that it succeeds whatever the groups below have. Raises OSError."""
    how = _WITH_GROUPS_BELOW.get(file) if group.layout.version == 1 else None
    if how is None or controller not in group.directories:
        group.write(controller, file, value)
        return
    for _ in range(_PASSES):
        with contextlib.suppress(OSError):
            how(group, controller, file, value)
            return
    with _frozen(group):
        how(group, controller, file, value)


def _set_cpus(group: Group, controller: str, _file: str, value: str) -> None:
    """cpuset(7): a group has no CPUs that the one above has not, at any moment. So each gets the new CPUs first, from
    the top, and loses the others afterwards, from the bottom.

    A group further down that has all CPUs of the one above follows it. One that has fewer keeps of them what there is,
    and one without any is left alone.
    """
    wanted = parse_cpu_list(value)
    before: list[frozenset[int]] = []
    after: list[frozenset[int]] = []
    for what, descriptor, depth, _name in trees.walk(group.directories[controller]):
        if what == trees.ENTER:
            del before[depth:], after[depth:]
            text = trees.read_at(descriptor, "cpuset.cpus") or ""
            before.append(parse_cpu_list(text) if text else frozenset())
            after.append(_cpus_after(before, after, wanted))
            _write_cpus(descriptor, before[depth] | (wanted if after[depth] else frozenset()), before[depth])
        elif what == trees.LEAVE:
            _write_cpus(descriptor, after[depth], before[depth] | wanted)


def _cpus_after(before: list[frozenset[int]], after: list[frozenset[int]], wanted: frozenset[int]) -> frozenset[int]:
    """Of the last in ``before``; those above it are in both lists."""
    if not after:
        return wanted
    own, above = before[-1], before[-2]
    if not own or own == above:
        return after[-1] if own else own
    return (own & after[-1]) or after[-1]


def _write_cpus(descriptor: int, cpus: frozenset[int], present: frozenset[int]) -> None:
    if cpus and cpus != present:
        trees.write_at(descriptor, "cpuset.cpus", format_cpu_list(cpus))


def _set_bandwidth(group: Group, controller: str, file: str, value: str) -> None:
    """Documentation/scheduler/sched-bwc.rst: a group's quota is refused (EINVAL) while one below has a larger share of
    its own. What is below is held to what is above anyhow: its own quota goes.
    """
    try:
        group.write(controller, file, value)
        return
    except OSError:
        lifted = 0
        for what, descriptor, depth, _name in trees.walk(group.directories[controller]):
            if what == trees.LEAVE and depth and trees.read_at(descriptor, "cpu.cfs_quota_us") != "-1":
                trees.write_at(descriptor, "cpu.cfs_quota_us", "-1")
                lifted += 1
        if not lifted:
            raise
    group.write(controller, file, value)


_WITH_GROUPS_BELOW: dict[str, Callable[[Group, str, str, str], None]] = {
    "cpuset.cpus": _set_cpus,
    "cpu.cfs_quota_us": _set_bandwidth,
    "cpu.cfs_period_us": _set_bandwidth,
}


@contextlib.contextmanager
def _frozen(group: Group) -> Iterator[None]:
    """Blocks for up to a second. Without a freezer nothing happens; one that is paused stays so."""
    if freezer.is_wanted(group):
        yield
        return
    try:
        with contextlib.suppress(OSError):
            freezer.freeze(group)
            deadline = time.monotonic() + _FREEZE_SECONDS
            while not freezer.is_frozen(group) and time.monotonic() < deadline:
                time.sleep(0.001)
        yield
    finally:
        with contextlib.suppress(OSError):  # the next supervisor does, should we be killed before
            freezer.thaw(group)
