"""``cpu-vs-io``: a container that computes and one that waits for its disk, alone and on one CPU together."""

from __future__ import annotations

import re
import time
from functools import partial
from typing import TYPE_CHECKING

from wherry.experiments import cpu_windows, disturbance, theory
from wherry.experiments.model import Conclusion, Data, Plot, Series, Settings, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wherry.experiments.lab import Lab

_SECONDS = 3.0
_PULSE_MS = 5
_NICE = 15
_ALONE_IO, _ALONE_CPU = "io_pulse alone", "cpu_hog alone"
_TOGETHER, _NICED = "together", f"together, cpu_hog at nice {_NICE}"
_WOKE = re.compile(r"woke up ([0-9.]+) ms late$", re.MULTILINE)
_WROTE = re.compile(r"write and fsync ([0-9.]+) ms$", re.MULTILINE)


class CpuVsIo:
    """``data``: ``runs`` [{what, seconds (that it took), cpu (seconds until cpu_hog's work was done) or None, used
    (seconds of CPU time of that work) or None, others (part of the CPU), woke (ms late, one a pulse), wrote (ms, one a
    pulse)}], ``alone`` (seconds that cpu_hog's work takes alone).
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
        rounds = cpu_windows.rounds_for(lab, seconds)
        data |= {"runs": [], "alone": seconds}
        kinds: dict[str, tuple[int | None, int, bool]] = {
            _ALONE_IO: (None, 0, True),
            _ALONE_CPU: (rounds, 0, False),
            _TOGETHER: (rounds, 0, True),
            _NICED: (rounds, _NICE, True),
        }
        again = {what: disturbance.Repeats(lab, data, lab.settings.repeat) for what in kinds}
        for _ in range(lab.settings.repeat):
            for what, (work, nice, pulse) in kinds.items():
                measure = partial(self._run, lab, data["alone"], what, work, nice, pulse=pulse)
                data["runs"].append(again[what].take(measure, partial(_against, data)))

    @staticmethod
    def _run(lab: Lab, alone: float, what: str, rounds: int | None, nice: int, *, pulse: bool) -> Data:
        lab.doing(what)
        pin = str(lab.settings.cpu)
        watch, own = disturbance.Watch([lab.settings.cpu]), disturbance.OwnTime(lab)
        began = time.monotonic()
        if pulse:
            lab.start("pulse", ["/io_pulse", "1000000000", str(_PULSE_MS)], cpuset_cpus=pin)
        if rounds is None:
            lab.sleep_until(time.monotonic() + alone)
        else:
            lab.start("hog", ["/cpu_hog", "1000000", str(rounds)], cpuset_cpus=pin, nice=nice)
            lab.wait("hog")
        seconds = time.monotonic() - began
        of_pulse = lab.sample(["pulse"]).cpu_ns["pulse"] / 1e9 if pulse else 0.0
        done = None if rounds is None else cpu_windows.done(lab, "hog")
        run = {
            "what": what,
            "seconds": seconds,
            "cpu": done.wall if done else None,
            "used": done.cpu if done else None,
            "others": watch.others(own.seconds() + of_pulse),
        }
        written = lab.output("pulse") if pulse else ""
        run |= {name: [float(each) for each in found.findall(written)] for name, found in _LATENCIES.items()}
        lab.remove([*(["pulse"] if pulse else []), *(["hog"] if rounds is not None else [])])
        return run

    def conclude(self, data: Data) -> Conclusion:
        runs = data.get("runs", [])
        if not runs:
            return Conclusion(noise=["Interrupted before the first run was over: nothing was measured."])
        whats = list(dict.fromkeys(run["what"] for run in runs))
        summary = {what: _Summary([run for run in runs if run["what"] == what]) for what in whats}
        against = {what: _against_all(data, [run for run in runs if run["what"] == what]) for what in whats}
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
            findings=_findings(summary, against),
            noise=[
                f"{sum(run['what'] == whats[0] for run in runs)} runs of each kind; latencies are of all their pulses.",
                "The other numbers are medians over runs. The disk's own speed is part of the pulses a second.",
                *disturbance.repeated(data),
            ],
        )


_SLOWER = 0.1
"""Part by which CPU seconds, or times that cannot differ, may do so all the same."""


def _against(data: Data, run: Data) -> str | None:
    """Why a run says nothing: others, or a CPU that was not as fast as when the work was measured out."""
    # What the kernel's own threads do for the disk is no disturbance.
    limit = disturbance.OTHERS if run["what"] == _ALONE_CPU else disturbance.WITH_KERNEL
    if why := disturbance.by_others([run.get("others")], limit):
        return why
    used = run.get("used")
    if used is not None and not (1 - _SLOWER) < used / data["alone"] < (1 + 2 * _SLOWER):
        return f"The work took {used:.2f} s of CPU time, where {data['alone']:.2f} s were measured out (a busy host)."
    return None


def _against_all(data: Data, runs: Sequence[Data]) -> str | None:
    return next((why for run in runs if (why := _against(data, run))), None)


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


def _findings(summary: dict[str, _Summary], against: Mapping[str, str | None]) -> list[str]:
    found = [disturbance.inconclusive(why, f"{what[0].upper()}{what[1:]}") for what, why in against.items() if why]
    sound = {what: each for what, each in summary.items() if not against[what]}
    alone = sound.get(_ALONE_IO)
    for what in (_TOGETHER, _NICED):
        each = sound.get(what)
        if alone and each and alone.late and each.late:
            found.append(
                f"{what[0].upper()}{what[1:]}, io_pulse woke up {each.woke(50):.3f} ms late in the median and "
                f"{each.woke(99):.3f} ms at the 99th percentile; alone {alone.woke(50):.3f} ms and "
                f"{alone.woke(99):.3f} ms."
            )
    hog, both = sound.get(_ALONE_CPU), sound.get(_TOGETHER)
    if hog and both and hog.cpu and both.cpu:
        found.append(_slowdown(both.cpu / hog.cpu))
    return found


def _slowdown(times: float) -> str:
    if times < 1 - _SLOWER / 2:
        why = f"The work was done in {times:.2f} of the time beside io_pulse as alone, which cannot be (a busy host)."
        return disturbance.inconclusive(why, "Completion times")
    return f"cpu_hog took {times:.2f} times as long beside io_pulse as alone."
