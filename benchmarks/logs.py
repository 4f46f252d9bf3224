"""The log pipeline: capturing and reading 1 GiB of 100-byte lines, ours against peers that take turns in one run.

    .venv/bin/python benchmarks/logs.py [--mib N] [--rounds N] [--docker-mib N]

wherry       a container that writes to stdout; rotation off
64 at once   the same bytes in all from 64 containers
a line each  one write(2) a line, an eighth of the bytes
cat          `log_lines | cat > file` in a container of the same root file system: the floor
conmon       with runc and its k8s-file log, run directly (if installed)
json-file, local   dockerd (if installed) in a network namespace of its own; --docker-mib each, scaled up to --mib

Times include starting and ending the container. Engine CPU is the supervisor's user and system time of all threads;
memory is its resident set plus all shared memory that its log buffers hold, at the most while capturing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from log_peers import Conmon, Docker
from measure import machine
from supervised import ENGINE, supervisor
from wherry import Client

ROOTFS = Path(__file__).resolve().parent.parent / "build" / "rootfs"
MIB = 1024 * 1024
LINE = 100
AT_ONCE = 64
DRIVERS = {"json-file", "local"}


class Process:
    """The supervisor, seen from outside."""

    def __init__(self, client: Client) -> None:
        self._stat = Path(f"/proc/{client.info()['Wherry']['Pid']}")

    def cpu(self) -> float:
        fields = (self._stat / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes: VmRSS, and the pages of the memfds that it has open."""
        status = dict(line.split(":", 1) for line in (self._stat / "status").read_text().splitlines())
        buffers: dict[int, int] = {}
        for entry in (self._stat / "fd").iterdir():
            try:
                if "memfd:" in str(entry.readlink()):
                    found = entry.stat()
                    buffers[found.st_ino] = found.st_blocks * 512
            except FileNotFoundError:
                continue
        return int(status["VmRSS"].split()[0]) * 1024 + sum(buffers.values())


class Wherry:
    def __init__(self, client: Client, lines: int) -> None:
        self.client = client
        self.process = Process(client)
        self.lines = lines
        self.cpu: list[float] = []
        self.memory = 0
        self.on_disk = 0.0

    def write(self, name: str, words: list[str], containers: int = 1) -> None:
        names = [f"{name}{number}" for number in range(containers)]
        for each in names:
            self.client.start(each, str(ROOTFS), words, log_max_bytes=0)
        for each in names:
            self.client.wait(each)
        for each in names:
            self.client.rm(each)

    def one(self) -> None:
        before = self.process.cpu()
        ended = threading.Event()
        watching = threading.Thread(target=self._watch, args=(ended,))
        watching.start()
        self.client.start("one", str(ROOTFS), ["/log_lines", str(self.lines)], log_max_bytes=0)
        self.client.wait("one")
        ended.set()
        watching.join()
        self.cpu.append(self.process.cpu() - before)
        log = Path(self.client.inspect("one")["LogPath"])
        self.on_disk = sum(path.stat().st_size for path in log.parent.glob("one.log*")) / (self.lines * LINE)
        self.client.rm("one")

    def many(self) -> None:
        self.write("many", ["/log_lines", str(self.lines // AT_ONCE)], AT_ONCE)

    def a_line_each(self) -> None:
        self.write("each", ["/log_lines", str(self.lines // 8), "1"])

    def cat(self) -> None:
        self.write("cat", ["/bin/sh", "-c", f"/log_lines {self.lines} | cat > /file"])

    def many_cats(self) -> None:
        self.write("cats", ["/bin/sh", "-c", f"/log_lines {self.lines // AT_ONCE} | cat > /file"], AT_ONCE)

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(0.02):
            self.memory = max(self.memory, self.process.memory())


def seconds(act: Callable[[], None]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def read_command(client: Client, words: str) -> Callable[[], None]:
    command = f"{ENGINE} logs --socket {client.socket} {words}"

    def run() -> None:
        subprocess.run(["/bin/sh", "-c", command], check=True)

    return run


def take_rounds(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Medians in seconds, the contestants taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, act in contestants.items():
            times[name].append(seconds(act))
    return {name: statistics.median(values) for name, values in times.items()}


def target(name: str, value: float, wanted: float, *, at_least: bool) -> str:
    met = value >= wanted if at_least else value <= wanted
    return f"  {name:34} {value:8.2f}   {'>=' if at_least else '<='} {wanted}   {'met' if met else 'NOT MET'}"


def writing(ours: Wherry, options: argparse.Namespace) -> dict[str, float]:
    """Seconds for the whole size, those of dockerd scaled up."""
    writers: dict[str, Callable[[], None]] = {"wherry": ours.one, "cat": ours.cat}
    writers |= {"64 at once": ours.many, "64 cats": ours.many_cats, "a line each": ours.a_line_each}
    with ExitStack() as undo:
        directory = Path(undo.enter_context(TemporaryDirectory(prefix="wherry-bench-")))
        if shutil.which("conmon") and shutil.which("runc"):
            writers["conmon"] = Conmon(directory, ROOTFS, ours.lines)
        if shutil.which("dockerd") and options.docker_mib:
            docker = undo.enter_context(Docker(directory, ROOTFS, options.docker_mib * MIB // LINE))
            writers |= {driver: docker.writer(driver) for driver in DRIVERS}
        times = take_rounds(writers, options.rounds)
    for driver in DRIVERS & times.keys():
        times[driver] *= options.mib / options.docker_mib
    return times


def reading(client: Client, lines: int, rounds: int) -> dict[str, float]:
    client.start("kept", str(ROOTFS), ["/log_lines", str(lines)], log_max_bytes=0)
    client.wait("kept")
    readers = {
        "logs": read_command(client, "kept >/dev/null"),
        "logs | cat": read_command(client, "kept | cat >/dev/null"),
        "logs -t": read_command(client, "-t kept >/dev/null"),
        "logs -f": read_command(client, "-f kept >/dev/null"),
        "tail": read_command(client, "--tail 100000 kept >/dev/null"),
    }
    return take_rounds(readers, rounds)


def report(ours: Wherry, times: dict[str, float], read: dict[str, float]) -> None:
    size = ours.lines * LINE
    print("seconds:", ", ".join(f"{name} {value:.2f}" for name, value in times.items()))
    speeds = {name: size / value / 1e9 for name, value in read.items() if name != "tail"}
    print("GB/s:", ", ".join(f"{name} {value:.2f}" for name, value in speeds.items()))
    print(f"memory of the engine with its buffers, most: {ours.memory / MIB:.1f} MiB")
    print(target("speed of cat > file", times["cat"] / times["wherry"], 0.85, at_least=True))
    print(target("64 at once: speed of 64 cats", times["64 cats"] / times["64 at once"], 0.85, at_least=True))
    if "conmon" in times:
        print(target("speed of conmon", times["conmon"] / times["wherry"], 3, at_least=True))
    if "json-file" in times:
        print(target("speed of json-file (scaled)", times["json-file"] / times["wherry"], 20, at_least=True))
        print(f"  {'speed of local (scaled)':34} {times['local'] / times['wherry']:8.2f}")
    print(target("engine CPU, seconds a GiB", statistics.median(ours.cpu) * (1 << 30) / size, 1, at_least=False))
    print(target("bytes on disk with index", ours.on_disk, 1.02, at_least=False))
    print(target("logs, GB/s", speeds["logs"], 1, at_least=True))
    print(target("logs through a pipe, GB/s", speeds["logs | cat"], 1, at_least=True))
    print(target("--tail 100000, seconds", read["tail"], 0.1, at_least=False))


def main() -> None:
    parser = argparse.ArgumentParser(description="Capturing and reading logs, against peers.")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--docker-mib", type=int, default=128)
    options = parser.parse_args()
    print(f"{machine().rpartition(';')[0]}; {options.mib} MiB, medians of {options.rounds} rounds", flush=True)
    with supervisor(ROOTFS) as client:
        ours = Wherry(client, options.mib * MIB // LINE)
        times = writing(ours, options)
        report(ours, times, reading(client, ours.lines, options.rounds))


if __name__ == "__main__":
    main()
