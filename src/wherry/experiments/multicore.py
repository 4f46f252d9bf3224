"""``nice-multicore``: two nice values on one CPU and on all, by completion time: where "about 2x" comes from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from wherry.experiments import cpu_windows, disturbance, theory
from wherry.experiments.machine import online_cpus
from wherry.experiments.model import BadSettingsError, Conclusion, Data, Plot, Series, Settings, Table
from wherry.weights import weight_of_nice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wherry.experiments.lab import Lab

_NICES = (0, 15)
_SECONDS = 3.0
_MOST_CONTAINERS = 64


class NiceMulticore:
    """``data``: ``cpus``, ``nices`` [two], ``rounds`` and ``alone`` (seconds that they take alone), ``runs`` [{where,
    cpus, nices {container: nice}, seconds {container: until it was done}, cpu {container: seconds of CPU time}, others
    (part of these CPUs)}].
    """

    name = "nice-multicore"
    title = "completion times of equal work at two nice values, on one CPU and on all"
    needs = ("/cpu_hog",)
    method = """
        Every container has the same amount of work, measured out beforehand so that one alone needs a few
        seconds. Two containers of different nice value run pinned to one CPU, then free on all CPUs, then as
        many pairs as there are CPUs, free on all of them; each time, how long each took is read from its own
        log. The prediction lets everybody run at the speed that the weights give it, no container faster than
        one CPU, and gives the CPU of one that is done to those that are left.
    """

    def check(self, settings: Settings) -> None:
        if settings.nices is not None and (len(settings.nices) != 2 or len(set(settings.nices)) != 2):
            given = ",".join(map(str, settings.nices))
            raise BadSettingsError(f"--nices {given}: this experiment compares two different values")

    def duration(self, settings: Settings) -> float:
        # On one CPU the work of two, on all CPUs of one, crowded again of two.
        return 1 + 5.5 * (settings.seconds or _SECONDS) * settings.repeat

    def measure(self, lab: Lab, data: Data) -> None:
        settings, cpus = lab.settings, len(online_cpus())
        low, high = sorted(settings.nices or _NICES)
        lab.doing("measuring out the work")
        alone = settings.seconds or _SECONDS
        data |= {"alone": alone, "rounds": cpu_windows.rounds_for(lab, alone)}
        data |= {"cpus": cpus, "nices": [low, high], "runs": []}
        pairs = min(cpus, _MOST_CONTAINERS // 2)
        pair = {f"nice{low}": low, f"nice{high}": high}
        crowd = {f"{n + 1}-nice{nice}": nice for n in range(pairs) for nice in (low, high)}
        places = {"one CPU": (1, pair)}
        if cpus > 1:
            places |= {f"{cpus} CPUs": (cpus, pair), f"{cpus} CPUs, {2 * pairs} containers": (cpus, crowd)}
        again = {where: disturbance.Repeats(lab, data, settings.repeat) for where in places}
        for _ in range(settings.repeat):
            for where, (count, nices) in places.items():
                measure = partial(self._run, lab, data, where, count, nices)
                data["runs"].append(again[where].take(measure, partial(_against, data)))

    @staticmethod
    def _run(lab: Lab, data: Data, where: str, cpus: int, nices: dict[str, int]) -> Data:
        lab.doing(where)
        pin = str(lab.settings.cpu) if cpus == 1 else ""
        watch = disturbance.Watch([lab.settings.cpu] if cpus == 1 else online_cpus())
        own = disturbance.OwnTime(lab)
        for name, nice in nices.items():
            lab.start(name, ["/cpu_hog", "1000000", str(data["rounds"])], nice=nice, cpuset_cpus=pin)
        for name in nices:
            lab.wait(name)
        done = {name: cpu_windows.done(lab, name) for name in nices}
        others = watch.others(own.seconds())
        lab.remove(nices)
        return {
            "where": where,
            "cpus": cpus,
            "nices": nices,
            "seconds": {name: each.wall for name, each in done.items()},
            "cpu": {name: each.cpu for name, each in done.items()},
            "others": others,
        }

    def conclude(self, data: Data) -> Conclusion:
        runs = data.get("runs", [])
        if not runs:
            return Conclusion(noise=["Interrupted before the first run was over: nothing was measured."])
        low, high = data["nices"]
        summary = {where: _summary([run for run in runs if run["where"] == where], data) for where in _places(runs)}
        rows = [
            (where, nice, *found[nice], found[nice][1] / found[low][1])
            for where, found in summary.items()
            for nice in (low, high)
        ]
        against = {where: _first(_against(data, run) for run in runs if run["where"] == where) for where in summary}
        sound = {where: found for where, found in summary.items() if not against[where]}
        columns = ("WHERE", "NICE", "PREDICTED S", "MEASURED S", "LEAST S", "GREATEST S", "RATIO")
        repeat = len(runs) // len(summary)
        return Conclusion(
            tables=[Table(title="Until the work was done", columns=columns, rows=rows, bar="MEASURED S")],
            plots=[_plot(summary, (low, high))],
            findings=[
                *_findings(sound, low, high),
                *(disturbance.inconclusive(why, f"On {where}") for where, why in against.items() if why),
            ],
            noise=[
                f"{repeat} runs each; numbers are medians over runs and containers, intervals least and greatest.",
                *disturbance.repeated(data),
            ],
        )


_UNEQUAL = 0.1
"""Part by which CPU seconds of equal work, or times that cannot differ, may do so all the same."""


def _against(data: Data, run: Data) -> str | None:
    """Why a run says nothing: others, or what cannot be."""
    if why := disturbance.by_others([run.get("others")], pinned=run["cpus"] == 1):
        return why
    if why := _against_speed(data, run):
        return why
    low, high = data["nices"]
    ratio = _median(run, high) / _median(run, low)
    if ratio < 1 - _UNEQUAL:
        return f"Nice {high} was done in {ratio:.2f} of the time of nice {low}, which no weights explain (a busy host)."
    if run["cpus"] == 1 and ratio > 2 + _UNEQUAL:
        return f"Nice {high} took {ratio:.2f} times as long as nice {low} on one CPU, where 2 is the most there can be."
    return None


def _median(run: Data, nice: int) -> float:
    """Seconds until those with that nice value were done."""
    return theory.spread([run["seconds"][name] for name, each in run["nices"].items() if each == nice])[0]


def _against_speed(data: Data, run: Data) -> str | None:
    """Equal work takes equal CPU time, and no less wall time than alone."""
    used: dict[str, float] = run.get("cpu", {})
    if used and max(used.values()) > min(used.values()) * (1 + 2 * _UNEQUAL):
        least, most = min(used.values()), max(used.values())
        return f"Equal work took {least:.2f} to {most:.2f} s of CPU time: CPUs were not equally fast (a busy host)."
    if run["cpus"] == 1 and used and max(used.values()) > data["alone"] * (1 + 2 * _UNEQUAL):
        most = max(used.values())
        return f"The work took {most:.2f} s of CPU time, where {data['alone']:.2f} s were measured out (a busy host)."
    least = min(run["seconds"].values())
    if least < data["alone"] * (1 - _UNEQUAL):
        return f"One was done in {least:.2f} s with work that takes {data['alone']:.2f} s alone (a busy host)."
    return None


def _first(reasons: Iterable[str | None]) -> str | None:
    return next((why for why in reasons if why), None)


def _places(runs: list[Data]) -> list[str]:
    return list(dict.fromkeys(run["where"] for run in runs))


Times = tuple[float, float, float, float]
"""Predicted; median, least and greatest of what was measured."""


def _summary(runs: list[Data], data: Data) -> dict[int, Times]:
    """By nice value."""
    nices: dict[str, int] = runs[0]["nices"]
    weights = {name: float(weight_of_nice(nice)) for name, nice in nices.items()}
    predicted = theory.completion_times(weights, data["alone"], runs[0]["cpus"])
    found = {}
    for nice in sorted(set(nices.values())):
        names = [name for name, each in nices.items() if each == nice]
        measured = [run["seconds"][name] for run in runs for name in names]
        found[nice] = (predicted[names[0]], *theory.spread(measured))
    return found


def _plot(summary: dict[str, dict[int, Times]], nices: tuple[int, int]) -> Plot:
    series = []
    for nice in nices:
        times = [found[nice] for found in summary.values()]
        series.append(
            Series(label=f"nice {nice}, predicted", x=list(summary), y=[each[0] for each in times], role="predicted")
        )
        series.append(Series.of_spreads(f"nice {nice}", list(summary), [each[1:] for each in times]))
    return Plot(
        name="nice-multicore",
        kind="bars",
        title="Time until equal work is done",
        x_label="where the containers may run",
        y_label="time (s)",
        alt="Bars of predicted and measured completion time: "
        + "; ".join(
            f"{where}: " + ", ".join(f"nice {nice} {found[nice][1]:.1f} s" for nice in nices)
            for where, found in summary.items()
        ),
        series=series,
    )


def _findings(summary: dict[str, dict[int, Times]], low: int, high: int) -> list[str]:
    weights = weight_of_nice(low) / weight_of_nice(high)
    found = []
    for where, times in summary.items():
        ratio, predicted = times[high][1] / times[low][1], times[high][0] / times[low][0]
        found.append(
            f"On {where} nice {high} took {ratio:.2f} times as long as nice {low} (predicted: {predicted:.2f}), "
            f"where the weights differ by a factor of {weights:.1f}."
        )
    one = summary.get("one CPU")
    if one is not None and one[high][0] / one[low][0] < weights * 0.9:
        found.append(
            f"A ratio of completion times hides the weights: once nice {low} is done, nice {high} has the CPU to "
            "itself, and two equal amounts of work on one CPU cannot end in a greater ratio than 2."
        )
    return found
