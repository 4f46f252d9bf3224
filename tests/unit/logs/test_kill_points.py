"""A supervisor killed before, right after and in the middle of every system call that its log pipeline makes.

A fixed life of a container, once in each mode: both streams, many blocks, several rotations, a gap (non-blocking), a
disk that fills up and has space again, an exit. For every call k of CHANGES the life begins anew, the supervisor dies
at k, the next one finds descriptors and files only, and the container lives on. In the end the log has to be exact.

Not covered here: a kill between two threads' system calls in another order than that of the script (the model test has
that), two kills in a row, and a crash of the machine.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from tests.logsteps import Container, Disk, Supervisor

from wherry.logs import STDERR, STDOUT, LogOptions
from wherry.logs.options import Mode

Step = Callable[[Container, Supervisor], object]


class Kill(BaseException):
    """SIGKILL: what the code does about it on its way up must not reach the kernel either."""


class Killer:
    """Counts the calls that are made; from the fatal one on none gets through."""

    def __init__(self, disk: Disk, fatal: int, when: str) -> None:
        self._disk = disk
        self._fatal = fatal
        self._when = when
        self._calls = 0
        disk.before, disk.after = self._before, self._after

    @property
    def is_dead(self) -> bool:
        return self._calls > self._fatal

    def bury(self) -> None:
        self._disk.before = self._disk.after = lambda _name: None
        self._disk.share = 1.0

    def _before(self, name: str) -> None:
        if self.is_dead:
            raise Kill
        if self._calls == self._fatal and self._counts(name):
            if self._when == "before":
                self._calls += 1
                raise Kill
            self._disk.share = 0.5 if self._when == "halfway" else 1.0

    def _after(self, name: str) -> None:
        self._calls += self._counts(name)
        if self.is_dead:
            raise Kill

    def _counts(self, name: str) -> bool:
        return self._when != "halfway" or name in {"splice", "sendfile", "pwrite to the log"}


def script() -> Iterator[Step]:
    """The life of a container."""
    for number in range(6):
        yield _write((STDOUT, STDERR)[number % 2], 700 + 500 * number)
        yield from (_produce, _produce, _consume)
    yield from (_run_dry, _write(STDOUT, 9000), _run_dry)  # blocks that are full and drained when the next one begins
    yield _room(1500)
    for _ in range(4):
        yield from (_write(STDOUT, 12000), _consume, *(_produce,) * 5)
    yield from (_consume, _room(None), _run_dry)
    yield from (_write(STDERR, 3000), _produce, _exit)


def _add(_: Container, one: Supervisor) -> None:
    one.add()


def _write(stream: int, size: int) -> Step:
    return lambda container, _: container.write(stream, size)


def _room(size: int | None) -> Step:
    return lambda container, _: setattr(container.disk, "room", size)


def _produce(_: Container, one: Supervisor) -> None:
    one.produce()


def _consume(_: Container, one: Supervisor) -> None:
    one.consume()


def _run_dry(_: Container, one: Supervisor) -> None:
    one.run_dry()


def _exit(container: Container, _: Supervisor) -> None:
    container.exit()


def live(folder: Path, mode: Mode, fatal: int, when: str) -> bool:
    """Returns whether there was a call with the number ``fatal``."""
    folder.mkdir()
    container = Container(folder, LogOptions(mode=mode, max_bytes=10_000, max_files=1000))
    killer = Killer(container.disk, fatal, when)
    with container.disk.mounted():
        one = container.take_over()
        for step in itertools.chain([_add], script(), [_run_dry]):
            try:
                step(container, one)
            except Kill:
                killer.bury()
                one.kill()
                one = container.take_over()
                one.add()
        one.run_dry()
    assert one.done == 1
    one.kill()
    container.check_complete(is_blocking=mode == "blocking")
    if not killer.is_dead:
        assert len(list(folder.iterdir())) >= 8, "the log was not rotated"
        has_gap = any(b"bytes lost here" in path.read_bytes() for path in folder.iterdir())
        assert has_gap == (mode == "non-blocking")
    container.close()
    shutil.rmtree(folder)
    return killer.is_dead


@pytest.mark.parametrize("mode", ["blocking", "non-blocking"])
@pytest.mark.parametrize("when", ["before", "after", "halfway"])
def test_a_kill_at_any_call_loses_and_repeats_nothing(
    tmp_path: Path, mode: Mode, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    before = os.listdir("/proc/self/fd")
    with (
        mock.patch("wherry.logs.drain.FIRST_RETRY_SECONDS", 0.0),
        mock.patch("wherry.logs.drain.LAST_RETRY_SECONDS", 0.0),
    ):
        fatal = 0
        while live(tmp_path / "life", mode, fatal, when):
            fatal += 1
    assert fatal > 50
    assert os.listdir("/proc/self/fd") == before
