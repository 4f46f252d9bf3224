"""CPU time of the machine's CPUs, of which the containers' is a part: /proc/stat, proc(5)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

_LINE = re.compile(r"^cpu([0-9]+) (.+)$", re.MULTILINE)
_NOT_BUSY = frozenset((3, 4, 8, 9))  # idle, iowait; guest times are in user and nice already


def busy_seconds(cpu: int, text: str | None = None) -> float | None:
    """Seconds since boot in which a CPU was busy, or taken away by the host of a virtual machine (steal).

    None when /proc/stat does not list it. The kernel counts in ticks of a hundredth: a window should have many.
    """
    text = Path("/proc/stat").read_text(encoding="ascii") if text is None else text
    for number, times in _LINE.findall(text):
        if int(number) == cpu:
            ticks = sum(int(ticks) for at, ticks in enumerate(times.split()) if at not in _NOT_BUSY)
            return ticks / os.sysconf("SC_CLK_TCK")
    return None


def busy_share(cpus: Sequence[int], seconds: float) -> float:
    """The part of the CPUs' time, 0 to 1, that somebody uses during the next so many seconds."""
    before = [busy_seconds(cpu) or 0.0 for cpu in cpus]
    began = time.monotonic()
    time.sleep(seconds)
    after = [busy_seconds(cpu) or 0.0 for cpu in cpus]
    whole = (time.monotonic() - began) * len(cpus)
    return min((sum(after) - sum(before)) / whole, 1.0) if whole > 0 else 0.0
