"""The enforcer ``cgroup``: the memory controller's own limits. Needs nothing but the controller.

It counts what is charged to the container's group: page cache and kernel memory as well as anonymous memory, and what
several processes share once. That is another meaning than that of kmod and bpf, which sum VmRSS.

- The hard limit is the group's limit, without swap. When the kernel finds nothing to reclaim, its OOM killer kills a
  process; the reader of the event kills the container. Version 2 kills the whole group by itself (memory.oom.group).
- Version 1 tells of a soft crossing by threshold eventfds (to 128 pages a CPU), version 2 by memory.high. That one
  also slows down whoever is above it, which a soft limit is not to do: it is taken away at the crossing, and put back
  when usage has fallen below ``Limits.clear_bytes``, which ``read`` looks at. It stays where ``Target.throttles``.
- Neither says which process crossed, nor when: events have pid 0 and the time at which they were read.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import time
from typing import Protocol

from wherry.kernel import cgroup_memory
from wherry.kernel.cgroups import Group
from wherry.kernel.libc import call_error
from wherry.kernel.polling import readable
from wherry.memory import uncounted
from wherry.memory.limiter import Host, Kind, Limits, MemoryEvent, MemoryUsage, Target, Traits, Unusable, Verdict

_PAGE = resource.getpagesize()
_SOFT_INTERVAL_NS = 50_000_000
TRAITS = Traits(is_group=True, not_counted=uncounted.CHARGED)


def open_limiter(host: Host, _kept: dict[str, int]) -> CgroupLimiter:
    """Raises Unusable when no memory controller can be had."""
    group = Group(host.layout, host.parent)
    if host.layout.version == 1:
        if "memory" not in host.layout.mounts:
            raise Unusable("there is no memory controller: no cgroup hierarchy of version 1 has it")
    elif "memory" not in (group.read("", "cgroup.controllers") or "").split():
        raise Unusable(f"there is no memory controller in /{host.parent} (cgroup.controllers)")
    return CgroupLimiter()


class _Watch(Protocol):
    """One container's limits."""

    group: Group
    limits: Limits

    def descriptors(self) -> dict[int, int]:
        """Descriptor -> epoll mask, closed by ``close``."""

    def kept(self) -> dict[str, int]: ...

    def limit(self, limits: Limits) -> None: ...

    def crossings(self) -> list[Kind]: ...

    def is_unsettled(self) -> bool:
        """Whether there may be something to tell that no descriptor is signalled for."""

    def close(self) -> None: ...


class CgroupLimiter:
    """See ``limiter.MemoryLimiter``."""

    name = "cgroup"
    traits = TRAITS
    accuracy = None
    has_taken_over = True  # all that there is, is in the groups

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._watches: dict[str, _Watch] = {}
        self._by_descriptor: dict[int, str] = {}
        self._past: list[str] = []
        self._hard: dict[str, MemoryEvent] = {}

    def fileno(self) -> int:
        return self._poll.fileno()

    def descriptors(self) -> dict[str, int]:
        return {}

    def arm(self, target: Target, limits: Limits) -> dict[str, int]:
        if any(watch.group.path == target.group.path for watch in self._watches.values()):
            # Two would each write the group's limits, and the first one removed would take the other's words away.
            raise call_error(errno.EEXIST, "arm", f"cgroup memory limiter: {target.group.path}")
        version1 = target.group.layout.version == 1
        watch = _Version1(target.group) if version1 else _Version2(target.group, target.throttles)
        try:
            watch.limit(limits)
        except OSError:
            watch.close()
            raise
        self._add(target.container_id, watch)
        return {name: os.dup(descriptor) for name, descriptor in watch.kept().items()}

    def adopt(self, target: Target, limits: Limits, kept: dict[str, int]) -> None:
        if target.group.layout.version == 1:
            self._add(target.container_id, _Version1.adopt(target.group, limits, kept))
        else:
            watch = _Version2.adopt(target.group, limits, target.throttles)
            self._add(target.container_id, watch)
            self._past.append(target.container_id)  # it stands in the counts, and its descriptor is new

    def rearm(self, target: Target, limits: Limits) -> dict[str, int]:
        return self.arm(target, limits)  # the kernel has counted all along, and held whatever limit the group has

    def take_stock(self) -> None:
        """The kernel has."""

    def alarm(self) -> None:
        """Version 2 ends containers by itself; on version 1 each has a signal."""

    def alarm_of(self, container_id: str) -> str | None:
        name = "memory-oom"
        return name if name in self._watches[container_id].kept() else None

    def sweep(self) -> None:
        """There is nothing but the groups, and the supervisor sweeps those."""

    def update(self, container_id: str, limits: Limits) -> None:
        watch = self._watches[container_id]
        before = set(watch.descriptors())
        watch.limit(limits)
        self._register(container_id, watch, set(watch.descriptors()) - before)

    def stat(self, container_id: str) -> MemoryUsage:
        group = self._watches[container_id].group
        usage = cgroup_memory.usage(group) or 0
        return MemoryUsage(usage, max(cgroup_memory.peak(group) or 0, usage), None)

    def disarm(self, container_id: str) -> Verdict:
        watch = self._watches[container_id]
        untold = self._look(container_id, watch)  # the kernel wakes pollers of the counts no more than once in 10 ms
        del self._watches[container_id]
        for descriptor in watch.descriptors():
            self._poll.unregister(descriptor)
            del self._by_descriptor[descriptor]
        watch.close()
        return Verdict(cgroup_memory.peak(watch.group), self._hard.pop(container_id, None), tuple(untold))

    def read(self) -> list[MemoryEvent]:
        ready = set(self._past)
        self._past.clear()
        ready |= {self._by_descriptor[descriptor] for descriptor, _mask in self._poll.poll(0)}
        # Falling below the soft limit is told by no descriptor.
        chosen = [name for name, watch in self._watches.items() if name in ready or watch.is_unsettled()]
        return [event for container_id in chosen for event in self._look(container_id, self._watches[container_id])]

    def dropped(self) -> int:
        return 0

    def close(self) -> None:
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        self._poll.close()

    def _add(self, container_id: str, watch: _Watch) -> None:
        self._watches[container_id] = watch
        self._register(container_id, watch, set(watch.descriptors()))

    def _register(self, container_id: str, watch: _Watch, descriptors: set[int]) -> None:
        for descriptor in descriptors:
            self._poll.register(descriptor, watch.descriptors()[descriptor])
            self._by_descriptor[descriptor] = container_id

    def _look(self, container_id: str, watch: _Watch) -> list[MemoryEvent]:
        events = []
        for kind in watch.crossings():
            if container_id in self._hard:
                continue  # it has crossed the hard limit: what follows is its end
            events.append(_event(kind, container_id, watch))
            if kind is Kind.HARD:
                self._hard[container_id] = events[-1]
        return events


def _event(kind: Kind, container_id: str, watch: _Watch) -> MemoryEvent:
    usage = cgroup_memory.usage(watch.group) or 0
    limits = watch.limits
    limit = (limits.hard_bytes if kind is Kind.HARD else limits.soft_bytes) or 0
    if kind is not Kind.SOFT_CLEARED:
        usage = max(usage, limit)  # the crossing was then; this is now
    peak = max(cgroup_memory.peak(watch.group) or 0, usage)
    return MemoryEvent(kind, container_id, 0, "", usage, limit, peak, time.monotonic_ns(), time.time_ns())


def _holds_hard_limit(group: Group, limits: Limits) -> bool:
    """Whether the group's limit is our hard limit, and not a lower one of its own (``--memory``)."""
    current = cgroup_memory.limit(group)
    return limits.hard_bytes is not None and (current is None or current >= limits.hard_bytes)


def _has_killed_at(group: Group, limits: Limits) -> bool:
    """Whether the OOM killer has struck in a version 1 group that has been full."""
    full = (cgroup_memory.peak(group) or 0) >= (limits.hard_bytes or 0) // _PAGE * _PAGE
    return full and cgroup_memory.oom_kills(group) > 0


class _Soft:
    """Where one container is with its soft limit. It is told of no more than once in 50 ms: a container that goes up
    and down for the purpose must not drown the events of the others.
    """

    def __init__(self) -> None:
        self.is_above = False
        self.is_waiting = False
        """It has crossed too soon after the last time."""
        self.is_assumed = False
        """That it is above was found, and that somebody has told of it is a guess."""
        self._told_ns = 0

    def begin(self, usage: int, limits: Limits) -> None:
        """With a new limit, which is a new crossing when memory is above it already: no signal comes for that."""
        self.is_above, self.is_waiting, self._told_ns = False, usage >= (limits.soft_bytes or 0), 0
        self.is_assumed = False

    def rises(self, crossed: bool, usage: int, limits: Limits) -> bool:
        """Whether a crossing is to be told now; ``crossed`` is that the kernel has just signalled one."""
        if crossed and self.is_assumed:
            # The kernel signals late. Coming down, it says that it has signalled before: then it was told.
            self.is_assumed, self.is_above = False, usage < (limits.soft_bytes or 0)
        due = (crossed and not self.is_above) or (self.is_waiting and usage >= limits.clear_bytes)
        now = time.monotonic_ns()
        self.is_waiting = due and now - self._told_ns < _SOFT_INTERVAL_NS
        if not due or self.is_waiting:
            return False
        self.is_above, self._told_ns = True, now
        return True

    def falls(self, usage: int, limits: Limits) -> bool:
        """Whether the end of a crossing is to be told now."""
        ends = self.is_above and usage < limits.clear_bytes
        self.is_above &= not ends
        return ends


class _Version1:
    """``soft`` signals when usage crosses the soft limit and ``clear`` at the point below it; ``oom`` when it runs out
    of memory.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.limits = Limits()
        self._eventfds: dict[str, int] = {}
        self._soft = _Soft()
        self._has_hard = False
        self._has_other_sizes = False
        self._is_adopted = False
        self._has_crossed_hard = False
        """Before the eventfd was made, or before a supervisor that had read it could act on it."""

    @classmethod
    def adopt(cls, group: Group, limits: Limits, kept: dict[str, int]) -> _Version1:
        """Raises KeyError when an eventfd is missing: its registration is its own, and a new one would know nothing of
        the past.
        """
        watch = cls(group)
        watch.limits, watch._is_adopted = limits, True
        watch._has_hard = _holds_hard_limit(group, limits)
        watch._has_crossed_hard = watch._has_hard and _has_killed_at(group, limits)
        names = (["soft", "clear"] if limits.soft_bytes is not None else []) + (["oom"] if watch._has_hard else [])
        watch._eventfds = {name: os.dup(kept[f"memory-{name}"]) for name in names}
        soft = watch._eventfds.get("soft")
        if soft is not None and not readable([soft]):
            # Nothing unread: if it is above now, the supervisor before us has told of it, or the signal is to come.
            watch._soft.is_above = (cgroup_memory.usage(group) or 0) >= (limits.soft_bytes or 0)
            watch._soft.is_assumed = watch._soft.is_above
        return watch

    def descriptors(self) -> dict[int, int]:
        return dict.fromkeys(self._eventfds.values(), select.EPOLLIN)

    def kept(self) -> dict[str, int]:
        return {f"memory-{name}": descriptor for name, descriptor in self._eventfds.items()}

    def limit(self, limits: Limits) -> None:
        has_hard = _holds_hard_limit(self.group, limits) or (self._has_hard and limits.hard_bytes is not None)
        if has_hard and limits.hard_bytes is not None:
            cgroup_memory.set_limit(self.group, limits.hard_bytes)
            if "oom" not in self._eventfds:
                self._has_crossed_hard = _has_killed_at(self.group, limits)
                self._eventfds["oom"] = cgroup_memory.watch_version1(self.group, "memory.oom_control")
        if limits.soft_bytes is not None and limits.soft_bytes != self.limits.soft_bytes:
            for name, size in (("soft", limits.soft_bytes), ("clear", limits.clear_bytes)):
                self._watch_size(name, str(size))
            self._soft.begin(cgroup_memory.usage(self.group) or 0, limits)
        self.limits, self._has_hard = limits, has_hard

    def _watch_size(self, name: str, size: str) -> None:
        """An eventfd that there is already must stay, since the shim keeps it for the next supervisor. It goes on being
        signalled for the old size, too: the kernel has no call to end that.
        """
        if name in self._eventfds:
            cgroup_memory.watch_also_version1(self.group, self._eventfds[name], "memory.usage_in_bytes", size)
            self._has_other_sizes = True
        else:
            self._eventfds[name] = cgroup_memory.watch_version1(self.group, "memory.usage_in_bytes", size)

    def _has_crossed(self, usage: int) -> bool:
        """Signals do not tell up from down; from below, the first one is up, however short it was."""
        if not cgroup_memory.signalled(self._eventfds["soft"]):
            return False
        if self._is_adopted:  # nobody knows what other sizes it was signalled for
            return (cgroup_memory.peak(self.group) or usage) >= (self.limits.soft_bytes or 0)
        return not self._has_other_sizes or usage >= self.limits.clear_bytes

    def crossings(self) -> list[Kind]:
        found = []
        usage = cgroup_memory.usage(self.group) or 0
        if "soft" in self._eventfds:
            crossed = self._has_crossed(usage)
            cgroup_memory.signalled(self._eventfds["clear"])
            if self._soft.rises(crossed, usage, self.limits):
                found.append(Kind.SOFT)
        if self._has_hard and (cgroup_memory.signalled(self._eventfds["oom"]) or self._has_crossed_hard):
            self._has_crossed_hard = False
            return [*found, Kind.HARD]
        if self._soft.falls(usage, self.limits):
            found.append(Kind.SOFT_CLEARED)
        return found

    def is_unsettled(self) -> bool:
        return self._soft.is_above or self._soft.is_waiting or self._has_crossed_hard

    def close(self) -> None:
        for descriptor in self._eventfds.values():
            os.close(descriptor)
        self._eventfds = {}


class _Version2:
    """All is in the group's files: what happened while nobody looked is counted in its events."""

    def __init__(self, group: Group, throttles: bool = False) -> None:
        self.group = group
        self.limits = Limits()
        self._throttles = throttles
        self._events = cgroup_memory.open_events_version2(group)
        self._soft = _Soft()
        self._has_hard = False
        self._seen: dict[str, int] = {}

    @classmethod
    def adopt(cls, group: Group, limits: Limits, throttles: bool = False) -> _Version2:
        watch = cls(group, throttles)
        watch.limits = limits
        watch._has_hard = _holds_hard_limit(group, limits)
        # Whoever told of a crossing took memory.high away. One that was not told of is counted, and stands there.
        watch._soft.is_above = limits.soft_bytes is not None and group.read("memory", "memory.high") == "max"
        if (cgroup_memory.usage(group) or 0) < limits.clear_bytes:
            # What is counted is old. A container that nobody has told of is held at memory.high, not below it.
            watch._seen = {"high": cgroup_memory.read_events(watch._events).get("high", 0)}
        return watch

    def descriptors(self) -> dict[int, int]:
        return {self._events: select.EPOLLPRI}

    def kept(self) -> dict[str, int]:
        return {}

    def limit(self, limits: Limits) -> None:
        has_hard = _holds_hard_limit(self.group, limits) or (self._has_hard and limits.hard_bytes is not None)
        if has_hard and limits.hard_bytes is not None:
            cgroup_memory.set_limit(self.group, limits.hard_bytes)
            self.group.write("memory", "memory.oom.group", 1)
        if self.limits == Limits():
            self._seen = cgroup_memory.read_events(self._events)  # of a group that nobody has run in
        if limits.soft_bytes is not None and limits.soft_bytes != self.limits.soft_bytes:
            # Before the write: it reclaims down to the limit what it can, and counts no event for that.
            usage = cgroup_memory.usage(self.group) or 0
            self.group.write("memory", "memory.high", limits.soft_bytes)
            self._soft.begin(usage, limits)
        self.limits, self._has_hard = limits, has_hard

    def crossings(self) -> list[Kind]:
        now = cgroup_memory.read_events(self._events)
        before, self._seen = self._seen, now
        found = []
        usage = cgroup_memory.usage(self.group) or 0
        crossed = self.limits.soft_bytes is not None and now.get("high", 0) > before.get("high", 0)
        if self._soft.rises(crossed, usage, self.limits):
            found.append(Kind.SOFT)
            self._slow_down(False)
        # "oom" counts that this group was full: a kill without it was for a group above, or for the whole machine.
        if self._has_hard and now.get("oom_kill", 0) > before.get("oom_kill", 0) and now.get("oom", 0):
            return [*found, Kind.HARD]
        if self._soft.falls(usage, self.limits):
            found.append(Kind.SOFT_CLEARED)
            self._slow_down(True)
        return found

    def _slow_down(self, wanted: bool) -> None:
        if self._throttles:
            return  # as somebody has asked for: it is slowed down for as long as it is above
        try:
            self.group.write("memory", "memory.high", (self.limits.soft_bytes or 0) if wanted else "max")
        except OSError:
            pass  # the group is gone with its container

    def is_unsettled(self) -> bool:
        return self._soft.is_above or self._soft.is_waiting

    def close(self) -> None:
        os.close(self._events)
