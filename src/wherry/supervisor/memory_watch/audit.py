"""What an enforcer counts, against what the kernel shows of the same processes: every ten seconds, one by one.

It finds what no event can tell: a total that has gone astray. Only for enforcers that sum resident memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from wherry.kernel import cgroup_trees as trees
from wherry.kernel.cgroups import Group
from wherry.memory import MemoryLimiter

_log = logging.getLogger(__name__)
SECONDS = 10.0
"""Between two rounds over all containers."""
_MOST_GROUPS = 256
_MOST_PROCESSES = 2048
"""Of one container, whose processes are read: one that has more is passed over."""
_PF_FORKNOEXEC = 0x40  # include/linux/sched.h; field "flags" of /proc/PID/stat
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Audited(NamedTuple):
    """A container that an enforcer watches; ``pid`` is its first process."""

    container_id: str
    name: str
    pid: int
    group: Group
    limiter: MemoryLimiter


class Resident(NamedTuple):
    """The sum of VmRSS, in bytes, over so many processes."""

    size: int
    processes: int


class Drift(NamedTuple):
    """By how much an enforcer's figure was above (or, negative, below) what the kernel shows, in bytes, and of which
    container; ``is_promised`` unless it was more than the enforcer's ``Accuracy`` allows.
    """

    size: int
    name: str
    is_promised: bool


def resident(group: Group, first: int) -> Resident | None:
    """What the kernel shows now of a container's processes; None when there are too many. Blocking.

    A first process that has never called execve is our own init, which no enforcer counts.
    """
    pids: set[int] = set()
    for place in group.places[:1]:  # they are in all hierarchies
        for what, descriptor, _depth, _name in trees.walk(place, _MOST_GROUPS):
            if what == trees.ENTER:
                pids.update(map(int, (trees.read_at(descriptor, "cgroup.procs") or "").split()))
    if len(pids) > _MOST_PROCESSES:
        return None
    size = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            if pid == first and _has_never_executed(pid):
                continue
            with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                size += int(file.read().split()[1]) * _PAGE
    return Resident(size, len(pids))


def _has_never_executed(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return bool(int(file.read().rpartition(")")[2].split()[6]) & _PF_FORKNOEXEC)


class Auditor:
    """``watched`` gives the containers that are to be looked at. Belongs to the loop."""

    def __init__(self, watched: Callable[[], Iterable[Audited]]) -> None:
        self._watched = watched
        self._suspects: set[str] = set()
        """Whose figures were off in the last round, ids: those of processes that come and go may be once."""
        self._told: set[str] = set()
        self.worst: Drift | None = None
        """Of the last round, None before the first or without containers."""

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(SECONDS)
            await self.round()

    async def round(self) -> None:
        """Once over all containers, in a thread that reads one of them at a time."""
        worst: Drift | None = None
        suspects: set[str] = set()
        watched = [each for each in self._watched() if each.limiter.accuracy is not None]
        for each in watched:
            drift = await self._drift(each)
            if drift is None:
                continue
            if not drift.is_promised:
                suspects.add(each.container_id)
            if worst is None or abs(drift.size) > abs(worst.size):
                worst = drift
            if not drift.is_promised and each.container_id in self._suspects - self._told:
                self._told.add(each.container_id)
                text = "%s: %s counts %+d bytes beside what the kernel shows of its processes"
                _log.error(text, each.name, each.limiter.name, drift.size)
        self._suspects = suspects
        self._told &= {each.container_id for each in watched}
        self.worst = worst

    @staticmethod
    async def _drift(each: Audited) -> Drift | None:
        """None of one that is ending. Memory that changes while it is looked at is no drift."""
        accuracy = each.limiter.accuracy
        try:
            before = each.limiter.stat(each.container_id).rss_bytes
            shown = await asyncio.to_thread(resident, each.group, each.pid)
            after = each.limiter.stat(each.container_id).rss_bytes
        except (KeyError, OSError):
            return None
        if shown is None or accuracy is None:
            return None
        low, high = sorted((before, after))
        size = low - shown.size if shown.size < low else min(high - shown.size, 0)
        allowed = accuracy.behind_bytes * shown.processes * (os.cpu_count() or 1)
        return Drift(size, each.name, is_promised=abs(size) <= allowed)
