"""Containers that want all the CPU they can get, and what they got of it in windows of time."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from wherry.experiments import hostload
from wherry.experiments.lab import Lab, Sample
from wherry.experiments.theory import shares, spread

if TYPE_CHECKING:
    from wherry.experiments.model import Data

FOREVER = ["/cpu_hog", "1000000"]
WARM_UP = 1.0
"""Seconds between the start of the last container and the first window."""
_STEP = 0.5
_DONE = re.compile(r"^cpu_hog: done, ([0-9]+) rounds of [0-9]+ steps in ([0-9.]+) s$", re.MULTILINE)
_LINE = re.compile(r"^(\S+) cpu_hog: second [0-9]+ of [0-9]+, ([0-9]+) rounds$", re.MULTILINE)
_OTHERS = 3.0  # percent of a CPU


def measure_windows(lab: Lab, names: Sequence[str], data: Data, seconds: float, repeat: int) -> None:
    """``repeat`` windows one right after the other, each into ``data["windows"]``: CPUs by name.

    ``data["timeline"]`` gets the same in steps of half a second, ``at`` in seconds since the first window began.
    ``data["others"]`` gets the part of ``settings.cpu``, to which the containers are taken to be pinned, that other
    processes (and the host of a virtual machine) used in each window.
    """
    windows, timeline = data.setdefault("windows", []), data.setdefault("timeline", [])
    others: list[float | None] = data.setdefault("others", [])
    last = lab.sample(names)
    begin = data.setdefault("began", last.at)
    for number in range(repeat):
        lab.doing(f"window {number + 1} of {repeat}")
        busy = hostload.busy_seconds(lab.settings.cpu)
        opened, last = last, follow(lab, names, last, seconds, timeline, begin)
        windows.append(last.since(opened))
        others.append(_others(busy, hostload.busy_seconds(lab.settings.cpu), last.at - opened.at, windows[-1]))


def _others(before: float | None, after: float | None, seconds: float, window: Mapping[str, float]) -> float | None:
    if before is None or after is None or seconds <= 0:
        return None
    return max((after - before) / seconds - sum(window.values()), 0.0)


def disturbance(windows: Sequence[Mapping[str, float]], others: Sequence[float | None] = ()) -> str | None:
    """A sentence when the containers did not have their one CPU for themselves: by what others were seen to use there,
    else by what they did not get.
    """
    seen = [100 * each for each in others if each is not None]
    if seen and max(seen) >= _OTHERS:
        return f"Other processes used up to {max(seen):.0f} % of the CPU that the containers ran on."
    missing = [100 * (1 - sum(window.values())) for window in windows]
    if missing and max(missing) >= _OTHERS:
        return f"Up to {max(missing):.0f} % of the CPU time went to other processes or was not there (a busy host)."
    return None


def rounds_for(lab: Lab, seconds: float) -> int:
    """As much of cpu_hog's work as takes so many seconds alone: measured in one."""
    lab.start("alone", ["/cpu_hog", "1"], cpuset_cpus=str(lab.settings.cpu))
    lab.wait("alone")
    rounds, took = done(lab, "alone")
    lab.remove(["alone"])
    return max(round(rounds / took * seconds), 1)


def done(lab: Lab, name: str) -> tuple[int, float]:
    """Rounds and seconds of a cpu_hog that has ended. Raises RuntimeError when it was killed before its last line."""
    match = _DONE.search(lab.output(name))
    if match is None:
        raise RuntimeError(f"{lab.name(name)} has not said that it is done")
    return int(match[1]), float(match[2])


def follow(lab: Lab, names: Sequence[str], last: Sample, seconds: float, timeline: list[Data], begin: float) -> Sample:
    """Take samples for ``seconds`` and return the last; ``timeline`` gets what was used from each to the next."""
    count = max(round(seconds / _STEP), 1)
    start = last.at
    for number in range(1, count + 1):
        lab.sleep_until(start + seconds * number / count)
        now = lab.sample(names)
        timeline.append({"at": now.at - begin, "from": last.at - begin, "cpus": now.since(last)})
        last = now
    return last


def work_rates(lab: Lab, names: Sequence[str]) -> dict[str, float | None]:
    """Rounds a second that each has done by its own count, between the first and the last line that it wrote.

    None for one that got too little CPU to have written two lines.
    """
    return {name: _work_rate(_stamped(lab, name)) for name in names}


def _stamped(lab: Lab, name: str) -> str:
    stream = lab.client.logs(lab.name(name), timestamps=True, stderr=False)
    return b"".join(data for _, data in stream).decode("utf-8", "replace")


def _work_rate(log: str) -> float | None:
    lines = [(datetime.fromisoformat(stamp).timestamp(), int(rounds)) for stamp, rounds in _LINE.findall(log)]
    # The first second includes the starts of the others.
    if len(lines) < 3 or lines[-1][0] <= lines[1][0]:
        return None
    return (lines[-1][1] - lines[1][1]) / (lines[-1][0] - lines[1][0])


def share_spreads(windows: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float, float]]:
    """Median, least and greatest share of each over the windows, in percent of what all of them had."""
    by_window = [shares(window) for window in windows]
    return {name: spread([each[name] for each in by_window]) for name in by_window[0]} if by_window else {}


def timeline_series(timeline: Sequence[Data], name: str) -> tuple[list[float], list[float]]:
    """Middles of the steps, and the share of ``name`` in each."""
    middles = [(step["from"] + step["at"]) / 2 for step in timeline]
    return middles, [shares(step["cpus"])[name] for step in timeline]


def repeats(windows: Sequence[Any], seconds: float) -> str:
    """How often, and what the table's numbers are."""
    if len(windows) == 1:
        return f"One window of {seconds:g} s: no repeat, so no interval."
    return f"{len(windows)} windows of {seconds:g} s; the tables show medians, intervals are least and greatest."


def settle(lab: Lab) -> None:
    """Wait until all have run for a while."""
    lab.doing("warm-up")
    lab.sleep_until(time.monotonic() + WARM_UP)


def first_at(timeline: Sequence[Data], name: str, target: float, tolerance: float, after: float) -> float | None:
    """Seconds from ``after`` to the middle of the first of two steps in a row with a share within ``tolerance`` of
    ``target`` percent; None when there are none.
    """
    middles, found = timeline_series(timeline, name)
    for (at, one), (_, two) in pairwise(zip(middles, found, strict=True)):
        if at > after and abs(one - target) <= tolerance and abs(two - target) <= tolerance:
            return at - after
    return None
