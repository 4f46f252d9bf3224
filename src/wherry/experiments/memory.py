"""``memory``: a container that grows over its soft limit and into its hard one, under each enforcer there is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry import errors
from wherry.client import Client
from wherry.experiments import disturbance, theory
from wherry.experiments.lab import Lab
from wherry.experiments.machine import online_cpus
from wherry.experiments.model import Conclusion, Data, Mark, Plot, Series, Settings, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

_ENFORCERS = ("kmod", "bpf", "cgroup")
_SECONDS = 3.0
_SOFT_MIB, _HARD_MIB, _STEP_MIB = 32, 64, 2
_MIB = 1 << 20
_STARTING, _STOPPING = 20, 30
"""Seconds that a supervisor may take."""
_SAMPLE = 0.02


class Memory:
    """``data``: ``runs`` [{enforcer, samples [[seconds, bytes]], soft {at, bytes} or None, death (inspect's
    MemoryDeath), died (seconds), reason, others (part of the machine's CPU time)}], ``refused`` {enforcer: why it is
    not there}.
    """

    name = "memory"
    title = "a container that grows: soft limit, hard limit and the kill, by each enforcer"
    needs = ("/memory_hog",)
    method = f"""
        For each memory enforcer that works on this host a supervisor of its own is started, and in it a container
        that touches {_STEP_MIB} MiB at a time, evenly, with a soft limit of {_SOFT_MIB} MiB and a hard one of
        {_HARD_MIB} MiB. What the enforcer counts is read every {_SAMPLE * 1000:.0f} ms; the crossing of the soft
        limit and the end come from the supervisor's events, on the same clock, and what was held at the kill from
        the record of the container. kmod and bpf count resident memory, cgroup what its group is charged, page
        cache included.
    """

    def check(self, settings: Settings) -> None:
        pass

    def duration(self, settings: Settings) -> float:
        return 2 * settings.repeat * ((settings.seconds or _SECONDS) + 0.3) + 2

    def measure(self, lab: Lab, data: Data) -> None:
        data |= {"runs": [], "refused": {}, "soft": _SOFT_MIB * _MIB, "hard": _HARD_MIB * _MIB}
        for enforcer in _ENFORCERS:
            lab.doing(f"{enforcer}: starting a supervisor")
            with _supervisor(lab.settings.rootfs, enforcer) as found:
                if isinstance(found, str):
                    data["refused"][enforcer] = found
                    continue
                again = disturbance.Repeats(lab, data, lab.settings.repeat)
                for number in range(lab.settings.repeat):
                    lab.doing(f"{enforcer}: run {number + 1} of {lab.settings.repeat}")
                    with lab.elsewhere(found) as there:
                        run = again.take(partial(_grow, there), lambda run: _against([run]))
                        data["runs"].append({"enforcer": enforcer, **run})

    def conclude(self, data: Data) -> Conclusion:
        runs: list[Data] = [run for run in data.get("runs", []) if run.get("death")]
        refused = [f"{name} was not measured: {reason}" for name, reason in data.get("refused", {}).items()]
        if not runs:
            return Conclusion(noise=["No container came to its end: nothing was measured.", *refused])
        enforcers = list(dict.fromkeys(run["enforcer"] for run in runs))
        summary = {name: _summary([run for run in runs if run["enforcer"] == name], data) for name in enforcers}
        columns = (
            "ENFORCER",
            "RUNS",
            "SOFT EVENT AT MIB",
            "OVER HARD KIB",
            "GREATEST KIB",
            "MS TO DEATH",
            "GREATEST MS",
            "REASON",
        )
        rows = [(name, *each) for name, each in summary.items()]
        firsts = [next(run for run in runs if run["enforcer"] == name) for name in enforcers]
        return Conclusion(
            tables=[Table(title=f"Limits of {_SOFT_MIB} and {_HARD_MIB} MiB", columns=columns, rows=rows)],
            plots=[_plot(firsts, data)],
            findings=[
                sentence
                for name in enforcers
                for sentence in _findings(name, [run for run in runs if run["enforcer"] == name], summary[name])
            ],
            noise=[
                f"{len(runs) // len(enforcers)} runs by each enforcer: medians and greatest values.",
                "The plot shows the first of them.",
                *disturbance.repeated(data),
                *refused,
            ],
        )


@contextlib.contextmanager
def _supervisor(rootfs: str, enforcer: str) -> Iterator[Client | str]:
    """A supervisor with that enforcer, or why there is none; it is stopped, with its containers, in the end."""
    with tempfile.TemporaryDirectory(prefix="wherry-experiment-") as place:
        log, socket = Path(place, "log"), os.path.join(place, "engine.sock")
        process = _started(rootfs, place, socket, log, enforcer)
        try:
            with Client(socket) as client:
                yield client if _answers(client, process) else _last_line(log)
        finally:
            _stop(process)
            if Path(place, "state/run/shim.sock").exists():  # it was killed: the next one clears up after it
                process = _started(rootfs, place, socket, log, enforcer)
                with Client(socket) as client:
                    _answers(client, process)
                _stop(process)


def _started(rootfs: str, place: str, socket: str, log: Path, enforcer: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "wherry.cli", "supervisor", rootfs, "--socket", socket]
    command += ["--state-dir", os.path.join(place, "state"), "--memory-enforcer", enforcer]
    with log.open("ab") as output:
        # A session of its own: a Ctrl-C is ours to pass on, once its containers are gone.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=output, start_new_session=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOPPING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(client: Client, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _STARTING
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(errors.Unavailable):
            client.ping()
            return True
        time.sleep(0.02)
    return False


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("engine: ") if lines else "the supervisor did not come up"


def _grow(lab: Lab) -> Data:
    pause = round((lab.settings.seconds or _SECONDS) * 1000 * _STEP_MIB / _HARD_MIB)
    began_wall, watch, own = time.time_ns(), disturbance.Watch(online_cpus()), disturbance.OwnTime(lab)
    began = time.monotonic()
    samples: list[tuple[float, int]] = []
    command = ["/memory_hog", str(_STEP_MIB), str(pause), str(4 * _HARD_MIB)]
    lab.start("hog", command, soft_mib=_SOFT_MIB, hard_mib=_HARD_MIB)
    while not lab.has_ended("hog"):
        held = lab.stats("hog")["Wherry"]["Memory"]
        if held is not None:
            samples.append((time.monotonic() - began, held["Rss"]))
        lab.sleep_until(time.monotonic() + _SAMPLE)
    ended = lab.client.inspect(lab.name("hog"))["Wherry"]
    events = list(
        lab.client.events(since_ns=began_wall, until_ns=time.time_ns(), filters={"container": lab.name("hog")})
    )
    others = watch.others(own.seconds())
    lab.remove(["hog"])
    soft = [event for event in events if event.kind == "soft-limit"]
    died = [event.monotonic_ns for event in events if event.kind == "die"]
    return {
        "others": others,
        "samples": samples,
        "soft": {"at": soft[0].monotonic_ns / 1e9 - began, "bytes": int(soft[0].attributes["rss"])} if soft else None,
        "death": ended["MemoryDeath"],
        "died": died[0] / 1e9 - began if died else None,
        "reason": ended["Reason"],
    }


def _summary(
    runs: Sequence[Data], data: Data
) -> tuple[int, float | None, float, float, float | None, float | None, str]:
    softs = [run["soft"]["bytes"] / _MIB for run in runs if run["soft"]]
    over = [(run["death"]["Rss"] - data["hard"]) / 1024 for run in runs]
    delays = [run["death"]["MillisecondsToDeath"] for run in runs if run["death"]["MillisecondsToDeath"] is not None]
    reasons = ", ".join(sorted({run["reason"].replace("_", " ") for run in runs}))
    soft = theory.spread(softs)[0] if softs else None
    delay, _, longest = theory.spread(delays) if delays else (None, None, None)
    return len(runs), soft, theory.spread(over)[0], max(over), delay, longest, reasons


def _plot(firsts: Sequence[Data], data: Data) -> Plot:
    series = [
        Series(
            label=run["enforcer"],
            x=[at for at, _ in run["samples"]],
            y=[held / _MIB for _, held in run["samples"]],
        )
        for run in firsts
    ]
    marks = [Mark(label="soft limit", y=data["soft"] / _MIB), Mark(label="hard limit", y=data["hard"] / _MIB)]
    for run in firsts:
        name = run["enforcer"]
        if run["soft"]:
            marks.append(Mark(label=f"{name}: soft event", x=run["soft"]["at"], of=name))
        if run["died"] is not None:
            marks.append(Mark(label=f"{name}: end", x=run["died"], of=name))
    return Plot(
        name="memory",
        kind="steps",
        title="Memory of a growing container",
        x_label="time since the start (s)",
        y_label="memory held (MiB)",
        alt="Stairs that rise to the hard limit and end there, one line for each of "
        + ", ".join(run["enforcer"] for run in firsts),
        series=series,
        marks=marks,
    )


def _against(runs: Sequence[Data]) -> str | None:
    return disturbance.by_others([run.get("others") for run in runs], disturbance.WITH_KERNEL, pinned=False)


def _findings(name: str, runs: Sequence[Data], summary: tuple[Any, ...]) -> list[str]:
    """Of one enforcer."""
    if why := _against(runs):
        return [disturbance.inconclusive(why, name)]
    count, soft, _over, greatest, _delay, longest, reasons = summary
    text = f"{name}: at the kill the container held at most {max(greatest, 0):.0f} KiB more than its hard limit"
    if longest is not None:
        text += f" and it was gone within {longest:.1f} ms of crossing it"
    found = [f"{text}; booked as {reasons}, {count} of {count} times."]
    before = [run for run in runs if run["soft"] and run["died"] is not None and run["soft"]["at"] < run["died"]]
    if soft is not None:
        found.append(f"{name}: the soft event came before the end in {len(before)} of {count} runs.")
    return found
