"""Descriptors above 1,023, where select(2) ends, and what happens near the limit of them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import PACKAGES, Supervisor, Traces, Word
from tests.root.supervisor.containers.test_causes import ENFORCERS
from tests.waiting import wait_until

from wherry.errors import StartFailed

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

MANY = 1100
_WITH_MANY = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
null = os.open(os.devnull, os.O_RDONLY)
for _ in range({MANY}):
    os.set_inheritable(os.dup(null), True)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
_LIMITED = """
import os, resource, sys
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (size, size))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Wrapped(Supervisor):
    """A supervisor that another program executes; ``wrapper`` is its code and its arguments."""

    wrapper: tuple[Word, ...] = ()

    def _command(self, *words: Word) -> list[Word]:
        command = super()._command(*words)
        if words[0] != "supervisor" or not self.wrapper:
            return command
        return [sys.executable, "-c", *self.wrapper, *command[1:]]


@pytest.fixture(params=ENFORCERS)
def crowded(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Wrapped]:
    """Has 1,100 descriptors open before it opens any itself, whenever it is started."""
    instance = Wrapped(tmp_path, rootfs, leftovers, "--memory-enforcer", request.param)
    instance.wrapper = (_WITH_MANY,)
    with instance.serving():
        yield instance


@pytest.fixture
def small(tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Wrapped]:
    """``wrapper`` is to be set, and the supervisor started anew."""
    instance = Wrapped(tmp_path, rootfs, leftovers)
    with instance.serving():
        yield instance


def test_all_works_above_1023(crowded: Wrapped, rootfs: Path) -> None:
    """Case 0: take-over, run, logs, stats, stop; the self-test of the enforcer too, which comes with each start."""
    assert crowded.process is not None
    assert len(os.listdir(f"/proc/{crowded.process.pid}/fd")) > MANY
    client = crowded.client
    client.start("c", str(rootfs), ["/bin/sh", "-c", "echo up; exec sleep 1000"], soft_mib=32, hard_mib=64)
    for attempt in range(2):
        pid = crowded.ps()[0]["pid"]
        crowded.kill()
        crowded.restart()
        entry = crowded.ps()[-1]
        assert (entry["name"], entry["state"], entry["pid"]) == ("c", "running", pid)
        result = client.run(f"job{attempt}", str(rootfs), ["/bin/echo", "fine"], hard_mib=64, rm=True)
        assert (result.exit_code, result.stdout) == (0, b"fine\n")
        grown = client.run(f"hog{attempt}", str(rootfs), ["/memory_hog", "1", "0", "99"], hard_mib=64, rm=True)
        assert grown.reason == "hard_limit"
        with crowded.popen("logs", "-f", "c") as follower:
            assert follower.stdout is not None
            assert follower.stdout.readline() == "up\n"
            follower.kill()
        assert "c" in crowded.engine("stats", "--no-stream").stdout
    crowded.engine("stop", "c")
    assert crowded.engine("logs", "c").stdout == "up\n"


def test_the_command_line_writes_above_1023() -> None:
    """Case 0: a standard output that another program made non-blocking is waited for, whatever its number."""
    script = f"""
import os, sys
sys.path.insert(0, {PACKAGES!r})
from wherry.cli.terminal import write_all
for _ in range({MANY}):
    os.dup(0)
reader, writer = os.pipe()
os.set_blocking(writer, False)
if os.fork():
    os.close(reader)
    write_all(writer, b"x" * 1_000_000)
else:
    os.close(writer)
    size = 0
    while piece := os.read(reader, 65536):
        size += len(piece)
    print(writer > 1023, size)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "True 1000000\n"


def _started(supervisor: Supervisor, rootfs: Path, most: int) -> int:
    """Starts until one is refused; returns how many run."""
    for number in range(most):
        try:
            supervisor.client.start(f"c{number}", str(rootfs), ["/bin/sleep", "1000"])
        except StartFailed as error:
            assert "descriptors open, too many for another container: raise the limit" in str(error)  # noqa: PT017
            return number
    raise AssertionError(f"{most} were started")


def test_a_start_is_refused_before_descriptors_run_out(small: Wrapped, rootfs: Path) -> None:
    """Case 0: nothing half-made, and what runs can be listed, read, stopped and taken over."""
    small.stop()
    small.wrapper = (_LIMITED, "200")
    small.restart()
    count = _started(small, rootfs, 60)
    assert count > 5
    assert len(small.ps()) == count
    assert small.engine("logs", "c0").returncode == 0
    small.kill()
    small.restart()
    assert [entry["state"] for entry in small.ps()] == ["running"] * count
    small.engine("rm", "-f", *(f"c{number}" for number in range(4)))
    wait_until(lambda: small.engine("run", "again", rootfs, "/bin/true", check=False).returncode == 0)


def test_a_supervisor_that_may_open_too_few_descriptors_takes_nothing_over(small: Wrapped, rootfs: Path) -> None:
    """Case 0: it says what is missing and leaves the containers to one that may open more."""
    names = [f"c{number}" for number in range(30)]
    for name in names:
        small.client.start(name, str(rootfs), ["/bin/sleep", "1000"])
    pids = {entry["name"]: entry["pid"] for entry in small.ps()}
    small.kill()
    for limit, complaint in (("120", "may open no more"), ("260", "taking over 3")):  # spares may be among them
        small.wrapper = (_LIMITED, limit)
        words = ("supervisor", rootfs, "--state-dir", small.state_dir, "--socket", small.socket)
        done = small.engine(*words, check=False)
        assert done.returncode == 1
        assert complaint in done.stderr
        assert "raise" in done.stderr
        assert "Traceback" not in done.stderr
    small.wrapper = ()
    small.restart()
    assert {entry["name"]: entry["pid"] for entry in small.ps() if entry["state"] == "running"} == pids


def test_the_shim_gets_the_limit_of_a_later_supervisor(small: Wrapped, rootfs: Path) -> None:
    """Case 0: a limit that has been raised is for the containers of the shim that was there before, too."""
    small.client.start("c", str(rootfs), ["/bin/sleep", "1000"])
    shim = int(small.info()["shim_pid"])
    small.kill()
    _, hard = resource.prlimit(shim, resource.RLIMIT_NOFILE)
    resource.prlimit(shim, resource.RLIMIT_NOFILE, (300, hard))
    small.restart()
    assert resource.prlimit(shim, resource.RLIMIT_NOFILE)[0] == hard
