"""``cpu-vs-io``: a container that computes and one that waits for its disk, alone and on one CPU together."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from wherry.experiments import hogs, theory
from wherry.experiments.model import Conclusion, Data, Plot, Series, Settings, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.experiments.lab import Lab

_SECONDS = 3.0
_PULSE_MS = 5
_NICE = 15
_ALONE_IO, _ALONE_CPU = "io_pulse alone", "cpu_hog alone"
_TOGETHER, _NICED = "together", f"together, cpu_hog at nice {_NICE}"
_WOKE = re.compile(r"woke up ([0-9.]+) ms late$", re.MULTILINE)
_WROTE = re.compile(r"write and fsync ([0-9.]+) ms$", re.MULTILINE)


class CpuVsIo:
    """``data``: ``runs`` [{what, seconds (that it took), cpu (seconds until cpu_hog's work was done) or None, woke (ms
    late, one a pulse), wrote (ms, one a pulse)}], ``alone`` (seconds that cpu_hog's work takes alone).
    """

    name = "cpu-vs-io"
    title = "a computing and an I/O-bound container on one CPU: completion times, wake-up latency"
    needs = ("/cpu_hog", "/io_pulse")
    method = f"""
        cpu_hog has a fixed amount of work, measured out beforehand; io_pulse writes 256 KiB, waits until they are
        on the disk, sleeps {_PULSE_MS} ms and begins again, and says how much later than asked it woke up. Each
        runs alone, then both pinned to one CPU, then both with cpu_hog's container at nice {_NICE}. A run is over
        when cpu_hog's work is done, alone io_pulse runs for the same time.
    """

    def check(self, settings: Settings) -> None:
        pass

    def duration(self, settings: Settings) -> float:
        return 1 + 4.3 * (settings.seconds or _SECONDS) * settings.repeat

    def measure(self, lab: Lab, data: Data) -> None:
        seconds = lab.settings.seconds or _SECONDS
        lab.doing("measuring out the work")
        rounds = hogs.rounds_for(lab, seconds)
        data |= {"runs": [], "alone": seconds}
        for _ in range(lab.settings.repeat):
            self._run(lab, data, _ALONE_IO, None, 0)
            self._run(lab, data, _ALONE_CPU, rounds, 0, pulse=False)
            self._run(lab, data, _TOGETHER, rounds, 0)
            self._run(lab, data, _NICED, rounds, _NICE)

    @staticmethod
    def _run(lab: Lab, data: Data, what: str, rounds: int | None, nice: int, *, pulse: bool = True) -> None:
        lab.doing(what)
        pin = str(lab.settings.cpu)
        began = time.monotonic()
        if pulse:
            lab.start("pulse", ["/io_pulse", "1000000000", str(_PULSE_MS)], cpuset_cpus=pin)
        if rounds is None:
            lab.sleep_until(time.monotonic() + data["alone"])
        else:
            lab.start("hog", ["/cpu_hog", "1000000", str(rounds)], cpuset_cpus=pin, nice=nice)
            lab.wait("hog")
        written = lab.output("pulse") if pulse else ""
        run = {
            "what": what,
            "seconds": time.monotonic() - began,
            "cpu": None if rounds is None else hogs.done(lab, "hog")[1],
        }
        run |= {name: [float(each) for each in found.findall(written)] for name, found in _LATENCIES.items()}
        data["runs"].append(run)
        lab.remove([*(["pulse"] if pulse else []), *(["hog"] if rounds is not None else [])])

    def conclude(self, data: Data) -> Conclusion:
        runs = data.get("runs", [])
        if not runs:
            return Conclusion(noise=["Interrupted before the first run was over: nothing was measured."])
        whats = list(dict.fromkeys(run["what"] for run in runs))
        summary = {what: _Summary([run for run in runs if run["what"] == what]) for what in whats}
        columns = ("WHAT", "CPU_HOG S", "PULSES/S", "WOKE LATE MS", "P95 MS", "P99 MS", "MAX MS", "FSYNC MS")
        rows = [
            (
                what,
                each.cpu,
                each.pulses,
                each.woke(50),
                each.woke(95),
                each.woke(99),
                each.woke(100),
                theory.percentile(each.wrote, 50) if each.wrote else None,
            )
            for what, each in summary.items()
        ]
        return Conclusion(
            tables=[Table(title="Alone and together", columns=columns, rows=rows)],
            plots=[_plot(summary), *_times_plot(summary, data)],
            findings=_findings(summary),
            noise=[
                f"{sum(run['what'] == whats[0] for run in runs)} runs of each kind; latencies are of all their pulses.",
                "The other numbers are medians over runs. The disk's own speed is part of the pulses a second.",
            ],
        )


_LATENCIES = {"woke": _WOKE, "wrote": _WROTE}


class _Summary:
    """Of all runs of one kind; latencies in ms, sorted; ``cpu`` in seconds."""

    def __init__(self, runs: Sequence[Data]) -> None:
        self.late = sorted(each for run in runs for each in run["woke"])
        self.wrote = sorted(each for run in runs for each in run["wrote"])
        times = [run["cpu"] for run in runs if run["cpu"] is not None]
        self.cpu = theory.spread(times)[0] if times else None
        rates = [len(run["woke"]) / run["seconds"] for run in runs]
        self.pulses = theory.spread(rates)[0] if self.late else None

    def woke(self, percent: float) -> float | None:
        return theory.percentile(self.late, percent) if self.late else None


def _plot(summary: dict[str, _Summary]) -> Plot:
    series = []
    for what, each in summary.items():
        if each.late:
            count = len(each.late)
            # A logarithm has no place for a sleep that was on time to the microsecond.
            series.append(
                Series(
                    label=what,
                    x=[max(late, 0.001) for late in each.late],
                    y=[100 * (number + 1) / count for number in range(count)],
                )
            )
    return Plot(
        name="cpu-vs-io-wake-up",
        kind="steps",
        title="How late the I/O task woke up",
        x_label="time after the sleep should have ended (ms)",
        y_label="wake-ups not later (%)",
        alt="Cumulative distribution of wake-up latency: "
        + "; ".join(f"{what} median {each.woke(50):.3f} ms" for what, each in summary.items() if each.late),
        series=series,
        log_x=True,
    )


def _times_plot(summary: dict[str, _Summary], data: Data) -> list[Plot]:
    times = {what: each.cpu for what, each in summary.items() if each.cpu is not None}
    if not times:
        return []
    return [
        Plot(
            name="cpu-vs-io-completion",
            kind="bars",
            title="Time until cpu_hog's work is done",
            x_label="what ran",
            y_label="time (s)",
            alt="Bars: " + ", ".join(f"{what} {seconds:.2f} s" for what, seconds in times.items()),
            series=[
                Series(label="alone, as measured out", x=list(times), y=[data["alone"]] * len(times), role="predicted"),
                Series(label="measured", x=list(times), y=list(times.values())),
            ],
        )
    ]


def _findings(summary: dict[str, _Summary]) -> list[str]:
    found = []
    alone = summary.get(_ALONE_IO)
    for what in (_TOGETHER, _NICED):
        each = summary.get(what)
        if alone and each and alone.late and each.late:
            found.append(
                f"{what[0].upper()}{what[1:]}, io_pulse woke up {each.woke(50):.3f} ms late in the median and "
                f"{each.woke(99):.3f} ms at the 99th percentile; alone {alone.woke(50):.3f} ms and "
                f"{alone.woke(99):.3f} ms."
            )
    hog, both = summary.get(_ALONE_CPU), summary.get(_TOGETHER)
    if hog and both and hog.cpu and both.cpu:
        found.append(f"cpu_hog took {both.cpu / hog.cpu:.2f} times as long beside io_pulse as alone.")
    return found
