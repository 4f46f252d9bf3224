"""Containers that want all the CPU they can get, and what they got of it in windows of time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from wherry.experiments import disturbance
from wherry.experiments.lab import Lab, Sample
from wherry.experiments.theory import shares, spread

if TYPE_CHECKING:
    from wherry.experiments.model import Data

FOREVER = ["/cpu_hog", "--wall", "1000000"]
"""By wall time, so that even one that hardly gets any CPU time says now and then how far it has come."""
WARM_UP = 1.0
"""Seconds between the start of the last container and the first window."""
STEP = 0.5
"""Seconds between two points of a time line."""
_DONE = re.compile(
    r"^cpu_hog: done, ([0-9]+) rounds of [0-9]+ steps, ([0-9.]+) s of CPU time, ([0-9.]+) s of wall time$",
    re.MULTILINE,
)
_LINE = re.compile(r"^(\S+) cpu_hog: second [0-9]+ of [0-9]+, ([0-9]+) rounds$", re.MULTILINE)

TakeSample = Callable[[], Sample]
Window = tuple[dict[str, float], "float | None"]
"""CPUs by name, and the part of the CPU that others used."""
Reason = Callable[[Sequence[Mapping[str, float]], "Sequence[float | None]"], "str | None"]
"""What there is to say against windows and what others used in them."""


def measure_windows(
    lab: Lab,
    names: Sequence[str],
    data: Data,
    seconds: float,
    repeat: int,
    *,
    step: float | None = None,
    sample: TakeSample | None = None,
    reason: Reason = disturbance.of_windows,
) -> None:
    """``repeat`` windows one right after the other, each into ``data["windows"]``: CPUs by name.

    ``data["timeline"]`` gets the same in steps of ``step`` seconds (None: of a window; looking takes CPU time from what
    is measured), ``at`` in seconds since the first window began. ``data["others"]`` gets the part of ``settings.cpu``,
    to which the containers are taken to be pinned, that other processes (and the host of a virtual machine) used in
    each window. A window that ``reason`` has something against is measured again, as many in all as were asked for
    (``data["again"]``). ``sample`` looks at what is no container.
    """
    windows, timeline = data.setdefault("windows", []), data.setdefault("timeline", [])
    others: list[float | None] = data.setdefault("others", [])
    look = sample or partial(lab.sample, names)
    last = look()
    begin = data.setdefault("began", last.at)

    def measure() -> Window:
        nonlocal last
        watch, opened = disturbance.Watch([lab.settings.cpu]), last
        last = follow(lab, look, opened, seconds, timeline, begin, step or seconds)
        window = last.since(opened)
        return window, watch.others(sum(window.values()) * (last.at - opened.at))

    repeats = disturbance.Repeats(lab, data, repeat)
    for number in range(repeat):
        lab.doing(f"window {number + 1} of {repeat}")
        window, of_others = repeats.take(measure, lambda found: reason([found[0]], [found[1]]))
        windows.append(window)
        others.append(of_others)


def rounds_for(lab: Lab, seconds: float) -> int:
    """As much of cpu_hog's work as takes so many seconds of CPU time: measured in one, whoever else runs meanwhile."""
    lab.start("alone", ["/cpu_hog", "1"], cpuset_cpus=str(lab.settings.cpu))
    lab.wait("alone")
    alone = done(lab, "alone")
    lab.remove(["alone"])
    return max(round(alone.rounds / alone.cpu * seconds), 1)


class Done(NamedTuple):
    """What a cpu_hog has done, and the seconds of CPU time and of wall time that it took."""

    rounds: int
    cpu: float
    wall: float


def done(lab: Lab, name: str) -> Done:
    """Of a cpu_hog that has ended. Raises RuntimeError when it was killed before its last line."""
    match = _DONE.search(lab.output(name))
    if match is None:
        raise RuntimeError(f"{lab.name(name)} has not said that it is done")
    return Done(int(match[1]), float(match[2]), float(match[3]))


def follow(
    lab: Lab,
    look: TakeSample,
    last: Sample,
    seconds: float,
    timeline: list[Data],
    begin: float,
    step: float = STEP,
) -> Sample:
    """Take samples for ``seconds`` and return the last; ``timeline`` gets what was used from each to the next."""
    count = max(round(seconds / step), 1)
    start = last.at
    for number in range(1, count + 1):
        lab.sleep_until(start + seconds * number / count)
        now = look()
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
