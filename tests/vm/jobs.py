"""Tests that run inside guests. Each is a job of one guest; several guests work side by side (``work``).

A guest's tests run one after the other, and each is a test of its own on the host as well, which waits for its job.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.vm import kernels
from tests.vm.guest import Guest
from tests.vm.uml import DebugGuest, UmlGuest

# Races need virtual CPUs that run at the same time; 6.12 does not always survive that (see Guest).
NOT_PARALLEL = frozenset({"6.12-amd64"})
_SECONDS = 3000
_PASSED_ON = ("WHERRY_LOADS",)
"""Variables that the tests in there look at as well."""


class Job(NamedTuple):
    """``tests`` are arguments of pytest. Jobs with the same kernel and ``part`` share a guest, in which they run in the
    order of the tests; the first one says how many CPUs it has. ``enforcers`` are those that tests/root/supervisor/
    containers/test_causes.py runs with; with kmod among them the module is loaded for the job.
    """

    kernel: str
    part: str
    tests: str
    enforcers: str = ""
    cpus: int = 2

    def __str__(self) -> str:
        return f"{self.kernel}-{self.enforcers or self.part}"

    @property
    def key(self) -> str:
        """What its ``Outcome`` goes by."""
        return json.dumps(self)

    def run(self, guest: Guest) -> str:
        """What its tests printed. Raises AssertionError: a test has failed, or the kernel has complained."""
        with_module = "kmod" in self.enforcers.split()
        if with_module:
            guest.run("insmod /monitor.ko")
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        said = guest.pytest(self.tests, _SECONDS, WHERRY_ENFORCERS=self.enforcers, **environment)
        if with_module:
            guest.run("rmmod monitor")
        assert guest.complaints() == []
        return said


def boot(kernel: str, module: Path | None, cpus: int = 2) -> Guest:
    if kernel == kernels.UML:
        return UmlGuest(kernel, None)
    if kernel == kernels.DEBUG:
        assert module is not None
        return DebugGuest(kernel, module)
    return Guest(kernel, module, parallel=kernel not in NOT_PARALLEL, cpus=cpus)


class Outcome(NamedTuple):
    """Of a job, or of a build of the module; a line of JSON on the way from ``work``. ``error`` is "" for success."""

    what: str
    said: str
    error: str = ""


def built(kernel: str) -> str:
    """What the ``Outcome`` of a build of the module goes by."""
    return f"build {kernel}"


class Guests:
    """The process that works on the jobs (``work``), and builds the module for each of ``builds``, from now on;
    ``close`` ends what is still running.

    A process of its own, so that guests run beside tests that fork, count descriptors or change what a process has.
    """

    def __init__(self, jobs: Iterable[Job], builds: Iterable[str]) -> None:
        self._outcomes: dict[str, Outcome] = {}
        self._directory = tempfile.TemporaryDirectory(prefix="wherry-guests-", ignore_cleanup_errors=True)
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  # until close()
        # A file, as nobody reads before the tests of this machine are done: guests would wait for room in a pipe.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._read = 0
        self._process = subprocess.Popen(
            # A test run that is killed leaves no guests.
            [*"setpriv --pdeathsig KILL --".split(), sys.executable, "-m", "tests.vm.work"],
            cwd=kernels.REPOSITORY,
            env=os.environ | {"TMPDIR": self._directory.name},  # close() leaves it no time to remove what it has made
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._complaints,
            text=True,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # who asks for an outcome is told
            print(json.dumps([list(jobs), list(builds)]), file=self._process.stdin, flush=True)

    def wait(self, job: Job) -> None:
        """Until it is done. Raises what it raised."""
        print(self._outcome(job.key))

    def build(self, kernel: str) -> str:
        """What the compiler said of the module. Raises AssertionError when it was not built."""
        return self._outcome(built(kernel))

    def close(self) -> None:
        self._process.kill()  # the emulators end with it
        self._process.communicate()
        self._complaints.close()
        self._said.close()
        self._directory.cleanup()

    def _outcome(self, what: str) -> str:
        while what not in self._outcomes:
            has_ended = self._process.poll() is not None
            if not self._take_outcomes():
                if has_ended:
                    self._complaints.seek(0)
                    raise AssertionError(f"no guests any more: {self._complaints.read().decode(errors='replace')}")
                time.sleep(0.2)
        outcome = self._outcomes[what]
        if outcome.error:
            raise AssertionError(outcome.error)
        return outcome.said

    def _take_outcomes(self) -> bool:
        """Whole lines that have come since the last time; False when there are none."""
        size = os.fstat(self._said.fileno()).st_size
        lines = os.pread(self._said.fileno(), size - self._read, self._read).splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                self._read += len(line)
                outcome = Outcome(*json.loads(line))
                self._outcomes.setdefault(outcome.what, outcome)
        return bool(lines) and lines[0].endswith(b"\n")
