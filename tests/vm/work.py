"""Boots guests and works on their jobs: the process behind ``jobs.Guests``.

On stdin comes a line with the jobs, as JSON; on stdout goes a line for each outcome. As many guests as there are CPUs
work at a time, beside the tests of this machine, many of which wait.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.vm import kernels
from tests.vm.guest import Guest
from tests.vm.jobs import Job, Outcome, boot, built

_printing = threading.Lock()
TIMES = kernels.REPOSITORY / "build/guest-times.txt"
"""What each job of the last run took, for whoever wants to make the tests faster."""


def main() -> None:
    wanted, builds = json.loads(sys.stdin.readline())
    TIMES.unlink(missing_ok=True)
    guests: dict[tuple[str, str], list[Job]] = {}
    for job in (Job(*fields) for fields in wanted):
        guests.setdefault((job.kernel, job.part), []).append(job)
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    for of_one in guests.values():
        pool.submit(work, of_one)
    for kernel in set(builds) - {kernel for kernel, _ in guests}:
        pool.submit(build, kernel)
    pool.shutdown()


def work(jobs: list[Job]) -> None:
    """All of one guest, in one thread: the emulator ends with the thread that has started it."""
    kernel, left = jobs[0].kernel, list(jobs)
    try:
        began = time.monotonic()
        with boot(kernel, build(kernel), jobs[0].cpus) as guest:
            times = f"{kernel}: boot {time.monotonic() - began:.0f} s, {guest.cpu_seconds():.0f} s of CPU time"
            note(times)
            while left:
                say(left[0].key, *do(left[0], guest, times))
                del left[0]
                times = ""
    except BaseException as error:
        for job in left:
            say(job.key, error=f"{type(error).__name__}: {error}")


def build(kernel: str) -> Path | None:
    """monitor.ko, where there is one for this kernel."""
    if kernel == kernels.UML:
        return None
    try:
        module, said = kernels.build_module_anew(kernel)
    except BaseException as error:
        say(built(kernel), error=f"{type(error).__name__}: {error}")
        raise
    say(built(kernel), said)
    return module


def do(job: Job, guest: Guest, times: str) -> tuple[str, str]:
    """What it said, and its error."""
    began, before = time.monotonic(), guest.cpu_seconds()
    try:
        said = job.run(guest)
    except BaseException as error:
        return "", f"{type(error).__name__}: {error}"
    took, used = time.monotonic() - began, guest.cpu_seconds() - before
    taken = f"{job}: {took:.0f} s, {used:.0f} s of CPU time"
    note(f"{taken}: {job.tests}")
    return f"{said}\n{times}\n{taken}", ""


def note(line: str) -> None:
    with _printing, TIMES.open("a") as file:
        print(line, file=file)


def say(what: str, said: str = "", error: str = "") -> None:
    with _printing:
        print(json.dumps(Outcome(what, said, error)), flush=True)


if __name__ == "__main__":
    main()
