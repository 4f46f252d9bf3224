"""What kept a measurement from being one: CPU time of others while it ran, and results that cannot be.

What was disturbed is measured again a bounded number of times; where that does not help, the result is inconclusive.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wherry.experiments import hostload

if TYPE_CHECKING:
    from wherry.experiments.lab import Lab
    from wherry.experiments.model import Data

T = TypeVar("T")

OTHERS = 0.03
"""Part of the CPU time from which on others' use of it is a disturbance of containers that are compared."""
WITH_KERNEL = 0.15
"""The same where threads of the kernel that work for the containers (disk, namespaces) count with the others."""
_PINNED = "of the CPU that the containers ran on"
_ALL = "of the machine's CPU time"


class Watch:
    """CPU time of some CPUs from now on."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = cpus
        self._before = self._busy()
        self._began = time.monotonic()

    def _busy(self) -> float | None:
        found = [hostload.busy_seconds(cpu) for cpu in self._cpus]
        seen = [each for each in found if each is not None]
        return sum(seen) if len(seen) == len(found) else None

    def others(self, own_seconds: float) -> float | None:
        """The part of it, 0 to 1, that others used (or the host of a virtual machine), where we used ``own_seconds``.

        None where /proc/stat does not tell.
        """
        now, whole = self._busy(), (time.monotonic() - self._began) * len(self._cpus)
        if self._before is None or now is None or whole <= 0:
            return None
        return max((now - self._before - own_seconds) / whole, 0.0)


class OwnTime:
    """CPU time of this process, a supervisor and its shim from now on, ended containers included."""

    def __init__(self, lab: Lab) -> None:
        ours = lab.client.info().get("Wherry", {})
        self._pids = [os.getpid(), *(ours[key] for key in ("Pid", "ShimPid") if ours.get(key))]
        self._before = self._used()

    def seconds(self) -> float:
        return self._used() - self._before

    def _used(self) -> float:
        return sum(map(_process_seconds, self._pids))


def _process_seconds(pid: int) -> float:
    """utime, stime, cutime and cstime of proc(5); 0 for a process that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


class Repeats:
    """Measures again what was disturbed, ``most`` times in all; the reasons go into ``data["again"]``."""

    def __init__(self, lab: Lab, data: Data, most: int) -> None:
        self._lab = lab
        self._data = data
        self._left = most

    def take(self, measure: Callable[[], T], reason: Callable[[T], str | None]) -> T:
        """What ``measure`` returned the first time that there was no ``reason`` against it, or the last time."""
        while True:
            found = measure()
            why = reason(found)
            if why is None or self._left == 0:
                return found
            self._left -= 1
            self._data.setdefault("again", []).append(why)
            self._lab.doing("disturbed: again")


def by_others(others: Sequence[float | None], limit: float = OTHERS, *, pinned: bool = True) -> str | None:
    """A sentence when somebody else used ``limit`` or more of the CPU time in one of the measurements."""
    seen = [each for each in others if each is not None]
    if seen and max(seen) >= limit:
        return f"Other processes used up to {100 * max(seen):.0f} % {_PINNED if pinned else _ALL}."
    return None


def of_windows(windows: Sequence[Mapping[str, float]], others: Sequence[float | None] = ()) -> str | None:
    """A sentence when containers that wanted all of one CPU did not have it for themselves, or had more than there is:
    ``windows`` are CPUs by name.
    """
    if why := by_others(others):
        return why
    used = [sum(window.values()) for window in windows]
    if used and min(used) <= 1 - OTHERS:
        missing = 100 * (1 - min(used))
        return f"Up to {missing:.0f} % of the CPU time went to other processes or was not there (a busy host)."
    return of_impossible_windows(windows)


def of_impossible_windows(windows: Sequence[Mapping[str, float]]) -> str | None:
    """A sentence when containers on one CPU had more than it has."""
    most = max((sum(window.values()) for window in windows), default=0.0)
    if most > 1 + OTHERS:
        return f"The containers had {most:.2f} CPUs where there was one: the clocks do not agree."
    return None


def inconclusive(why: str, what: str = "") -> str:
    """The finding in place of a conclusion; ``what`` names the part of the experiment that it is about."""
    return f"{what}: inconclusive. {why}" if what else f"Inconclusive. {why}"


def concluded(why: str | None, findings: Callable[[], list[str]]) -> list[str]:
    """``findings`` where nothing speaks against them."""
    return [inconclusive(why)] if why else findings()


def repeated(data: Data) -> list[str]:
    """How often something was measured again, and why the last time."""
    again: list[str] = data.get("again", [])
    if not again:
        return []
    times = "once" if len(again) == 1 else f"{len(again)} times"
    return [f"Measured again {times} after a disturbance. The last: {again[-1]}"]
