"""Attributes of the calling process, set in a forked one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.forked import in_child

from wherry.kernel import libc, process

HIGHEST = 40


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def left_open(tmp_path: Path, close: Callable[[], None]) -> list[int]:
    """Which of the descriptors 0 to 40, all open before, are open after ``close``."""
    child = os.fork()
    if child == 0:
        try:
            null = os.open("/dev/null", os.O_RDWR)
            for number in range(HIGHEST + 1):
                os.dup2(null, number)
            close()
            found = [number for number in range(HIGHEST + 1) if is_open(number)]
            (tmp_path / "open").write_text(" ".join(map(str, found)))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return [int(number) for number in (tmp_path / "open").read_text().split()]


@pytest.mark.parametrize(
    "keep", [[], [0, 1, 2], [5], [0, 1, 2, 3, 7], [9, 3, 3, 8], [HIGHEST], [0, HIGHEST], [1, 1000], [2**31 - 1]]
)
def test_close_all_but(tmp_path: Path, keep: list[int]) -> None:
    expected = sorted({number for number in keep if number <= HIGHEST})
    assert left_open(tmp_path, lambda: process.close_all_but(keep)) == expected


@pytest.mark.parametrize("first", [0, 3, HIGHEST, HIGHEST + 1, 1 << 32])
def test_close_from(tmp_path: Path, first: int) -> None:
    assert left_open(tmp_path, lambda: process.close_from(first)) == list(range(min(first, HIGHEST + 1)))


def test_mark_close_on_exec(tmp_path: Path) -> None:
    def execute() -> None:
        null = os.open("/dev/null", os.O_RDWR)
        for number in range(3, 20):
            os.dup2(null, number, inheritable=True)
        process.mark_close_on_exec(10)
        listing = os.open(tmp_path / "listing", os.O_WRONLY | os.O_CREAT)
        os.dup2(listing, 1)
        os.execv("/bin/sh", ["sh", "-c", "for n in 3 9 10 19; do [ -e /proc/$$/fd/$n ] && echo $n; done"])

    child = os.fork()
    if child == 0:
        try:
            execute()
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert (tmp_path / "listing").read_text() == "3\n9\n"


def test_reset_signals() -> None:
    """What execve would hand on: ignored signals and the mask."""

    def measure() -> str:
        for number in (signal.SIGPIPE, signal.SIGUSR1, signal.SIGRTMIN, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGRTMAX])
        process.reset_signals()
        done = subprocess.run(["/bin/sh", "-c", "cat /proc/self/status"], capture_output=True, text=True, check=True)
        return done.stdout

    def measure_without_pythons_own() -> str:
        # subprocess restores SIGPIPE and SIGXFSZ in its child; exec must not need that.
        return "\n".join(line for line in measure().splitlines() if line.startswith(("SigIgn", "SigBlk")))

    lines = in_child(measure_without_pythons_own).split()
    assert lines == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


@pytest.mark.parametrize(("name", "shown"), [("wherry-shim", "wherry-shim"), ("x" * 40, "x" * 15), ("ä" * 8, "ä" * 7)])
def test_names_are_cut_at_15_bytes(name: str, shown: str) -> None:
    def measure() -> bytes:
        process.set_name(name)
        return Path("/proc/self/comm").read_bytes().rstrip(b"\n")

    assert in_child(measure).decode(errors="ignore") == shown


def test_no_new_privileges() -> None:
    def measure() -> str:
        process.set_no_new_privileges()
        return Path("/proc/self/status").read_text()

    assert "NoNewPrivs:\t1" in in_child(measure)


@pytest.mark.parametrize(("dumpable", "shown"), [(True, 1), (False, 0)])
def test_dumpable(dumpable: bool, shown: int) -> None:
    def measure() -> int:
        process.set_dumpable(dumpable)
        return int(libc.prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE

    assert in_child(measure) == shown


def test_orphans_come_to_a_subreaper() -> None:
    def measure() -> tuple[int, int]:
        process.become_subreaper()
        reader, writer = os.pipe()
        parent = os.fork()
        if parent == 0:
            if (orphan := os.fork()) != 0:
                os.write(writer, str(orphan).encode())
                os._exit(0)
            signal.pause()
        orphan = int(os.read(reader, 20))
        os.waitpid(parent, 0)
        os.kill(orphan, signal.SIGKILL)
        return os.waitpid(orphan, 0)[0], orphan

    reaped, orphan = in_child(measure)
    assert reaped == orphan
