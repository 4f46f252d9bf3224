"""``autogroup``: a process's own nice value against the container's, and what sessions make of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from wherry.experiments import cpu_windows, disturbance, theory
from wherry.experiments.lab import Sample
from wherry.experiments.machine import autogroup_is_on, own_cpu_group
from wherry.experiments.model import Conclusion, Data, Plot, Series, Settings, Table

if TYPE_CHECKING:
    from wherry.experiments.lab import Lab

_SECONDS = 4.0
_NICE = 15
_EQUAL, _FAVOURED = {"nice0": 1.0, "nice15": 1.0}, {"nice0": 1024.0, "nice15": 36.0}
_PROCESS, _CONTAINER, _BARE = (
    "nice of the process, in a container",
    "nice of the container",
    "no container, two sessions",
)
_BURN = "while True: pass"
_BY_ITSELF = ["/bin/sh", "-c", f"renice -n {_NICE} -p $$ >/dev/null; exec {' '.join(cpu_windows.FOREVER)}"]


class Autogroup:
    """``data``: ``arrangements`` {name: {windows, others, weights}}, ``weights`` being what competitors should have."""

    name = "autogroup"
    title = "nice 0 against nice 15: of the process, of the container, of sessions without containers"
    needs = ("/cpu_hog",)
    method = f"""
        Two programs that burn CPU are pinned to one CPU, one of them with nice {_NICE}, in three arrangements:
        each in a container of nice 0, where one lowers its own priority (`renice`); in containers started with
        `--nice`; and as plain processes of two sessions, as from two terminals. The scheduler compares a
        process's nice value only within its group: the container's control group, or, for a process in the root
        group of a kernel with autogroup on, its session.
    """

    def check(self, settings: Settings) -> None:
        pass

    def duration(self, settings: Settings) -> float:
        return 3 * (cpu_windows.WARM_UP + (settings.seconds or _SECONDS) * settings.repeat + 0.3)

    def measure(self, lab: Lab, data: Data) -> None:
        data |= {"seconds": lab.settings.seconds or _SECONDS, "arrangements": {}}
        data |= {"autogroup": autogroup_is_on(), "own group": own_cpu_group()}
        pin = str(lab.settings.cpu)
        lab.doing(_PROCESS)
        lab.start("nice0", cpu_windows.FOREVER, cpuset_cpus=pin)
        lab.start("nice15", _BY_ITSELF, cpuset_cpus=pin)
        self._windows(lab, data, _PROCESS, _EQUAL)
        lab.doing(_CONTAINER)
        lab.start("nice0", cpu_windows.FOREVER, cpuset_cpus=pin)
        lab.start("nice15", cpu_windows.FOREVER, cpuset_cpus=pin, nice=_NICE)
        self._windows(lab, data, _CONTAINER, _FAVOURED)
        lab.doing(_BARE)
        grouped = data["autogroup"] and data["own group"] == "/"
        self._bare(lab, data, _EQUAL if grouped else _FAVOURED)

    @staticmethod
    def _windows(lab: Lab, data: Data, arrangement: str, weights: dict[str, float]) -> None:
        found = data["arrangements"][arrangement] = {"weights": weights}
        cpu_windows.settle(lab)
        cpu_windows.measure_windows(lab, list(weights), found, data["seconds"], lab.settings.repeat)
        lab.remove(weights)

    @staticmethod
    def _bare(lab: Lab, data: Data, weights: dict[str, float]) -> None:
        found = data["arrangements"][_BARE] = {"weights": weights}
        with _sessions({"nice0": 0, "nice15": _NICE}, lab.settings.cpu) as pids:
            cpu_windows.settle(lab)
            cpu_windows.measure_windows(
                lab, list(pids), found, data["seconds"], lab.settings.repeat, sample=lambda: _sample(pids)
            )

    def conclude(self, data: Data) -> Conclusion:
        measured = {name: each for name, each in data.get("arrangements", {}).items() if each.get("windows")}
        if not measured:
            return Conclusion(noise=["Interrupted before the first window was over: nothing was measured."])
        spreads = {name: cpu_windows.share_spreads(each["windows"])["nice15"] for name, each in measured.items()}
        predicted = {name: theory.shares(each["weights"])["nice15"] for name, each in measured.items()}
        rows = [(name, predicted[name], *spreads[name], spreads[name][0] - predicted[name]) for name in measured]
        columns = ("ARRANGEMENT", "PREDICTED %", "MEASURED %", "LEAST %", "GREATEST %", "ERROR POINTS")
        first = next(iter(measured.values()))
        against = {
            name: disturbance.of_windows(each["windows"], each.get("others", [])) for name, each in measured.items()
        }
        noise = [cpu_windows.repeats(first["windows"], data["seconds"])]
        noise += [sentence for each in measured.values() for sentence in disturbance.repeated(each)]
        return Conclusion(
            tables=[Table(title="Share of the one with nice 15", columns=columns, rows=rows, bar="MEASURED %")],
            plots=[_plot(predicted, spreads)],
            findings=_findings(data, predicted, spreads, against),
            noise=noise,
        )


@contextlib.contextmanager
def _sessions(nices: dict[str, int], cpu: int) -> Iterator[dict[str, int]]:
    """Processes outside containers that burn CPU, each in a session of its own: name -> pid.

    Ours, and not the root file system's programs: what is in there is for containers.
    """
    with contextlib.ExitStack() as undo:
        pids = {}
        for name, nice in nices.items():
            process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _BURN], start_new_session=True)
            undo.callback(process.wait)
            undo.callback(process.kill)
            os.sched_setaffinity(process.pid, {cpu})
            os.setpriority(os.PRIO_PROCESS, process.pid, nice)
            pids[name] = process.pid
        yield pids


def _sample(pids: dict[str, int]) -> Sample:
    """Time on the CPU in nanoseconds: Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat."""
    used = {}
    for name, pid in pids.items():
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            used[name] = int(file.read().split()[0])
    return Sample(time.monotonic(), used)


def _plot(predicted: dict[str, float], spreads: dict[str, tuple[float, float, float]]) -> Plot:
    names = list(spreads)
    return Plot(
        name="autogroup",
        kind="bars",
        title="What nice 15 leaves of a CPU that two want",
        x_label="whose nice value it is",
        y_label="share of nice 15 (%)",
        alt="Bars: "
        + ", ".join(f"{name} {spreads[name][0]:.1f} % ({predicted[name]:.1f} predicted)" for name in names),
        series=[
            Series(label="predicted", x=names, y=[predicted[name] for name in names], role="predicted"),
            Series.of_spreads("measured", names, list(spreads.values())),
        ],
    )


def _findings(
    data: Data,
    predicted: dict[str, float],
    spreads: dict[str, tuple[float, float, float]],
    against: Mapping[str, str | None],
) -> list[str]:
    found = []
    for name, (median, _, _) in spreads.items():
        if why := against[name]:
            found.append(disturbance.inconclusive(why, f"{name[0].upper()}{name[1:]}"))
            continue
        agrees = abs(median - predicted[name]) <= 3
        found.append(
            f"{name[0].upper()}{name[1:]}: nice 15 got {median:.1f} % of the CPU, "
            + ("as predicted." if agrees else f"where {predicted[name]:.1f} % were predicted.")
        )
    if _BARE in spreads:
        state = "on" if data["autogroup"] else "off"
        where = "the root control group" if data["own group"] == "/" else f"the control group {data['own group']}"
        found.append(f"The plain processes ran in {where} with autogroup {state}, which their prediction rests on.")
    return found
