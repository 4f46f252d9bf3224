"""``nice-multicore``: two nice values on one CPU and on all, by completion time: where "about 2x" comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.experiments import hogs, theory
from wherry.experiments.model import BadSettingsError, Conclusion, Data, Plot, Series, Settings, Table
from wherry.experiments.setup import online_cpus
from wherry.weights import weight_of_nice

if TYPE_CHECKING:
    from wherry.experiments.lab import Lab

_NICES = (0, 15)
_SECONDS = 3.0
_MOST_CONTAINERS = 64


class NiceMulticore:
    """``data``: ``cpus``, ``nices`` [two], ``rounds`` and ``alone`` (seconds that they take alone), ``runs`` [{where,
    cpus, nices {container: nice}, seconds {container: until it was done}}].
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
        data |= {"alone": alone, "rounds": hogs.rounds_for(lab, alone)}
        data |= {"cpus": cpus, "nices": [low, high], "runs": []}
        pairs = min(cpus, _MOST_CONTAINERS // 2)
        for _ in range(settings.repeat):
            self._run(lab, data, "one CPU", 1, {f"nice{low}": low, f"nice{high}": high})
            if cpus > 1:
                self._run(lab, data, f"{cpus} CPUs", cpus, {f"nice{low}": low, f"nice{high}": high})
                crowd = {f"{n + 1}-nice{nice}": nice for n in range(pairs) for nice in (low, high)}
                self._run(lab, data, f"{cpus} CPUs, {2 * pairs} containers", cpus, crowd)

    @staticmethod
    def _run(lab: Lab, data: Data, where: str, cpus: int, nices: dict[str, int]) -> None:
        lab.doing(where)
        pin = str(lab.settings.cpu) if cpus == 1 else ""
        for name, nice in nices.items():
            lab.start(name, ["/cpu_hog", "1000000", str(data["rounds"])], nice=nice, cpuset_cpus=pin)
        for name in nices:
            lab.wait(name)
        seconds = {name: hogs.done(lab, name)[1] for name in nices}
        data["runs"].append({"where": where, "cpus": cpus, "nices": nices, "seconds": seconds})
        lab.remove(nices)

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
        columns = ("WHERE", "NICE", "PREDICTED S", "MEASURED S", "LEAST S", "GREATEST S", "RATIO")
        repeat = len(runs) // len(summary)
        return Conclusion(
            tables=[Table(title="Until the work was done", columns=columns, rows=rows, bar="MEASURED S")],
            plots=[_plot(summary, (low, high))],
            findings=_findings(summary, low, high),
            noise=[f"{repeat} runs each; numbers are medians over runs and containers, intervals least and greatest."],
        )


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
