"""API latency while one container, or one client, does its worst.

    .venv/bin/python benchmarks/noise.py [--seconds S] [--only WORD]

A process of its own asks for GET /_ping and for GET /containers/json?limit=1 in turns, every few milliseconds. Each
scenario has a supervisor of its own. Beside the latencies stands what does not depend on what else the machine does as
much: the longest time that the supervisor's event loop was busy at a stretch, and the most CPU time of such a stretch
(``engine info``). The rows ``idle`` and ``two busy loops`` are what the machine alone costs in this run.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from measure import machine
from noise_scenarios import SCENARIOS, Stage
from supervised import supervisor

ROOTFS = Path(__file__).resolve().parent.parent / "build" / "rootfs"
PATHS = ("/_ping", "/containers/json?limit=1")
_PAUSE_SECONDS = 0.003
_LIMIT_MS = 100


class Probe(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


def probe(path: str) -> None:
    """Ask until standard input ends, then print the milliseconds of each request by path."""
    stopped = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stopped.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    times: dict[str, list[float]] = {each: [] for each in PATHS}
    connection = Probe(path)
    connection.request("GET", PATHS[0])  # what the first request costs is not of interest
    connection.getresponse().read()
    print("ready", flush=True)
    while not stopped.is_set():
        for each in PATHS:
            begin = time.perf_counter()
            connection.request("GET", each)
            connection.getresponse().read()
            times[each].append((time.perf_counter() - begin) * 1e3)
        stopped.wait(_PAUSE_SECONDS)
    print(json.dumps(times))


class Row(NamedTuple):
    name: str
    times: dict[str, list[float]]
    turn_ms: float
    turn_cpu_ms: float
    note: str


@contextlib.contextmanager
def probing(path: str, times: dict[str, list[float]]) -> Iterator[None]:
    command = [sys.executable, __file__, "--probe", path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdout is None or process.stdout.readline() != "ready\n":
        raise RuntimeError("the probe does not start")
    try:
        yield
    finally:
        answer, _ = process.communicate()
        times.update(json.loads(answer))


def measure(name: str, scenario: Callable[[Stage], Iterator[str]], seconds: float) -> Row:
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="wherry-noise-") as directory, supervisor(ROOTFS) as client:
        stage = Stage(client, ROOTFS, Path(directory), seconds)
        steps = scenario(stage)
        next(steps)  # set up
        with probing(client.socket, times):
            note = next(steps)
        info = client.info()["Wherry"]
        with contextlib.suppress(StopIteration):
            next(steps)
        stage.close()
        for each in client.ps():
            client.rm(each.name, force=True)
    return Row(name, times, info["LongestTurnMs"], info["LongestTurnCpuMs"], note)


def line(row: Row, width: int) -> str:
    cells = []
    for path in PATHS:
        values = row.times[path]
        p99 = sorted(values)[len(values) * 99 // 100]
        cells.append(f"{statistics.median(values):7.1f} {p99:7.1f} {max(values):7.1f}")
    marks = "" if max(map(max, row.times.values())) <= _LIMIT_MS else f"  above {_LIMIT_MS}"
    turns = f"{row.turn_ms:7.1f} {row.turn_cpu_ms:7.1f}"
    return f"{row.name:{width}} {len(row.times[PATHS[0]]):6} {cells[0]}  {cells[1]}  {turns}  {row.note}{marks}"


def main() -> None:
    parser = argparse.ArgumentParser(description="API latency while a container does its worst.")
    parser.add_argument("--seconds", type=float, default=5.0, help="the least time that a scenario is measured")
    parser.add_argument("--only", default="", help="only scenarios with this word in their name")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(options.probe)
        return
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(machine())
    chosen = {name: each for name, each in SCENARIOS.items() if options.only in name or name == "idle"}
    width = max(map(len, chosen))
    print(
        f"{'':{width}} {'n':>6} {'_ping: p50':>10} {'p99':>4} {'max':>7}  {'list: p50':>9} {'p99':>5} {'max':>7}",
        end="",
    )
    print(f"  {'turn':>7} {'its CPU':>7}")
    for name, scenario in chosen.items():
        print(line(measure(name, scenario, options.seconds), width), flush=True)


if __name__ == "__main__":
    main()
