"""``nice``: containers of different nice values on one CPU."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from wherry.experiments import cpu_windows, disturbance, theory
from wherry.experiments.model import BadSettingsError, Conclusion, Data, Mark, Plot, Series, Settings, Table
from wherry.weights import weight_of_nice

if TYPE_CHECKING:
    from wherry.experiments.lab import Lab

_NICES = (0, 5, 10, 15)
_SECONDS = 10.0
_MOST = 40
_TOLERANCE = 3.0


class Nice:
    """``data``: ``nices`` {container: nice}, ``windows``, ``others`` and ``timeline`` of ``hogs``, ``work`` {container:
    rounds a second or None}, ``update`` {who, nice, was, at, others}: the change in the middle, ``at`` on the time
    line's clock.
    """

    name = "nice"
    title = "shares of one CPU by nice value, against the kernel's weight table"
    needs = ("/cpu_hog",)
    method = """
        One container for each nice value, all pinned to the same CPU, each burning all the CPU it gets. After a
        warm-up the CPU time that each control group has used is read at the ends of windows of equal length,
        and each program's own count of work is read from its log. The prediction is the weight of a nice value
        in the kernel's table (sched_prio_to_weight: 1024 for 0, a fifth less for each step) over the sum of all
        weights. After the windows, `update --nice` gives the container with the greatest nice value the least
        one, while all go on.
    """

    def check(self, settings: Settings) -> None:
        nices = settings.nices or _NICES
        if not 2 <= len(nices) <= _MOST:
            raise BadSettingsError(f"--nices: {len(nices)} values; this experiment needs 2 to {_MOST}")

    def duration(self, settings: Settings) -> float:
        return cpu_windows.WARM_UP + self._seconds(settings) * settings.repeat + self._after(settings) + 1

    @staticmethod
    def _seconds(settings: Settings) -> float:
        return settings.seconds or _SECONDS

    def _after(self, settings: Settings) -> float:
        return max(self._seconds(settings) / 2, 3.0)

    def measure(self, lab: Lab, data: Data) -> None:
        settings = lab.settings
        nices = {_container(number, nice): nice for number, nice in enumerate(settings.nices or _NICES)}
        data |= {"nices": nices, "seconds": self._seconds(settings)}
        lab.doing("starting containers")
        for name, nice in nices.items():
            lab.start(name, cpu_windows.FOREVER, nice=nice, cpuset_cpus=str(settings.cpu))
        cpu_windows.settle(lab)
        cpu_windows.measure_windows(
            lab, list(nices), data, self._seconds(settings), settings.repeat, step=cpu_windows.STEP
        )
        data["work"] = cpu_windows.work_rates(lab, list(nices))
        self._update(lab, data, nices)

    def _update(self, lab: Lab, data: Data, nices: dict[str, int]) -> None:
        who = max(nices, key=lambda name: nices[name])
        to = min(nices.values())

        def change() -> Data:
            lab.client.update(lab.name(who), nice=nices[who])  # as it was, where this is another attempt
            last, watch = lab.sample(nices), disturbance.Watch([lab.settings.cpu])
            lab.client.update(lab.name(who), nice=to)
            lab.doing(f"{who}: nice {to} from now on")
            update = {"who": who, "nice": to, "was": nices[who], "at": last.at - data["began"]}
            data["update"] = update  # as soon as it is there: an interruption may come
            end = cpu_windows.follow(
                lab, partial(lab.sample, nices), last, self._after(lab.settings), data["timeline"], data["began"]
            )
            used = sum(end.since(last).values()) * (end.at - last.at)
            return update | {"others": watch.others(used)}

        repeats = disturbance.Repeats(lab, data, 1)
        data["update"] = repeats.take(change, lambda update: disturbance.by_others([update["others"]]))

    def conclude(self, data: Data) -> Conclusion:
        windows = data.get("windows", [])
        if not windows:
            return Conclusion(noise=["Interrupted before the first window was over: nothing was measured."])
        nices: dict[str, int] = data["nices"]
        predicted = theory.shares({name: weight_of_nice(nice) for name, nice in nices.items()})
        measured = cpu_windows.share_spreads(windows)
        why = disturbance.of_windows(windows, data.get("others", []))
        conclusion = Conclusion(
            tables=[self._table(data, predicted, measured)],
            plots=[_shares_plot(nices, predicted, measured), _timeline_plot(data)],
            findings=disturbance.concluded(why, lambda: _findings(nices, predicted, measured)),
            noise=[cpu_windows.repeats(windows, data["seconds"]), *disturbance.repeated(data)],
        )
        if "update" in data:
            conclusion.findings.append(_update_finding(data))
        return conclusion

    @staticmethod
    def _table(data: Data, predicted: dict[str, float], measured: dict[str, tuple[float, float, float]]) -> Table:
        work = {name: rate for name, rate in data.get("work", {}).items() if rate is not None}
        of_work = theory.shares(work) if len(work) == len(predicted) else {}
        rows = [
            (
                name,
                nice,
                weight_of_nice(nice),
                predicted[name],
                measured[name][0],
                measured[name][0] - predicted[name],
                of_work.get(name),
            )
            for name, nice in data["nices"].items()
        ]
        columns = ("NAME", "NICE", "WEIGHT", "PREDICTED %", "MEASURED %", "ERROR POINTS", "WORK DONE %")
        return Table(title="Share of the CPU", columns=columns, rows=rows, bar="MEASURED %")


def _container(number: int, nice: int) -> str:
    return f"{number + 1}-nice{nice}"


def _shares_plot(
    nices: dict[str, int], predicted: dict[str, float], measured: dict[str, tuple[float, float, float]]
) -> Plot:
    names = list(nices)
    bars = [measured[name] for name in names]
    return Plot(
        name="nice-shares",
        kind="bars",
        title="Share of one CPU by nice value",
        x_label="container (nice value)",
        y_label="share of the CPU (%)",
        alt="Bars of predicted and measured share: "
        + ", ".join(
            f"nice {nices[name]} {measured[name][0]:.1f} % ({predicted[name]:.1f} predicted)" for name in names
        ),
        series=[
            Series(label="predicted by weight", x=names, y=[predicted[name] for name in names], role="predicted"),
            Series.of_spreads("measured", names, bars),
        ],
    )


def _timeline_plot(data: Data) -> Plot:
    series = []
    for name in data["nices"]:
        middles, found = cpu_windows.timeline_series(data["timeline"], name)
        series.append(Series(label=name, x=middles, y=found))
    marks = []
    text = "steady shares"
    if "update" in data:
        change = data["update"]
        text = f"shares that change when {change['who']} gets nice {change['nice']}"
        marks = [Mark(label=f"{change['who']}: nice {change['was']} to {change['nice']}", x=change["at"])]
    return Plot(
        name="nice-timeline",
        kind="lines",
        title="Share of the CPU over time",
        x_label="time (s)",
        y_label="share of the CPU (%)",
        alt=f"Lines over time, one a container: {text}.",
        series=series,
        marks=marks,
    )


def _findings(
    nices: dict[str, int], predicted: dict[str, float], measured: dict[str, tuple[float, float, float]]
) -> list[str]:
    worst = max(nices, key=lambda name: abs(measured[name][0] - predicted[name]))
    error = abs(measured[worst][0] - predicted[worst])
    verdict = "The weights explain the shares" if error <= _TOLERANCE else "The weights do not explain all of it"
    found = [f"{verdict}: the greatest difference from the prediction is {error:.1f} percentage points ({worst})."]
    first, last = min(nices, key=lambda name: nices[name]), max(nices, key=lambda name: nices[name])
    if measured[last][0] > 0 and nices[first] != nices[last]:
        ratio = measured[first][0] / measured[last][0]
        by_weight = weight_of_nice(nices[first]) / weight_of_nice(nices[last])
        found.append(
            f"Nice {nices[first]} got {ratio:.1f} times the CPU of nice {nices[last]}; the weights say {by_weight:.1f}."
        )
    return found


def _update_finding(data: Data) -> str:
    change, nices = data["update"], data["nices"] | {data["update"]["who"]: data["update"]["nice"]}
    target = theory.shares({name: weight_of_nice(nice) for name, nice in nices.items()})[change["who"]]
    took = cpu_windows.first_at(data["timeline"], change["who"], target, 2 * _TOLERANCE, change["at"])
    what = f"After `update --nice {change['nice']}` on {change['who']} (was {change['was']})"
    if why := disturbance.by_others([change.get("others")]):
        return disturbance.inconclusive(why, what)
    if took is None:
        return f"{what} its share did not come to stay within {2 * _TOLERANCE:g} points of {target:.1f} %."
    return f"{what} its share was within {2 * _TOLERANCE:g} points of {target:.1f} %, as predicted, after {took:.2f} s."
