"""``quota``: what ``--cpus`` delivers, and how often it stops a container for it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from wherry.experiments import cpu_windows, disturbance, theory
from wherry.experiments.model import Conclusion, Data, Plot, Series, Settings, Table

if TYPE_CHECKING:
    from wherry.experiments.lab import Lab

_QUOTAS = (0.1, 0.25, 0.5, 0.75, 1.0)
_SECONDS = 2.0
_PERIOD_MS = 100  # the period that --cpus means


class Quota:
    """``data``: ``runs`` {quota as text: {windows, others, periods, throttled_periods, throttled_ns, span}}, the
    counters over all of the windows, which took ``span`` seconds with those that were measured again.
    """

    name = "quota"
    title = "CPU time under --cpus: delivered against asked, and throttling"
    needs = ("/cpu_hog",)
    method = f"""
        A container that burns CPU with one thread runs alone under one quota after the other. Its CPU time is
        read from the control group at the ends of windows, and so are the counters of throttling: periods (of
        {_PERIOD_MS} ms) in which it wanted to run, those in which its quota was used up, and the time that it
        stood still. The prediction is the quota itself, and a stop in every period for the rest of it.
    """

    def check(self, settings: Settings) -> None:
        pass

    def duration(self, settings: Settings) -> float:
        return len(_QUOTAS) * (cpu_windows.WARM_UP + (settings.seconds or _SECONDS) * settings.repeat + 0.1)

    def measure(self, lab: Lab, data: Data) -> None:
        data |= {"seconds": lab.settings.seconds or _SECONDS, "runs": {}}
        for quota in _QUOTAS:
            found: Data = {}
            data["runs"][f"{quota:g}"] = found
            lab.doing(f"--cpus {quota:g}")
            lab.start("hog", cpu_windows.FOREVER, cpus=quota, cpuset_cpus=str(lab.settings.cpu))
            cpu_windows.settle(lab)
            before, began = _throttling(lab), time.monotonic()
            reason = partial(_against, quota, data["seconds"])
            cpu_windows.measure_windows(lab, ["hog"], found, data["seconds"], lab.settings.repeat, reason=reason)
            found |= {"span": time.monotonic() - began}
            found |= {name: value - before[name] for name, value in _throttling(lab).items()}
            lab.remove(["hog"])

    def conclude(self, data: Data) -> Conclusion:
        runs = {quota: found for quota, found in data.get("runs", {}).items() if "periods" in found}
        if not runs:
            return Conclusion(noise=["Interrupted before the first quota was measured."])
        rows = []
        for quota, found in runs.items():
            median, low, high = _delivered(found)
            rows.append(
                (
                    float(quota),
                    median,
                    low,
                    high,
                    median - float(quota),
                    found["periods"],
                    found["throttled_periods"],
                    _stopped(found, data["seconds"]),
                )
            )
        columns = ("ASKED CPUS", "MEASURED", "LEAST", "GREATEST", "ERROR", "PERIODS", "THROTTLED", "STOPPED %")
        first = next(iter(runs.values()))
        against = {
            quota: _against(float(quota), data["seconds"], found["windows"], found.get("others", []))
            for quota, found in runs.items()
        }
        noise = [cpu_windows.repeats(first["windows"], data["seconds"])]
        noise += [each for found in runs.values() for each in disturbance.repeated(found)]
        return Conclusion(
            tables=[Table(title="CPU time under a quota", columns=columns, rows=rows, bar="MEASURED")],
            plots=[_delivered_plot(runs), _stopped_plot(runs, data["seconds"])],
            findings=[
                *_findings({quota: found for quota, found in runs.items() if not against[quota]}, data["seconds"]),
                *(disturbance.inconclusive(why, f"--cpus {quota}") for quota, why in against.items() if why),
            ],
            noise=noise,
        )


def _against(
    quota: float, seconds: float, windows: Sequence[Mapping[str, float]], others: Sequence[float | None]
) -> str | None:
    """Why it says nothing of the quota. A window may begin and end in the middle of a period."""
    if why := disturbance.by_others(others) or disturbance.of_impossible_windows(windows):
        return why
    most = max(window["hog"] for window in windows)
    if most > quota * (1 + 2 * _PERIOD_MS / 1000 / seconds) + disturbance.OTHERS:
        return f"The container had {most:.3f} CPUs under a quota of {quota:g}: the clocks do not agree."
    return None


def _stopped(found: Data, seconds: float) -> float:
    """Percent of the time between the readings of the counters."""
    stopped: float = found["throttled_ns"] / 1e9
    span: float = found.get("span", seconds * len(found["windows"]))
    return 100 * stopped / span


def _throttling(lab: Lab) -> dict[str, int]:
    found = lab.stats("hog")["cpu_stats"]["throttling_data"]
    return {
        "periods": found["periods"],
        "throttled_periods": found["throttled_periods"],
        "throttled_ns": found["throttled_time"],
    }


def _delivered(found: Data) -> tuple[float, float, float]:
    return theory.spread([window["hog"] for window in found["windows"]])


def _delivered_plot(runs: dict[str, Data]) -> Plot:
    quotas = list(runs)
    spreads = [_delivered(runs[quota]) for quota in quotas]
    return Plot(
        name="quota-delivered",
        kind="bars",
        title="CPU time delivered under a quota",
        x_label="--cpus",
        y_label="CPUs used",
        alt="Bars: " + ", ".join(f"--cpus {quota} {each[0]:.3f}" for quota, each in zip(quotas, spreads, strict=True)),
        series=[
            Series(label="asked", x=quotas, y=[float(quota) for quota in quotas], role="predicted"),
            Series.of_spreads("measured", quotas, spreads),
        ],
    )


def _stopped_plot(runs: dict[str, Data], seconds: float) -> Plot:
    quotas = list(runs)
    stopped = [_stopped(found, seconds) for found in runs.values()]
    return Plot(
        name="quota-stopped",
        kind="bars",
        title="Time that the container stood still",
        x_label="--cpus",
        y_label="time throttled (%)",
        alt="Bars: " + ", ".join(f"--cpus {quota} {each:.0f} %" for quota, each in zip(quotas, stopped, strict=True)),
        series=[
            Series(
                label="predicted", x=quotas, y=[100 * max(1 - float(quota), 0) for quota in quotas], role="predicted"
            ),
            Series(label="measured", x=quotas, y=stopped),
        ],
    )


def _findings(runs: dict[str, Data], seconds: float) -> list[str]:
    if not runs:
        return []
    errors = {quota: _delivered(found)[0] - float(quota) for quota, found in runs.items()}
    worst = max(errors, key=lambda quota: abs(errors[quota]))
    found = [f"The greatest difference from what was asked is {errors[worst]:+.3f} CPUs, under --cpus {worst}."]
    for quota, each in runs.items():
        if each["throttled_periods"]:
            pause = each["throttled_ns"] / each["throttled_periods"] / 1e6
            found.append(
                f"--cpus {quota}: stopped in {each['throttled_periods']} of {each['periods']} periods, {pause:.0f} ms "
                "at a time on average; what arrives in such a pause waits that long."
            )
        else:
            found.append(f"--cpus {quota}: never stopped in {each.get('span', seconds * len(each['windows'])):.3g} s.")
    return found
