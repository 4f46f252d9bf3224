"""Tests that run inside guests. Each is a job of one guest; as many guests as there are CPUs work side by side.

A guest's tests run one after the other, and each is a test of its own on the host as well, which waits for its job.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.vm import kernels
from tests.vm.guest import Guest
from tests.vm.uml import DebugGuest

# Races need virtual CPUs that run at the same time; 6.12 does not always survive that (see Guest).
NOT_PARALLEL = frozenset({"6.12-amd64"})
_SECONDS = 3000


class Job(NamedTuple):
    """``tests`` are arguments of pytest. Jobs with the same kernel and ``part`` share a guest, in which they run in the
    order of the tests. ``enforcers`` are those that tests/root/test_causes.py runs with; with kmod among them the
    module is loaded for the job.
    """

    kernel: str
    part: str
    tests: str
    enforcers: str = ""

    def __str__(self) -> str:
        return f"{self.kernel}-{self.enforcers or self.part}"

    def run(self, guest: Guest) -> None:
        """Raises AssertionError: a test has failed, or the kernel has complained."""
        with_module = "kmod" in self.enforcers.split()
        if with_module:
            guest.run("insmod /monitor.ko")
        guest.pytest(self.tests, _SECONDS, WHERRY_ENFORCERS=self.enforcers)
        if with_module:
            guest.run("rmmod monitor")
        assert guest.complaints() == []


def boot(kernel: str, module: Path) -> Guest:
    if kernel == kernels.DEBUG:
        return DebugGuest(kernel, module)
    return Guest(kernel, module, parallel=kernel not in NOT_PARALLEL)


class Guests:
    """Begins with the jobs at once; ``close`` ends what is still running."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._outcomes: dict[Job, Future[None]] = {job: Future() for job in jobs}
        self._running: set[Guest] = set()
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(os.cpu_count())
        guests: dict[tuple[str, str], list[Job]] = {}
        for job in self._outcomes:
            guests.setdefault((job.kernel, job.part), []).append(job)
        for of_one in guests.values():
            self._pool.submit(self._work, of_one)

    def wait(self, job: Job) -> None:
        """Until it is done. Raises what it raised."""
        self._outcomes[job].result()

    def close(self) -> None:
        self._closed.set()
        for guest in list(self._running):
            guest.kill()
        self._pool.shutdown(cancel_futures=True)

    def _work(self, jobs: list[Job]) -> None:
        """All of one guest, in one thread: the emulator ends with the thread that has started it."""
        try:
            kernel = jobs[0].kernel
            module, _ = kernels.build_module_anew(kernel)
            with boot(kernel, module) as guest:
                self._running.add(guest)
                for job in jobs:
                    self._do(job, guest)
                self._running.discard(guest)
        except BaseException as error:
            for job in jobs:
                if not self._outcomes[job].done():
                    self._outcomes[job].set_exception(error)

    def _do(self, job: Job, guest: Guest) -> None:
        if self._closed.is_set():
            raise AssertionError("closed")
        try:
            job.run(guest)
        except BaseException as error:
            self._outcomes[job].set_exception(error)
        else:
            self._outcomes[job].set_result(None)
