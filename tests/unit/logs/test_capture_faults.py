"""Pipeline of a log that cannot be written: its container waits, the others go on, nothing is lost."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.waiting import wait_until

from wherry.logs import STDERR, STDOUT, Log, Pipeline, make_buffer, make_pipe, read
from wherry.logs import drain as drain_module
from wherry.logs.buffer import Buffer, Piece
from wherry.logs.writer import Writer

ID = "ab" * 32


@pytest.fixture
def capture() -> Iterator[Pipeline]:
    with Pipeline() as running:
        yield running


@pytest.fixture
def new_log(tmp_path: Path) -> Callable[[str], Log]:
    def make(name: str = "alpha") -> Log:
        log = Log(tmp_path / f"{name}.log", ID)
        log.create()
        return log

    return make


def descriptors() -> list[str]:
    # The listing's own descriptor is among them, the same number each time.
    return os.listdir("/proc/self/fd")


def content(log: Log, *streams: int) -> bytes:
    return b"".join(chunk.data for chunk in read(log, streams=streams or {STDOUT, STDERR}))


class Failing:
    """Makes Writer.append fail for one log while ``is_failing``; counts the attempts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
        self.is_failing = True
        self.attempts = 0
        real = Writer.append

        def append(writer: Writer, buffer: Buffer, piece: Piece, limit: int, **how: bool) -> int:
            if self.is_failing and name in str(writer._path):
                self.attempts += 1
                raise error
            return real(writer, buffer, piece, limit, **how)

        monkeypatch.setattr(Writer, "append", append)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O error"), ValueError("a fault")]
)
def test_a_log_that_cannot_be_written_is_tried_on_while_others_go_on(
    capture: Pipeline,
    new_log: Callable[..., Log],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    monkeypatch.setattr(drain_module, "FIRST_RETRY_SECONDS", 0.005)
    failing = Failing(monkeypatch, "alpha", error)
    alpha, beta = new_log("alpha"), new_log("beta")
    alpha_done, beta_done = threading.Event(), threading.Event()
    (out, out_writer), (err, err_writer), (other, other_writer) = make_pipe(), make_pipe(), make_pipe()
    capture.add(alpha, out, err, alpha_done.set)
    capture.add(beta, other, -1, beta_done.set)
    os.write(out_writer, b"out")
    os.write(err_writer, b"err")
    os.close(err_writer)
    wait_until(lambda: failing.attempts >= 3)
    os.write(other_writer, b"beta")
    os.close(other_writer)
    assert beta_done.wait(PATIENCE)
    assert content(beta) == b"beta"
    assert content(alpha) == b""
    os.close(out_writer)
    wait_until(lambda: failing.attempts >= 5)
    assert not alpha_done.is_set()
    failing.is_failing = False
    assert alpha_done.wait(PATIENCE)
    assert (content(alpha, STDOUT), content(alpha, STDERR)) == (b"out", b"err")
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert messages == [f"cannot write log {alpha.path}: {error}; trying on"]


def test_pauses_grow_while_a_log_fails(
    capture: Pipeline, new_log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "FIRST_RETRY_SECONDS", 0.01)
    failing = Failing(monkeypatch, "alpha", OSError(errno.ENOSPC, "No space left on device"))
    log, done = new_log(), threading.Event()
    reader, writer = make_pipe()
    capture.add(log, reader, -1, done.set)
    begun = time.monotonic()
    os.write(writer, b"x")
    os.close(writer)
    wait_until(lambda: failing.attempts >= 5)
    assert time.monotonic() - begun >= 0.15  # at 0, 10, 30, 70, 150 ms
    failing.is_failing = False
    assert done.wait(PATIENCE)


def test_recovery_is_told_once_the_log_has_been_well_for_a_while(
    capture: Pipeline,
    new_log: Callable[..., Log],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(drain_module, "FIRST_RETRY_SECONDS", 0.005)
    monkeypatch.setattr(drain_module, "LAST_RETRY_SECONDS", 0.05)
    failing = Failing(monkeypatch, "alpha", OSError(errno.ENOSPC, "No space left on device"))
    log, done = new_log(), threading.Event()
    reader, writer = make_pipe()
    capture.add(log, reader, -1, done.set)
    os.write(writer, b"x")
    wait_until(lambda: failing.attempts >= 2)
    failing.is_failing = False

    def is_told() -> bool:
        os.write(writer, b"x")
        return "is written again after" in caplog.text

    wait_until(is_told)
    os.close(writer)
    assert done.wait(PATIENCE)
    assert caplog.text.count("is written again after") == 1


def test_finish_of_a_log_that_fails_waits_for_it(
    capture: Pipeline, new_log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "FIRST_RETRY_SECONDS", 0.005)
    failing = Failing(monkeypatch, "alpha", OSError(errno.ENOSPC, "No space left on device"))
    log, done = new_log(), threading.Event()
    (out, out_writer), (err, err_writer) = make_pipe(), make_pipe()
    capture.add(log, out, err, done.set)
    os.write(out_writer, b"out")
    capture.finish(log)
    with suppress(BrokenPipeError):  # found empty, and let go of, already
        os.write(err_writer, b"err")
    wait_until(lambda: failing.attempts >= 3)
    assert not done.is_set()
    failing.is_failing = False
    assert done.wait(PATIENCE)
    assert content(log) in {b"outerr", b"out"}  # stderr may have been found empty
    os.close(out_writer)
    os.close(err_writer)


def test_abandon_completes_a_log_that_fails(
    capture: Pipeline, new_log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = descriptors()
    failing = Failing(monkeypatch, "alpha", OSError(errno.ENOSPC, "No space left on device"))
    log, done = new_log(), threading.Event()
    reader, writer = make_pipe()
    capture.add(log, reader, -1, done.set)
    os.write(writer, b"four")
    wait_until(lambda: failing.attempts >= 1)
    capture.abandon(log)
    assert done.wait(PATIENCE)
    assert log.finished
    assert "4 bytes on their way to it are lost" in caplog.text
    os.close(writer)
    assert descriptors() == before


def test_close_does_not_wait_for_a_log_that_fails(
    new_log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing(monkeypatch, "alpha", OSError(errno.ENOSPC, "No space left on device"))
    log = new_log()
    reader, writer = make_pipe()
    buffer = make_buffer(log)
    kept = os.dup(reader), os.dup(buffer)  # as the shim has them
    with Pipeline() as capture:
        capture.add(log, reader, -1, lambda: None, buffer)
        os.write(writer, b"four")
        wait_until(lambda: failing.attempts >= 1)
    assert "lacks 4 bytes that stay in their buffer" in caplog.text
    assert not log.finished
    failing.is_failing = False
    done = threading.Event()
    with Pipeline() as capture:
        capture.add(log, kept[0], -1, done.set, kept[1])
        os.close(writer)
        assert done.wait(PATIENCE)
    assert content(log) == b"four"


def test_close_completes_a_log_that_can_be_written_again(
    new_log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "FIRST_RETRY_SECONDS", 3600.0)
    failing = Failing(monkeypatch, "alpha", OSError(errno.ENOSPC, "No space left on device"))
    log, done = new_log(), threading.Event()
    reader, writer = make_pipe()
    with Pipeline() as capture:
        capture.add(log, reader, -1, done.set)
        os.write(writer, b"four")
        os.close(writer)
        wait_until(lambda: failing.attempts >= 1)
        failing.is_failing = False
    assert done.is_set()
    assert content(log) == b"four"


def test_a_log_fails_once_a_round_though_both_its_pipes_are_ready(
    new_log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "FIRST_RETRY_SECONDS", 3600.0)
    alpha, first, done = new_log("alpha"), new_log("first"), threading.Event()
    (out, out_writer), (err, err_writer), (other, other_writer) = make_pipe(), make_pipe(), make_pipe()
    failing = Failing(monkeypatch, "alpha", OSError(errno.ENOSPC, "No space left on device"))
    blocked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        blocked.set()
        assert go_on.wait(PATIENCE)

    with Pipeline() as capture:
        capture.add(first, other, -1, hold)  # keeps the thread busy until both pipes of alpha are there
        os.close(other_writer)
        assert blocked.wait(PATIENCE)
        os.write(out_writer, b"out")
        os.write(err_writer, b"err")
        capture.add(alpha, out, err, done.set)
        go_on.set()
        wait_until(lambda: failing.attempts > 0)
        after = new_log("after")
        reader, writer = make_pipe()
        later = threading.Event()
        capture.add(after, reader, -1, later.set)
        os.close(writer)
        assert later.wait(PATIENCE)
        assert failing.attempts == 1
        failing.is_failing = False
        os.close(out_writer)
        os.close(err_writer)
    assert done.is_set()
