"""``fairness``: many equal containers on one CPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wherry.experiments import cpu_windows, disturbance, theory
from wherry.experiments.model import Conclusion, Data, Plot, Series, Settings, Table

if TYPE_CHECKING:
    from wherry.experiments.lab import Lab

_COUNTS = (2, 5, 10, 20)
_SECONDS = 4.0


class Fairness:
    """``data``: ``runs`` {number of containers as text: {windows, others}}."""

    name = "fairness"
    title = "equal containers on one CPU: how equal their shares are"
    needs = ("/cpu_hog",)
    method = """
        A number of equal containers, all pinned to one CPU, burn all the CPU they get; then a greater number.
        For each window Jain's fairness index is taken over the CPU time of their control groups: 1 when all got
        the same, one over their number when one got everything. The prediction is 1.
    """

    def check(self, settings: Settings) -> None:
        pass

    def duration(self, settings: Settings) -> float:
        starts = 0.03 * sum(_COUNTS)
        return starts + len(_COUNTS) * (cpu_windows.WARM_UP + (settings.seconds or _SECONDS) * settings.repeat)

    def measure(self, lab: Lab, data: Data) -> None:
        data |= {"seconds": lab.settings.seconds or _SECONDS, "runs": {}}
        for count in _COUNTS:
            names = [f"hog{number + 1}" for number in range(count)]
            lab.doing(f"{count} containers")
            for name in names:
                lab.start(name, cpu_windows.FOREVER, cpuset_cpus=str(lab.settings.cpu))
            cpu_windows.settle(lab)
            found: Data = {}
            data["runs"][str(count)] = found
            cpu_windows.measure_windows(lab, names, found, data["seconds"], lab.settings.repeat)
            lab.remove(names)

    def conclude(self, data: Data) -> Conclusion:
        runs = {int(count): found["windows"] for count, found in data.get("runs", {}).items() if found.get("windows")}
        if not runs:
            return Conclusion(noise=["Interrupted before the first window was over: nothing was measured."])
        summary = {count: _Summary(count, windows) for count, windows in runs.items()}
        rows = [(count, *each.index, 100 / count, each.least, each.greatest) for count, each in summary.items()]
        columns = ("CONTAINERS", "JAIN", "LEAST", "GREATEST", "FAIR SHARE %", "LEAST SHARE %", "GREATEST SHARE %")
        against = {
            count: disturbance.of_windows(runs[count], data["runs"][str(count)].get("others", [])) for count in runs
        }
        noise = [cpu_windows.repeats(next(iter(runs.values())), data["seconds"])]
        noise += [each for found in data["runs"].values() for each in disturbance.repeated(found)]
        return Conclusion(
            tables=[Table(title="Jain's fairness index", columns=columns, rows=rows, bar="JAIN")],
            plots=[_index_plot(summary), _share_plot(summary)],
            findings=[
                *_findings({count: each for count, each in summary.items() if not against[count]}),
                *(disturbance.inconclusive(why, f"{count} containers") for count, why in against.items() if why),
            ],
            noise=noise,
        )


class _Summary:
    """Of one number of containers: the index over the windows; the least and greatest median share, in percent."""

    def __init__(self, count: int, windows: list[dict[str, float]]) -> None:
        self.index = theory.spread([theory.jain(list(window.values())) for window in windows])
        self.shares = sorted(median for median, _, _ in cpu_windows.share_spreads(windows).values())
        self.least, self.greatest = self.shares[0], self.shares[-1]
        self.fair = 100 / count


def _index_plot(summary: dict[int, _Summary]) -> Plot:
    counts = [str(count) for count in summary]
    indexes = [each.index for each in summary.values()]
    return Plot(
        name="fairness-index",
        kind="bars",
        title="Fairness of equal containers on one CPU",
        x_label="number of containers",
        y_label="Jain's index (1 is fair)",
        alt="Bars: "
        + ", ".join(f"{count} containers {each[0]:.4f}" for count, each in zip(counts, indexes, strict=True)),
        series=[
            Series(label="predicted", x=counts, y=[1.0] * len(counts), role="predicted"),
            Series.of_spreads("measured", counts, indexes),
        ],
    )


def _share_plot(summary: dict[int, _Summary]) -> Plot:
    """Each container as a part of its fair share, so that all numbers of containers fit one scale."""
    series = [
        Series(label=f"{count} containers", x=[count] * count, y=[share / each.fair for share in each.shares])
        for count, each in summary.items()
    ]
    return Plot(
        name="fairness-shares",
        kind="points",
        title="Share of each container, as a part of the fair one",
        x_label="number of containers",
        y_label="share / fair share",
        alt="A dot for each container: "
        + ", ".join(
            f"of {count} from {each.least / each.fair:.2f} to {each.greatest / each.fair:.2f}"
            for count, each in summary.items()
        ),
        series=series,
        y_from_zero=False,
    )


def _findings(summary: dict[int, _Summary]) -> list[str]:
    # A window in which nobody got any CPU time has no index, and no share says anything then.
    summary = {count: each for count, each in summary.items() if not math.isnan(sum(each.index))}
    if not summary:
        return []
    worst = min(summary, key=lambda count: summary[count].index[0])
    found = [f"The least fair was {worst} containers, with an index of {summary[worst].index[0]:.4f}."]
    for count, each in summary.items():
        deviation = max(each.greatest / each.fair - 1, 1 - each.least / each.fair)
        found.append(f"Of {count} containers none was farther than {100 * deviation:.1f} % from its fair share.")
    return found
