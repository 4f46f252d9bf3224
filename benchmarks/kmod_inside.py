"""The part of ``benchmarks/kmod.py`` that runs in the guest. Prints one JSON object: what was measured -> figures."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from pathlib import Path

from tests.vm.inside.watched import GROW, MIB, Contained, loaded, resident, touched

from wherry.kernel.container_monitor import Monitor

LIMIT = 64 * MIB
SHAPES: dict[str, list[object]] = {"one process": [], "four processes": ["fork", 4], "four threads": ["thread", 4]}
PROGRESS = Path("/run/progress")


def overshoot(monitor: Monitor, shape: list[object], delay: float) -> float:
    """MiB over the limit at the death of an allocator at full speed."""
    PROGRESS.unlink(missing_ok=True)
    size = (1400 << 10) // (4 if shape else 1)
    with Contained("progress", PROGRESS, "wait", *shape, "touch", size, "pause") as hog:
        monitor.register(1, hog.pid, "hog", 0, LIMIT)
        before = resident(hog.pid)
        time.sleep(delay)
        hog.go()
        hog.wait(40)
        # What the module saw and what was touched: the larger one, so that neither can hide anything.
        most = max(touched(PROGRESS) + before, monitor.unregister(1).peak_bytes)
    monitor.read()
    return (most - LIMIT) / MIB


def overshoots(tracepoint: bool, runs: int) -> dict[str, list[float]]:
    with loaded(tracepoint=int(tracepoint)):
        monitor = Monitor.open()
        found = {
            # The check of a container comes every second from its registration on.
            name: [overshoot(monitor, shape, random.random() if not tracepoint else 0.02) for _ in range(runs)]
            for name, shape in SHAPES.items()
        }
        monitor.close()
    return found


def fault_seconds() -> float:
    """CPU time of a process in no container that takes 100 MiB four times over, in pages of 4 KiB."""
    pid = os.fork()
    if pid == 0:
        os.execv(GROW, ["grow", *["touch", str(100 << 10), "release"] * 4])
    _, _, used = os.wait4(pid, 0)
    return used.ru_utime + used.ru_stime


def cost(rounds: int) -> dict[str, list[float]]:
    """The same with 0, 1 and 100 containers registered, taking turns."""
    found: dict[str, list[float]] = {"0": [], "1": [], "100": []}
    with loaded(), contextlib.ExitStack() as stack:
        pids = [stack.enter_context(Contained("pause")).pid for _ in range(100)]
        for _ in range(rounds):
            for count, seconds in found.items():
                monitor = Monitor.open()
                for key, pid in enumerate(pids[: int(count)], start=1):
                    monitor.register(key, pid, f"container-{key}", 32 * MIB, 64 * MIB)
                assert monitor.version().registrations == int(count)
                seconds.append(fault_seconds())
                monitor.close()
                if count == "100":
                    time.sleep(2.5)  # until the probe has gone: it lingers
    return found


def main(part: str, runs: int) -> None:
    print(json.dumps(cost(runs) if part == "cost" else overshoots(part == "immediate", runs)))


main(sys.argv[1], int(sys.argv[2]))
