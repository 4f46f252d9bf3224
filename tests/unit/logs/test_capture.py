"""Pipeline: ends of pipes, shutdown, descriptors."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.waiting import wait_until

from wherry import errors
from wherry.logs import STDERR, STDOUT, Log, Pipeline, make_pipe, read
from wherry.logs.buffer import Buffer, Piece
from wherry.logs.pipes import PIPE_SIZE
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


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def test_done_comes_after_the_last_byte_of_both_streams(capture: Pipeline, new_log: Callable[..., Log]) -> None:
    log, done = new_log(), threading.Event()
    (out, out_writer), (err, err_writer) = make_pipe(), make_pipe()
    seen: list[tuple[int, bool, str]] = []

    def at_end() -> None:
        seen.append((log.path.stat().st_size, log.finished, threading.current_thread().name))
        done.set()

    capture.add(log, out, err, at_end)
    os.write(out_writer, b"one\n")
    os.close(out_writer)  # a container that closes stdout early, and goes on
    wait_until(lambda: log.size == 4)
    assert not log.finished
    os.write(err_writer, b"two\n")
    os.close(err_writer)
    assert done.wait(PATIENCE)
    assert seen == [(8, True, "wherry-logging")]
    assert content(log, STDOUT) == b"one\n"
    assert content(log, STDERR) == b"two\n"


@pytest.mark.parametrize("stream", [STDOUT, STDERR])
def test_a_stream_may_be_missing(capture: Pipeline, new_log: Callable[..., Log], stream: int) -> None:
    log, done = new_log(), threading.Event()
    reader, writer = make_pipe()
    capture.add(log, *((reader, -1) if stream == STDOUT else (-1, reader)), done.set)
    os.write(writer, b"x")
    os.close(writer)
    assert done.wait(PATIENCE)
    assert content(log, stream) == b"x"


def test_both_streams_may_be_missing(capture: Pipeline, new_log: Callable[..., Log]) -> None:
    log, done = new_log(), threading.Event()
    capture.add(log, -1, -1, done.set)
    assert done.wait(PATIENCE)
    assert log.finished


@pytest.mark.parametrize("is_duplicate", [False, True])
def test_one_pipe_for_both_streams_is_stdout(
    capture: Pipeline, new_log: Callable[..., Log], *, is_duplicate: bool
) -> None:
    before = descriptors()
    log, done = new_log(), threading.Event()
    reader, writer = make_pipe()
    capture.add(log, reader, os.dup(reader) if is_duplicate else reader, done.set)
    os.write(writer, b"both")
    os.close(writer)
    assert done.wait(PATIENCE)
    assert content(log, STDOUT) == b"both"
    assert descriptors() == before


def test_what_is_no_pipe_is_refused_and_stays_the_callers(
    capture: Pipeline, new_log: Callable[..., Log], tmp_path: Path
) -> None:
    log = new_log()
    reader, writer = make_pipe()
    with (tmp_path / "file").open("wb") as file, pytest.raises(errors.InvalidRequest, match="is not a pipe"):
        capture.add(log, reader, file.fileno(), lambda: None)
    os.fstat(reader)
    assert not log.is_open
    done = threading.Event()
    capture.add(log, reader, -1, done.set)  # nothing was left behind that would be in the way
    os.close(writer)
    assert done.wait(PATIENCE)


def test_a_log_is_captured_once_at_a_time(capture: Pipeline, new_log: Callable[..., Log]) -> None:
    log, done = new_log(), threading.Event()
    (first, first_writer), (second, second_writer) = make_pipe(), make_pipe()
    capture.add(log, first, -1, done.set)
    with pytest.raises(errors.Conflict, match=r"alpha\.log is being captured already"):
        capture.add(log, second, -1, done.set)
    os.write(first_writer, b"first ")
    os.close(first_writer)
    assert done.wait(PATIENCE)
    done.clear()
    capture.add(log, second, -1, done.set)  # the container is started again: its log goes on
    assert not log.finished
    os.write(second_writer, b"second")
    os.close(second_writer)
    assert done.wait(PATIENCE)
    assert content(log) == b"first second"


def test_a_log_that_cannot_be_opened_leaves_nothing(capture: Pipeline, tmp_path: Path) -> None:
    reader, writer = make_pipe()
    before = descriptors()
    log = Log(tmp_path / "missing" / "alpha.log", ID)
    with pytest.raises(FileNotFoundError, match=r"alpha\.log"):
        capture.add(log, reader, -1, lambda: None)
    assert descriptors() == before
    os.close(reader)
    os.close(writer)


def test_finish_takes_what_is_there_though_a_writer_remains(
    capture: Pipeline, new_log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is always ahead: for each byte that is taken out it has put another one in."""
    log, done = new_log(), threading.Event()
    reader, writer = make_pipe()
    kept = os.dup(reader)  # as the shim has it
    real = Writer.append

    def append(into: Writer, buffer: Buffer, piece: Piece, limit: int, **how: bool) -> int:
        moved = real(into, buffer, piece, limit, **how)
        os.write(writer, b"x" * moved)
        return moved

    monkeypatch.setattr(Writer, "append", append)
    os.write(writer, b"x" * 1000)
    capture.add(log, reader, -1, done.set)
    wait_until(lambda: log.size > 100_000)
    capture.finish(log)
    assert done.wait(PATIENCE)
    assert log.finished
    assert len(content(log)) == log.path.stat().st_size
    capture.finish(log)  # of a log that is not captured any more: nothing
    os.close(kept)
    os.close(writer)


def test_finish_writes_what_was_in_the_pipes(capture: Pipeline, new_log: Callable[..., Log]) -> None:
    log, done = new_log(), threading.Event()
    (out, out_writer), (err, err_writer) = make_pipe(), make_pipe()
    write_all(out_writer, b"o" * PIPE_SIZE)
    write_all(err_writer, b"e" * 1000)
    capture.add(log, out, err, done.set)
    capture.finish(log)
    assert done.wait(PATIENCE)
    assert (len(content(log, STDOUT)), len(content(log, STDERR))) == (PIPE_SIZE, 1000)
    os.close(out_writer)
    os.close(err_writer)


def test_close_drains_the_pipes_and_leaves_running_containers(new_log: Callable[..., Log]) -> None:
    before = descriptors()
    running, ended = new_log("running"), new_log("ended")
    (reader, writer), (ended_reader, ended_writer) = make_pipe(), make_pipe()
    kept = os.dup(reader)
    done: list[str] = []
    with Pipeline() as capture:
        capture.add(running, reader, -1, lambda: done.append("running"))
        write_all(writer, b"x" * PIPE_SIZE)
        capture.add(ended, ended_reader, -1, lambda: done.append("ended"))
        os.write(ended_writer, b"bye")
        os.close(ended_writer)
    assert done == ["ended"]
    assert (running.finished, ended.finished) == (False, True)
    assert content(running) == b"x" * PIPE_SIZE
    assert content(ended) == b"bye"
    os.write(writer, b"more")
    os.close(writer)
    again = threading.Event()
    with Pipeline() as capture:  # the next supervisor
        capture.add(running, kept, -1, again.set)
        assert again.wait(PATIENCE)
    assert content(running) == b"x" * PIPE_SIZE + b"more"
    assert descriptors() == before


def test_the_life_of_capture_is_start_then_close(new_log: Callable[..., Log]) -> None:
    capture = Pipeline()
    reader, writer = make_pipe()
    with pytest.raises(errors.InternalError, match="not started"):
        capture.add(new_log(), reader, -1, lambda: None)
    capture.start()
    with pytest.raises(errors.InternalError, match="running"):
        capture.start()
    capture.close()
    capture.close()
    with pytest.raises(errors.InternalError, match="closed"):
        capture.add(new_log("beta"), reader, -1, lambda: None)
    capture.finish(new_log("gamma"))
    os.close(reader)
    os.close(writer)


def test_a_failing_call_back_harms_nobody(
    capture: Pipeline, new_log: Callable[..., Log], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("from the test")

    done = threading.Event()
    for name, call in (("alpha", fail), ("beta", done.set)):
        reader, writer = make_pipe()
        capture.add(new_log(name), reader, -1, call)
        os.close(writer)
    assert done.wait(PATIENCE)
    assert "after the end of log" in caplog.text
    assert "from the test" in caplog.text


def test_a_container_at_full_speed_does_not_starve_the_others(capture: Pipeline, new_log: Callable[..., Log]) -> None:
    loud, quiet = new_log("loud"), new_log("quiet")
    reader, loud_writer = make_pipe()
    stop, done = threading.Event(), threading.Event()

    def shout() -> None:
        while not stop.is_set():
            write_all(loud_writer, b"x" * 65536)

    capture.add(loud, reader, -1, lambda: None)
    shouting = threading.Thread(target=shout)
    shouting.start()
    try:
        wait_until(lambda: loud.size > PIPE_SIZE)
        reader, writer = make_pipe()
        capture.add(quiet, reader, -1, done.set)
        for number in range(50):
            os.write(writer, b"%d\n" % number)
            wait_until(lambda: quiet.size > 0)
        os.close(writer)
        assert done.wait(PATIENCE)
        assert not loud.finished
    finally:
        stop.set()
        shouting.join()
        os.close(loud_writer)
    assert content(quiet) == b"".join(b"%d\n" % number for number in range(50))


def test_descriptors_stay_flat_over_500_containers(capture: Pipeline, tmp_path: Path) -> None:
    def run_one(number: int) -> None:
        log = Log(tmp_path / f"{number}.log", f"{number:064x}")
        log.create()
        done = threading.Event()
        (out, out_writer), (err, err_writer) = make_pipe(), make_pipe()
        kept = [os.dup(out), os.dup(err)]  # the shim has them too, so closing ours does not take them out of the epoll
        capture.add(log, out, err, done.set)
        os.write(out_writer, b"out\n")
        os.write(err_writer, b"err\n")
        os.close(out_writer)
        os.close(err_writer)
        assert done.wait(PATIENCE)
        assert (content(log, STDOUT), content(log, STDERR)) == (b"out\n", b"err\n")
        for fd in kept:
            os.close(fd)

    run_one(0)
    before = descriptors()
    for number in range(1, 501):
        run_one(number)
    assert descriptors() == before


def test_logs_may_be_added_from_many_threads(capture: Pipeline, new_log: Callable[..., Log]) -> None:
    lasting: list[Log] = []

    def run(name: str) -> None:
        for number in range(20):
            log, done = new_log(f"{name}-{number}"), threading.Event()
            reader, writer = make_pipe()
            capture.add(log, reader, -1, done.set)
            write_all(writer, name.encode() * 5000)
            os.close(writer)
            assert done.wait(PATIENCE)
            lasting.append(log)

    threads = [threading.Thread(target=run, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lasting) == 160
    assert all(content(log) == log.path.name[:1].encode() * 5000 for log in lasting)


def test_a_pipe_has_a_mebibyte_or_what_the_kernel_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = make_pipe()
    assert fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) == PIPE_SIZE
    assert not os.get_inheritable(writer)
    os.close(reader)
    os.close(writer)

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    reader, writer = make_pipe()
    os.write(writer, b"works")
    assert os.read(reader, 10) == b"works"
    os.close(reader)
    os.close(writer)
