"""Memory limits: how far past a hard limit, how soon after, how late a soft event, and what watching costs.

    .venv/bin/python benchmarks/limits.py [--only overshoot|read|soft|cost] [--runs N]

*overshoot*  an allocator at full speed against a hard limit of 64 MiB: how far its memory went over the limit, and
             milliseconds from the crossing to the reaped first process. bpf: the highest RSS, as the program counted
             it page by page. cgroup and poll: RSS at the start and what the allocator has touched since. "poll" is what
             a supervisor without the kernel's help does: look at VmRSS once a second, and kill (2 GiB are all there
             is). The floor of the time is what SIGKILL and wait take for a process of that size.
*read*       one read(2) of 1 GiB into untouched memory, from tmpfs and from the page cache of a disk: the highest RSS
             over the limit, as the BPF program counted it. "no backstop" is the same without a memory cgroup.
*soft*       from the crossing of a soft limit (the kernel's clock) to the event in a Python client, with 100 containers
             alive.
*cost*       CPU time of a page fault, program attached against not attached, in turns; ratios of pairs. The floor is
             an empty program on the same tracepoint.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from measure import machine
from supervised import supervisor
from wherry import Client
from wherry.kernel import bpf as bpf_calls
from wherry.kernel import cgroups
from wherry.kernel.polling import readable
from wherry.memory import Host, Limits, Target, bpf, selftest

REPOSITORY = Path(__file__).resolve().parent.parent
ROOTFS = str(REPOSITORY / "build/rootfs")
GROW = REPOSITORY / "build/workloads/memory_grow"
MIB = 1 << 20
LIMIT = 64
ALL = 2048


class Progress:
    """The file in which an allocator leaves what it reached."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "progress"
        self.path.write_bytes(bytes(4096))
        with self.path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 4096)

    @property
    def bytes(self) -> int:
        start, touched = struct.unpack_from("=QQ", self._memory)
        return int(start + touched)

    def options(self, **more: Any) -> dict[str, Any]:
        volumes = [f"{GROW}:/memory_grow:ro", f"{self.path}:/progress", *more.pop("volumes", [])]
        return {"volumes": volumes, "env": {"PROGRESS": "/progress"}, **more}


def row(name: str, values: list[float], unit: str, digits: int = 1) -> str:
    if not values:
        return f"  {name:24} none"
    p95 = statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]
    shown = " ".join(f"{value:10.{digits}f}" for value in (statistics.median(values), p95, max(values)))
    return f"  {name:24} {shown}  {unit} ({len(values)} runs)"


def heading(title: str) -> None:
    print(f"{title}\n  {'':24} {'median':>10} {'p95':>10} {'max':>10}", flush=True)


def limited(client: Client, progress: Progress, words: list[str], **more: Any) -> tuple[float, float, dict[str, Any]]:
    """KiB over the limit by the allocator's count, milliseconds to death, and the evidence."""
    result = client.run("hog", ROOTFS, ["/memory_grow", *words], **progress.options(hard_mib=LIMIT, **more))
    death = client.inspect("hog")["Wherry"]["MemoryDeath"]
    client.rm("hog")
    if result.reason != "hard_limit":
        raise RuntimeError(f"it ended with {result}")
    reached = death["Peak"] if death["Enforcer"] == "bpf" else progress.bytes
    return (reached - LIMIT * MIB) / 1024, death["MillisecondsToDeath"], death


def polled(client: Client, progress: Progress, words: list[str]) -> tuple[float, float]:
    """The same by a poller: a soft limit tells the instant of the crossing, and nothing else acts."""
    begin = time.time_ns()
    options = progress.options(soft_mib=LIMIT)
    started = client.start("hog", ROOTFS, ["/memory_grow", *words], **options)
    pidfd = os.pidfd_open(started.pid)
    time.sleep(random.random())
    with contextlib.suppress(OSError):
        while int(Path(f"/proc/{started.pid}/statm").read_text().split()[1]) * mmap.PAGESIZE <= LIMIT * MIB:
            time.sleep(1)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    client.wait("hog")
    finished = client.inspect("hog")["Wherry"]["Finished"]
    (crossing,) = client.events(
        since_ns=begin, until_ns=time.time_ns(), filters={"container": "hog", "event": "soft-limit"}
    )
    client.rm("hog")
    ended_ns = int(datetime.fromisoformat(finished[:26] + "+00:00").timestamp() * 1e9)
    return (progress.bytes - LIMIT * MIB) / 1024, (ended_ns - crossing.wall_ns) / 1e6


WORKLOADS = {
    "4 KiB pages": ["pages", str(ALL), "1"],
    "4 KiB pages, 2 threads": ["pages", str(ALL), "2"],
    "huge pages": ["huge", str(ALL), "1"],
    "huge pages, 2 threads": ["huge", str(ALL), "2"],
    "4 processes": ["processes", str(ALL), "4"],
    "16 processes": ["processes", str(ALL), "16"],
}


def overshoot(runs: int, directory: Path) -> None:
    progress = Progress(directory)
    over: dict[str, list[float]] = {}
    late: dict[str, list[float]] = {}
    for enforcer in ("bpf", "cgroup"):
        with supervisor(Path(ROOTFS), "--memory-enforcer", enforcer) as client:
            for title, words in WORKLOADS.items():
                name = f"{enforcer}: {title}"
                for _ in range(runs):
                    kib, milliseconds, _ = limited(client, progress, words)
                    over.setdefault(name, []).append(kib)
                    late.setdefault(name, []).append(milliseconds)
            if enforcer == "bpf":
                for _ in range(max(runs // 5, 5)):
                    kib, milliseconds = polled(client, progress, WORKLOADS["4 KiB pages"])
                    over.setdefault("poll: 4 KiB pages", []).append(kib)
                    late.setdefault("poll: 4 KiB pages", []).append(milliseconds)
    heading(f"bytes over a hard limit of {LIMIT} MiB at death (target for bpf: median 0, max 64 KiB with 4 KiB pages)")
    for name, values in over.items():
        print(row(name, values, "KiB"))
    heading("from the crossing to the reaped first process (target for bpf: median 3 ms)")
    print(row("floor: 4 KiB pages", [_kill_and_wait("pages") for _ in range(runs)], "ms", 2))
    print(row("floor: huge pages", [_kill_and_wait("huge") for _ in range(runs)], "ms", 2))
    for name, values in late.items():
        print(row(name, values, "ms", 2))


def _kill_and_wait(kind: str) -> float:
    """Milliseconds, of a process that has touched as much as the limit allows."""
    with Faulter([GROW, kind + "-held", str(LIMIT), "1"]) as faulter:
        faulter.line()
        begin = time.perf_counter()
        faulter.process.kill()
        faulter.process.wait()
        return (time.perf_counter() - begin) * 1e3


def read(runs: int, directory: Path) -> None:
    progress = Progress(directory)
    heading("highest RSS over the limit in one read(2) of 1 GiB (target: 4 MiB)")
    with contextlib.ExitStack() as undo:
        client = undo.enter_context(supervisor(Path(ROOTFS), "--memory-enforcer", "bpf"))
        for name, place in (("tmpfs", "/dev/shm"), ("disk", str(directory))):
            path = undo.enter_context(tempfile.NamedTemporaryFile(dir=place, prefix="wherry-bench-")).name
            subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=1024", "status=none"], check=True)
            options = {"volumes": [f"{path}:/big:ro"]}
            peaks = []
            for _ in range(runs):
                _, _, death = limited(client, progress, ["read", "1024", "/big"], **options)
                peaks.append((death["Peak"] - LIMIT * MIB) / MIB)
            print(row(f"bpf: {name}", peaks, "MiB", 2), flush=True)
            without = [_read_without_backstop(path) for _ in range(min(runs, 5))]
            print(row(f"bpf, no backstop: {name}", without, "MiB", 2), flush=True)


@contextlib.contextmanager
def own_group() -> Iterator[tuple[Host, cgroups.Group]]:
    host = Host(cgroups.detect(), f"wherry-bench-{os.getpid()}")
    group = cgroups.Group(host.layout, host.parent)
    group.create()
    try:
        yield host, group
    finally:
        deadline = time.monotonic() + 5
        while not group.remove() and time.monotonic() < deadline:
            time.sleep(0.01)


@contextlib.contextmanager
def armed(
    limiter: bpf.BpfLimiter, group: cgroups.Group, limits: Limits, *command: str
) -> Iterator[tuple[str, Target, subprocess.Popen[bytes]]]:
    """A process in a pid namespace of its own, watched, without a container around it."""
    helper = selftest.start_helper(group, command)
    (pid,) = selftest.read_numbers(helper)
    pidfd = os.pidfd_open(pid)
    namespace = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
    identity = os.urandom(32).hex()
    target = Target(identity, pid, pidfd, namespace, group)
    kept = limiter.arm(target, limits)
    try:
        yield identity, target, helper
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        readable([pidfd], 10)
        limiter.disarm(identity)
        selftest.end_helper(helper)
        for descriptor in (pidfd, namespace, *kept.values()):
            os.close(descriptor)


def _read_without_backstop(path: str) -> float:
    with own_group() as (host, group):
        limiter = bpf.open_limiter(host, {})
        try:
            words = (str(GROW), "read", "1024", path)
            with armed(limiter, group, Limits(hard_bytes=LIMIT * MIB), *words) as (identity, target, helper):
                if helper.stdin is not None:
                    helper.stdin.write(b".")
                readable([target.pidfd], 30)
                return (limiter.stat(identity).peak_bytes - LIMIT * MIB) / MIB
        finally:
            limiter.close()


def soft(runs: int) -> None:
    with supervisor(Path(ROOTFS), "--memory-enforcer", "bpf") as client:
        for number in range(100):
            client.start(f"idle{number}", ROOTFS, ["/bin/sleep", "1000"], soft_mib=64, hard_mib=128)
        late: list[float] = []
        stream = client.events(filters={"event": "soft-limit"})

        def listen() -> None:
            late.extend((time.monotonic_ns() - event.monotonic_ns) / 1e6 for event in stream)

        listener = threading.Thread(target=listen)
        listener.start()
        for _ in range(runs):
            client.run(None, ROOTFS, ["/memory_hog", "1", "5", "6"], soft_mib=4, rm=True, on_output=lambda *_: None)
        deadline = time.monotonic() + 5
        while len(late) < runs and time.monotonic() < deadline:
            time.sleep(0.01)
        stream.close()
        listener.join()
        heading("from the soft crossing to the event in a Python client, 100 containers alive (target: p99 5 ms)")
        print(row("bpf", late, "ms", 2))
        print(f"  {'':24} p99 {statistics.quantiles(late, n=100)[-1]:.2f} ms, {len(late)} of {runs} events")


class Faulter:
    """A workload that says a line: for each line it is sent, "faults" touches 64 MiB and says what a fault cost."""

    def __init__(self, command: list[str | Path], keep: tuple[int, ...] = ()) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, pass_fds=keep)

    def line(self) -> bytes:
        if self.process.stdout is None:
            raise RuntimeError("no pipe")
        return self.process.stdout.readline()

    def __call__(self) -> float:
        if self.process.stdin is None:
            raise RuntimeError("no pipe")
        self.process.stdin.write(b"\n")
        return float(self.line())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


_FAULTS_IN_NAMESPACE = """
import os, sys
sys.path.append({package!r})
from wherry.kernel import namespaces
pid, pidfd = namespaces.fork_into(["pid"])
if pid == 0:
    os.read({go}, 1)
    os.execv({grow!r}, [{grow!r}, "faults", "64", "100000"])
os.write({told}, b"%d\\n" % pid)
os.waitpid(pid, 0)
"""


def cost(runs: int) -> None:
    with own_group() as (host, group), contextlib.ExitStack() as undo:
        limiter = bpf.open_limiter(host, {})
        undo.callback(limiter.close)
        outside = undo.enter_context(Faulter([GROW, "faults", "64", "100000"]))
        inside = undo.enter_context(_limited_faulter(limiter, group))
        heading("CPU time of a page fault, program attached / not attached (targets: 1.03 and 1.12)")
        empty, full = _attach_empty, partial(limiter._programs._attach, "rss_stat")
        os.close(limiter._programs._links.pop("rss_stat"))
        for name, faulter, attach in (
            ("in no container", outside, full),
            ("floor", outside, empty),
            ("in a limited container", inside, full),
        ):
            ratios, plain = _pairs(attach, faulter, runs)
            print(row(name, ratios, f"x, of {statistics.median(plain):.0f} ns", 3), flush=True)


def _attach_empty() -> int:
    nothing = bpf_calls.BtfRecords(b"", 0)
    code = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # r0 = 0; exit
    program = bpf_calls.load_program(bpf_calls.Program("empty", code, 0, nothing, nothing), bpf_calls.RAW_TRACEPOINT)
    try:
        return bpf_calls.attach_raw_tracepoint(program, "rss_stat")
    finally:
        os.close(program)


def _pairs(attach: Callable[[], int], faulter: Faulter, runs: int) -> tuple[list[float], list[float]]:
    faulter()
    ratios, plain = [], []
    for number in range(runs):
        measured = {}
        for attached in (False, True) if number % 2 else (True, False):
            link = attach() if attached else -1
            faulter()
            measured[attached] = statistics.median(faulter() for _ in range(3))
            if link >= 0:
                os.close(link)
        ratios.append(measured[True] / measured[False])
        plain.append(measured[False])
    return ratios, plain


@contextlib.contextmanager
def _limited_faulter(limiter: bpf.BpfLimiter, group: cgroups.Group) -> Iterator[Faulter]:
    told, tell = os.pipe()
    go, let = os.pipe()
    code = _FAULTS_IN_NAMESPACE.format(package=str(REPOSITORY / "src"), go=go, told=tell, grow=str(GROW))
    command = [sys.executable, "-I", "-S", "-c", code]
    faulter = Faulter(list(command), (go, tell))
    pid = int(os.read(told, 32))
    pidfd, namespace = os.pidfd_open(pid), os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
    kept = limiter.arm(Target("f" * 64, pid, pidfd, namespace, group), Limits(512 * MIB, 1024 * MIB))
    os.write(let, b".")
    try:
        yield faulter
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        faulter.__exit__()
        limiter.disarm("f" * 64)
        for descriptor in (told, tell, go, let, pidfd, namespace, *kept.values()):
            os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory limits against polling and the memory cgroup.")
    parser.add_argument("--only", choices=["overshoot", "read", "soft", "cost"])
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as directory:
        parts: dict[str, Callable[[], None]] = {
            "overshoot": lambda: overshoot(options.runs, Path(directory)),
            "read": lambda: read(max(options.runs // 5, 3), Path(directory)),
            "soft": lambda: soft(4 * options.runs),
            "cost": lambda: cost(options.runs),
        }
        for name, part in parts.items():
            if options.only in (None, name):
                part()


if __name__ == "__main__":
    main()
