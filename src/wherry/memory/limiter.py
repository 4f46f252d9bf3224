"""What every memory enforcer does, and what it says.

The life of one limit:

1. A supervisor opens an enforcer with ``open_limiter(host, kept)`` of its module. ``kept`` is empty, or holds the
   descriptors that an earlier supervisor of the same state directory left with the shim (``descriptors()``).
2. ``arm`` comes while the container's first process is parked before its execve. What runs until then is a copy of
   the shim, whose pages are not the container's: counting begins with the first execve in the container's pid
   namespace, and a first process that never calls it (PF_FORKNOEXEC: our own init, ``--init``) is never counted.
   From that execve on there is no unwatched instant.
3. The shim keeps ``descriptors()`` once, and for each container what ``arm`` returned. So limits hold and events wait
   while no supervisor lives, and go when the shim has gone.
4. The next supervisor opens the enforcer with ``kept``, calls ``adopt`` for every container of its records that this
   enforcer has armed, ended ones too. One that runs and that the enforcer does not know (another version watched it,
   or what the shim kept is lost) it arms anew by ``rearm``. ``take_stock`` comes after the last, then what runs and
   belongs to nobody is killed, then comes ``sweep``. Only then may the shim let go of what it had from before.
5. ``disarm`` comes when the container has ended, or was never started: always exactly once for an armed container.

A crossing of the hard limit ends the container: the enforcer signals what it can itself, and whoever reads the event
kills the first process by its pidfd as well. Calls come from one thread and do not block.
"""

from __future__ import annotations

import os
import time
from enum import StrEnum
from typing import NamedTuple, Protocol

from wherry.kernel.cgroups import Group, Layout
from wherry.memory import uncounted


class Unusable(Exception):
    """This enforcer does not work on this host; ``str()`` is one line that says why, for ``engine info``."""


class Kind(StrEnum):
    """What an event tells of."""

    SOFT = "soft-limit"
    """The container's memory rose to the soft limit; once per crossing, and no more often than every 50 ms: a crossing
    sooner than that after the last one is told when it lasts.
    """
    SOFT_CLEARED = "soft-limit-cleared"
    """It fell below ``Limits.clear_bytes`` after a soft crossing: the next crossing will be told again."""
    HARD = "hard-limit"
    """It rose to the hard limit; at most once in the life of a container, which it ends."""
    OOM_KILL = "oom-kill"
    """The kernel's OOM killer chose the process ``pid`` of the container. Not every enforcer sees it."""


class Limits(NamedTuple):
    """Bytes, None for no limit; soft is not above hard.

    Both are None only for an enforcer that tells of OOM_KILL: it then watches and does nothing else.
    """

    soft_bytes: int | None = None
    hard_bytes: int | None = None

    @property
    def clear_bytes(self) -> int:
        """Below this a soft crossing is over: a sixteenth (at least 64 KiB) under the soft limit, so that memory going
        up and down around the limit is one crossing and not thousands.
        """
        soft = self.soft_bytes or 0
        return max(soft - max(soft // 16, 64 << 10), 0)


class Target(NamedTuple):
    """The container to watch.

    ``container_id`` is 64 hex digits; ``pid`` and ``pidfd`` are its first process, as the supervisor's pid namespace
    numbers it; ``namespace`` is a descriptor of its pid namespace (/proc/PID/ns/pid), which keeps the namespace's
    inode number from being given to another one for as long as somebody holds it. All descriptors stay the caller's.
    ``throttles`` has an enforcer that uses memory.high for itself leave it at the soft limit. ``name`` is what an
    enforcer that writes to the kernel log calls the container there, "" for its id.
    """

    container_id: str
    pid: int
    pidfd: int
    namespace: int
    group: Group
    name: str = ""
    throttles: bool = False

    @property
    def inode(self) -> int:
        """The pid namespace's inode number: ns_common.inum in the kernel, pid:[N] in /proc."""
        return os.fstat(self.namespace).st_ino


class MemoryEvent(NamedTuple):
    """One crossing.

    ``pid`` (the process, not the thread) and ``comm`` are who crossed; pid is 0 and comm "" when the enforcer does not
    know, and for SOFT_CLEARED. ``rss_bytes`` is the whole container's memory at the crossing, ``peak_bytes`` its
    highest so far, ``limit_bytes`` the limit in question. ``monotonic_ns`` is CLOCK_MONOTONIC at the crossing, not at
    the reading of the event, wherever the enforcer knows it; ``wall_ns`` is the same instant in nanoseconds since the
    epoch (``wall_clock``). ``detail`` is "" for a plain crossing; "uncounted" is a process that could not be counted:
    that ends a container with a hard limit, and in events of one without it says that the figures are too low.
    """

    kind: Kind
    container_id: str
    pid: int
    comm: str
    rss_bytes: int
    limit_bytes: int
    peak_bytes: int
    monotonic_ns: int
    wall_ns: int
    detail: str = ""


def wall_clock(monotonic_ns: int) -> int:
    """Nanoseconds since the epoch of an instant of CLOCK_MONOTONIC, by the wall clock of now."""
    return time.time_ns() - (time.monotonic_ns() - monotonic_ns)


class MemoryUsage(NamedTuple):
    """Bytes, and the number of processes that are counted (None when the enforcer does not count processes).
    ``uncounted`` processes so far found no room: the bytes are without theirs.
    """

    rss_bytes: int
    peak_bytes: int
    processes: int | None
    uncounted: int = 0


class Verdict(NamedTuple):
    """The enforcer's own record of a container that has ended.

    ``hard`` is its crossing of the hard limit, whether or not ``read`` has handed that event over (the buffer may have
    been full); None means that this enforcer did not end the container. ``peak_bytes`` is None when nothing was
    counted. ``untold`` is what ``read`` has not handed over, in order: a container may end before a descriptor says
    that there is something to read.
    """

    peak_bytes: int | None
    hard: MemoryEvent | None
    untold: tuple[MemoryEvent, ...] = ()


class Alarm(NamedTuple):
    """How the shim, which knows no enforcer, finds containers that have crossed their hard limits, while no supervisor
    lives: ``array`` is the one of ``descriptors()`` that can be mapped, of elements of ``stride`` bytes, one a
    container. The 32-bit word at ``flag`` in one is not 0 once its container has crossed. ``wake`` is the one that
    polls readable, by an edge, when that may have happened. ``id`` is this array's alone on this machine, and for as
    long as it is up.
    """

    id: str
    array: str
    wake: str
    stride: int
    flag: int


class Traits(NamedTuple):
    """What an enforcer is, whatever the host: ``choice.traits_of`` knows it by the name that a record has, also when
    nothing of that enforcer is open any more.
    """

    is_group: bool = False
    """The container's memory group is itself the hard limit, and its memory.high the soft one: nothing stands behind
    it, and what it counts is what the group is charged.
    """
    names_victims: bool = False
    """It tells of Kind.OOM_KILL, also for a container without limits."""
    writes_kernel_log: bool = False
    """It tells of crossings there by itself."""
    is_pinnable: bool = False
    """Its descriptors are of BPF objects, which a bpffs can hold."""
    not_counted: tuple[str, ...] = uncounted.RESIDENT
    """What its hard limit does not count, in words."""


class Accuracy(NamedTuple):
    """What an enforcer promises that counts the resident memory of processes (VmRSS). ``behind_bytes`` is how far its
    figure may be from the sum of theirs, a process and CPU; ``over_bytes`` how far above a hard limit the memory may be
    that Kind.HARD tells, None for as far as a container gets before it is stopped.
    """

    behind_bytes: int
    over_bytes: int | None


def shares_of_a_cpu() -> int:
    """Bytes of one process that one CPU may hold back of what /proc/PID/statm shows: lib/percpu_counter.c, for three
    counters.
    """
    return 3 * max(32, 2 * (os.cpu_count() or 1)) * os.sysconf("SC_PAGE_SIZE")


class Host(NamedTuple):
    """What an enforcer may need of its surroundings: the hierarchies, and the group that all containers' groups are
    below.
    """

    layout: Layout
    parent: str


class MemoryLimiter(Protocol):
    """One enforcer at work. A module ``wherry.memory.NAME`` says what it is, and makes it:

        TRAITS = Traits(...)
        def open_limiter(host: Host, kept: dict[str, int]) -> MemoryLimiter

    The latter takes over the descriptors in ``kept`` (named as ``descriptors`` names them), and raises Unusable when
    this host has no such facility or the kernel refuses it. Whether it works is found out by ``selftest``, not by
    version.
    """

    @property
    def name(self) -> str:
        """``kmod``, ``bpf`` or ``cgroup``: what ``--memory-enforcer`` and ``inspect`` call it."""

    @property
    def traits(self) -> Traits: ...

    @property
    def accuracy(self) -> Accuracy | None:
        """None for one that counts something else than the resident memory of processes."""

    @property
    def has_taken_over(self) -> bool:
        """Whether it goes on with what ``kept`` had, or needs nothing of it. False for one that was opened afresh."""

    def fileno(self) -> int:
        """A descriptor that polls readable (EPOLLIN) while ``read`` has something to return.

        The supervisor also reads once a second, for what no descriptor can tell.
        """

    def descriptors(self) -> dict[str, int]:
        """What the shim is to keep so that limits and unread events outlive this process; may be empty.

        At most 12. They stay the limiter's. ``arm`` and ``read`` may change them.
        """

    def arm(self, target: Target, limits: Limits) -> dict[str, int]:
        """Watch a container from its first execve on.

        Returns descriptors for the shim to keep with the container and hand to ``adopt``; their names begin with
        "memory-", and they are the caller's to close. Raises OSError when the kernel refuses, also for want of room:
        then nothing is armed.
        """

    def adopt(self, target: Target, limits: Limits, kept: dict[str, int]) -> None:
        """Go on with a container that an earlier supervisor armed.

        It may have ended: ``target.pid`` is then no process any more. ``target.namespace`` is -1 unless ``kept``, which
        is what ``arm`` returned and stays the caller's, has "memory-namespace". Raises OSError, KeyError when that is
        impossible; the container is then not armed.
        """

    def rearm(self, target: Target, limits: Limits) -> dict[str, int]:
        """As ``arm``, for a container that runs already: what it has is counted by ``take_stock``, or before."""

    def take_stock(self) -> None:
        """Count what the containers of ``rearm`` have by now, processes that sleep too: once, after the last. Raises
        OSError when that is impossible: their limits do not hold then.
        """

    def alarm(self) -> Alarm | None:
        """What the shim is to look at while no supervisor lives; None when there is nothing, because the enforcer ends
        containers without anybody's help, or each has a signal of its own (``alarm_of``).
        """

    def alarm_of(self, container_id: str) -> int | str | None:
        """Of an armed container: its element in ``alarm()``, or which of the descriptors that ``arm`` returned polls
        readable once it has crossed its hard limit. Raises KeyError (not armed).
        """

    def sweep(self) -> None:
        """Forget what an earlier supervisor armed and nobody has adopted: it was killed in the middle of a start."""

    def update(self, container_id: str, limits: Limits) -> None:
        """New limits for a live container, in force when this returns: memory above the new hard limit ends it, and
        memory above the new soft limit is a crossing. Raises KeyError (not armed) and OSError; then the old ones hold.
        """

    def stat(self, container_id: str) -> MemoryUsage:
        """Raises KeyError (not armed) and OSError."""

    def disarm(self, container_id: str) -> Verdict:
        """Stop watching, and say what was seen. Raises KeyError (not armed)."""

    def read(self) -> list[MemoryEvent]:
        """The events since the last call, in order; empty when there are none."""

    def dropped(self) -> int:
        """How many events and processes were lost since the enforcer was first opened, for want of room. 0 is the
        rule; a number above it is shown by ``engine info`` and logged.
        """

    def close(self) -> None:
        """Close our descriptors. Limits go on for as long as the shim keeps its own."""
