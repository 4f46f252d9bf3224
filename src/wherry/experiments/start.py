"""``start``: how long a start takes while more and more containers are alive."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING

from wherry.experiments import disturbance, theory
from wherry.experiments.machine import online_cpus
from wherry.experiments.model import Conclusion, Data, Plot, Series, Settings, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.experiments.lab import Lab

_ALIVE = (0, 10, 25, 50, 100)
_STARTS = 10
_PROGRAM = ["/bin/true"]
_SLEEP = ["/bin/sleep", "1000000"]


class Start:
    """``data``: ``runs`` {number alive as text: {started [ms], ended [ms], others (part of the machine's CPU time)}},
    ``floor`` [ms]: the host's own ``true`` without a container, nothing where there is none.
    """

    name = "start"
    title = "start latency against the number of containers that are alive"
    needs = ()
    method = f"""
        {_PROGRAM[0]} is run in a container of its own, again and again, while 0, 10, 25 ... other containers sleep.
        Taken are the time until the supervisor has answered that it was executed, and until its end was booked and
        its output delivered. The floor is the host's own `true`, started by posix_spawn and waited for, from the
        same process, without a container: of a root file system nothing is executed outside containers. One start
        after the other, {_STARTS} a repeat.
    """

    def check(self, settings: Settings) -> None:
        pass

    def duration(self, settings: Settings) -> float:
        return max(_ALIVE) * 0.02 + len(_ALIVE) * settings.repeat * _STARTS * 0.03 + 1

    def measure(self, lab: Lab, data: Data) -> None:
        data |= {"floor": [], "runs": {}}
        program = shutil.which("true")
        if program is not None:
            lab.doing("without a container")
            data["floor"] = [_spawn(program) for _ in range(_STARTS * lab.settings.repeat)]
        alive = 0
        for count in _ALIVE:
            lab.doing(f"{count} alive")
            for number in range(alive, count):
                lab.start(f"sleeper{number}", _SLEEP)
            alive = count
            again = disturbance.Repeats(lab, data, lab.settings.repeat)
            again.take(partial(self._starts, lab, data, count), lambda found: _against([found]))

    @staticmethod
    def _starts(lab: Lab, data: Data, count: int) -> Data:
        found: Data = {"started": [], "ended": [], "others": None}
        data["runs"][str(count)] = found  # as soon as it is there: an interruption may come
        watch, own = disturbance.Watch(online_cpus()), disturbance.OwnTime(lab)
        for number in range(_STARTS * lab.settings.repeat):
            started, ended = _run(lab, f"run{count}-{number}")
            found["started"].append(started)
            found["ended"].append(ended)
            lab.doing(f"{count} alive")
        found["others"] = watch.others(own.seconds())
        return found

    def conclude(self, data: Data) -> Conclusion:
        runs = {int(count): each for count, each in data.get("runs", {}).items() if each["ended"]}
        if not runs:
            return Conclusion(noise=["Interrupted before the first start: nothing was measured."])
        floor = theory.spread(data["floor"])[0] if data.get("floor") else None
        rows = []
        for count, each in runs.items():
            started, ended = _quartiles(each["started"]), _quartiles(each["ended"])
            rows.append((count, started[0], *ended, ended[0] / floor if floor else None))
        columns = ("ALIVE", "STARTED MS", "ENDED MS", "1ST QUARTILE", "3RD QUARTILE", "TIMES THE FLOOR")
        return Conclusion(
            tables=[Table(title="One short container", columns=columns, rows=rows, bar="ENDED MS")],
            plots=[_plot(runs, floor)],
            findings=disturbance.concluded(_against(list(runs.values())), lambda: _findings(runs, floor)),
            noise=[
                f"{len(next(iter(runs.values()))['ended'])} starts each; medians, and the quartiles beside them.",
                *disturbance.repeated(data),
            ],
        )


def _against(found: Sequence[Data]) -> str | None:
    return disturbance.by_others([each.get("others") for each in found], disturbance.WITH_KERNEL, pinned=False)


def _spawn(program: str) -> float:
    """Milliseconds."""
    null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    began = time.perf_counter()
    os.waitpid(os.posix_spawn(program, [program], {}, file_actions=null), 0)
    return (time.perf_counter() - began) * 1e3


def _run(lab: Lab, short: str) -> tuple[float, float]:
    """Milliseconds until it was executed, and until it had ended."""
    began = time.perf_counter()
    executed = lab.run_once(short, _PROGRAM)
    return (executed - began) * 1e3, (time.perf_counter() - began) * 1e3


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third."""
    ordered = sorted(values)
    return theory.spread(ordered)[0], theory.percentile(ordered, 25), theory.percentile(ordered, 75)


def _plot(runs: dict[int, Data], floor: float | None) -> Plot:
    counts = list(runs)
    series = []
    for key, label in (("ended", "until its end was booked"), ("started", "until it was executed")):
        found = [_quartiles(runs[count][key]) for count in counts]
        series.append(Series.of_spreads(label, [float(count) for count in counts], found))
    if floor is not None:
        ends = [float(counts[0]), float(max(counts[-1], 1))]
        series.append(Series(label="floor: no container", x=ends, y=[floor, floor], role="predicted"))
    return Plot(
        name="start-latency",
        kind="lines",
        title="Time for one short container",
        x_label="containers alive besides",
        y_label="time (ms)",
        alt="Lines of median time with quartiles: "
        + ", ".join(f"{count} alive {_quartiles(runs[count]['ended'])[0]:.1f} ms" for count in counts),
        series=series,
    )


def _findings(runs: dict[int, Data], floor: float | None) -> list[str]:
    medians = {count: _quartiles(each["ended"])[0] for count, each in runs.items()}
    few, many = min(medians), max(medians)
    found = []
    if few != many:
        found.append(
            f"With {many} containers alive a short one took {medians[many] / medians[few]:.2f} times as long as with "
            f"{few} ({medians[many]:.1f} and {medians[few]:.1f} ms in the median)."
        )
    if floor is not None:
        found.append(
            f"The host's `true` without a container takes {floor:.2f} ms; with {few} alive, one in a container "
            f"takes {medians[few] / floor:.1f} times that."
        )
    return found
