"""CPU scheduling from outside a process: sched(7), cpuset(7), setpriority(2)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_CPU_MAX = 8191  # CONFIG_NR_CPUS is at most 8192
_LIST_MAX = 100 + 6 * (_CPU_MAX + 1)  # what the kernel takes at most (kernel/cgroup/cpuset.c, max_write_len)
_PASSES = 8


def parse_cpu_list(text: str) -> frozenset[int]:
    """The numbers in a list such as "0-3,7" (cpuset(7), Formats of lists). Raises ValueError.

    Ranges are marked in one number of 8192 bits, so that thousands of wide ones cost no more than as many narrow ones.
    """
    if len(text) > _LIST_MAX:
        raise ValueError(f"{text[:40]!r}... is not a list such as 0-3,7 of at most {_LIST_MAX} characters")
    marked = 0
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"{part[:40]!r} is not a list such as 0-3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= _CPU_MAX:
            raise ValueError(f"{part!r} is not a range of CPUs from 0 to {_CPU_MAX}")
        marked |= (1 << last + 1) - (1 << first)
    return frozenset(cpu for cpu in range(marked.bit_length()) if marked >> cpu & 1)


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The inverse of ``parse_cpu_list``."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def set_nice(threads: Callable[[], Iterable[int]], nice: int) -> None:
    """Give every thread that ``threads`` lists (by id, of the caller's pid namespace) one nice value.

    Threads that appear meanwhile are looked for again. Those of a parent already dealt with have the value, so that a
    second pass usually finds nothing to do; threads that keep changing their own (they may only lower their share) are
    left alone after a few. Raises OSError other than ESRCH.
    """
    for _ in range(_PASSES):
        if sum(_renice(thread, nice) for thread in threads()) == 0:
            return


def _renice(thread: int, nice: int) -> bool:
    """Whether there was something to change."""
    try:
        if os.getpriority(os.PRIO_PROCESS, thread) == nice:
            return False
        os.setpriority(os.PRIO_PROCESS, thread, nice)
    except ProcessLookupError:  # it has ended
        return False
    return True
