"""engine run: output as it comes, exit codes, signals, broken connections."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.unit.fake_supervisor import FakeSupervisor, Request, empty, exited, failure, frame, started, streaming
from tests.waiting import wait_until

ID = "ab" * 32
Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeSupervisor]:
    with FakeSupervisor(tmp_path / "s") as supervisor:
        yield supervisor


@pytest.fixture
def run(fake: FakeSupervisor) -> Iterator[Run]:
    """Starts ``engine run alpha /r /x``; whatever is left of it ends with the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*words: str, through: tuple[str, ...] = (), **how: object) -> subprocess.Popen[bytes]:
        command = [*through, sys.executable, "-m", "wherry.cli.main", "run", *words, "alpha", "/r", "/x"]
        environment = {**os.environ, "ENGINE_SOCKET": str(fake.path)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        processes.append(subprocess.Popen(command, env=environment, **pipes))  # type: ignore[call-overload]
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def result(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


CODES = {
    "0": (exited(0), 0),
    "7": (exited(7), 7),
    "signalled": (exited(None, "signaled", 9), 137),
    "stopped": (exited(143, "stopped", 15), 143),
}


@pytest.mark.parametrize(("ending", "code"), CODES.values(), ids=CODES.keys())
def test_the_exit_code_is_the_containers(fake: FakeSupervisor, run: Run, ending: bytes, code: int) -> None:
    fake.on("POST", "/wherry/run", streaming([started(), frame(1, b"out\xff"), frame(2, b"err"), ending]))
    assert result(run()) == (code, b"out\xff", b"err")


def test_how_a_container_was_lost_is_said(fake: FakeSupervisor, run: Run) -> None:
    fake.on("POST", "/wherry/run", streaming([started(), exited(None, "lost", None, "the shim died\x1b")]))
    assert result(run()) == (255, b"", b"engine: alpha: the shim died\\x1b\n")


def test_output_is_passed_on_at_once(fake: FakeSupervisor, run: Run) -> None:
    seen = threading.Event()

    def pieces(_: Request) -> Iterator[bytes]:
        yield started()
        yield frame(1, b"no newline")
        assert seen.wait(PATIENCE)
        yield exited()

    fake.on("POST", "/wherry/run", streaming(pieces))
    process = run()
    assert process.stdout
    assert os.read(process.stdout.fileno(), 100) == b"no newline"
    seen.set()
    assert result(process)[0] == 0


def test_a_reader_that_goes_away_ends_run_and_not_the_container(fake: FakeSupervisor, run: Run) -> None:
    def endless(_: Request) -> Iterator[bytes]:
        yield started()
        while True:
            yield frame(1, b"y\n" * 4096)

    fake.on("POST", "/wherry/run", streaming(endless))
    process = run()
    assert process.stdout
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    assert process.wait(PATIENCE) == 125
    assert process.stderr
    assert process.stderr.read() == b"engine: nobody reads the output any more; alpha goes on without it\n"
    assert [request.path for request in fake.requests] == ["/wherry/run"]


def test_a_full_disk_is_not_the_containers_exit_code(fake: FakeSupervisor, run: Run) -> None:
    fake.on("POST", "/wherry/run", streaming([started(), frame(1, b"x"), exited(0)]))
    with open("/dev/full", "wb") as full:
        process = run(stdout=full)
        _, err = process.communicate(timeout=PATIENCE)
    message = b"engine: cannot write the output: No space left on device; alpha goes on without it\n"
    assert (process.returncode, err) == (125, message)


def test_a_supervisor_that_dies_is_125_and_not_1(fake: FakeSupervisor, run: Run) -> None:
    def dies(_: Request) -> Iterator[bytes]:
        yield started()
        yield frame(1, b"x")
        raise ConnectionResetError

    fake.on("POST", "/wherry/run", streaming(dies))
    code, out, err = result(run())
    assert (code, out) == (125, b"x")
    assert err.startswith(b"engine: the supervisor at ")
    assert err.endswith(b"alpha may still be running (see engine ps)\n")


class Stoppable:
    """A container that runs until it is stopped or killed, and counts how often it is asked to."""

    def __init__(self, fake: FakeSupervisor) -> None:
        self.asked: list[str] = []
        self.ends_on = "stop"
        self._end = threading.Condition()
        fake.on("POST", "/wherry/run", streaming(self._pieces))
        fake.on("POST", f"/containers/{ID}/stop", self._handler("stop"))
        fake.on("POST", f"/containers/{ID}/kill", self._handler("kill"))

    def _pieces(self, _: Request) -> Iterator[bytes]:
        yield started()
        yield frame(1, b"running\n")
        with self._end:
            assert self._end.wait_for(lambda: self.ends_on in self.asked, PATIENCE)
        yield frame(1, b"last words\n")
        yield exited(None, "stopped", 15 if self.ends_on == "stop" else 9)

    def _handler(self, what: str) -> Callable[[Request], list[bytes]]:
        def handle(_: Request) -> list[bytes]:
            with self._end:
                self.asked.append(what)
                self._end.notify_all()
                # As the real one: stop answers when the container has ended
                assert self._end.wait_for(lambda: self.ends_on in self.asked, PATIENCE)
            return [b"HTTP/1.1 204 No Content\r\n\r\n"]

        return handle

    def end(self) -> None:
        with self._end:
            self.ends_on = "stop"
            self._end.notify_all()

    def wait_until_asked(self, *what: str) -> None:
        with self._end:
            assert self._end.wait_for(lambda: self.asked == list(what), PATIENCE), self.asked


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_container_and_the_status_is_waited_for(fake: FakeSupervisor, run: Run, number: int) -> None:
    container = Stoppable(fake)
    process = run()
    assert process.stdout
    assert process.stdout.readline() == b"running\n"
    process.send_signal(number)
    assert result(process) == (143, b"last words\n", b"")
    assert container.asked == ["stop"]


def test_a_second_signal_kills_the_container(fake: FakeSupervisor, run: Run) -> None:
    container = Stoppable(fake)
    container.ends_on = "kill"
    process = run()
    assert process.stdout
    assert process.stdout.readline() == b"running\n"
    process.send_signal(signal.SIGINT)
    container.wait_until_asked("stop")
    process.send_signal(signal.SIGINT)
    assert result(process) == (137, b"last words\n", b"")
    assert container.asked == ["stop", "kill"]


def test_a_third_signal_leaves_it(fake: FakeSupervisor, run: Run) -> None:
    container = Stoppable(fake)
    container.ends_on = "never"
    process = run()
    assert process.stdout
    assert process.stdout.readline() == b"running\n"
    process.send_signal(signal.SIGTERM)
    container.wait_until_asked("stop")
    process.send_signal(signal.SIGTERM)
    container.wait_until_asked("stop", "kill")
    process.send_signal(signal.SIGTERM)
    message = b"engine: interrupted three times: alpha may still be running (see engine ps)\n"
    assert result(process) == (143, b"", message)
    container.end()


def test_a_signal_before_the_start_stops_it_once_it_has_started(fake: FakeSupervisor, run: Run) -> None:
    """An archive may take a minute to unpack; the container must not outlive an impatient user."""
    container = Stoppable(fake)
    asked, signalled = threading.Event(), threading.Event()
    after = fake.handlers["POST", "/wherry/run"]

    def slow(request: Request) -> Iterator[bytes]:
        asked.set()
        assert signalled.wait(PATIENCE)
        yield from after(request)

    fake.on("POST", "/wherry/run", slow)
    process = run()
    assert asked.wait(PATIENCE)
    process.send_signal(signal.SIGINT)
    # Nothing tells when the signal has been taken; a second one would be, and so would be seen as a kill.
    wait_until(lambda: not _is_pending(process.pid, signal.SIGINT))
    signalled.set()
    assert result(process) == (143, b"running\nlast words\n", b"")
    assert container.asked == ["stop"]


def _is_pending(pid: int, number: int) -> bool:
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["ShdPnd"], 16) & 1 << (number - 1))


def test_a_stop_that_fails_is_said_and_waiting_goes_on(fake: FakeSupervisor, run: Run) -> None:
    container = Stoppable(fake)
    fake.on("POST", f"/containers/{ID}/stop", failure(500, "internal", "no"))
    container.ends_on = "kill"
    process = run()
    assert process.stdout
    assert process.stdout.readline() == b"running\n"
    assert process.stderr
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == b"engine: cannot stop alpha: no\n"
    process.send_signal(signal.SIGINT)
    assert result(process)[0] == 137


def test_a_stop_that_comes_too_late_is_no_error(fake: FakeSupervisor, run: Run) -> None:
    stopped = threading.Event()

    def pieces(_: Request) -> Iterator[bytes]:
        yield started()
        yield frame(1, b"running\n")
        assert stopped.wait(PATIENCE)
        yield exited(7)

    def gone(request: Request) -> Iterator[bytes]:
        yield from failure(404, "not_found", "No such container")(request)
        stopped.set()

    fake.on("POST", "/wherry/run", streaming(pieces))
    fake.on("POST", f"/containers/{ID}/stop", gone)
    process = run()
    assert process.stdout
    assert process.stdout.readline() == b"running\n"
    process.send_signal(signal.SIGINT)
    assert result(process) == (7, b"", b"")


def test_an_ignored_interrupt_stays_ignored(fake: FakeSupervisor, run: Run) -> None:
    """A shell script's background job: Ctrl-C at the terminal is not meant for it."""
    container = Stoppable(fake)
    process = run(through=("sh", "-c", "trap '' INT; exec \"$@\"", "sh"))
    assert process.stdout
    assert process.stdout.readline() == b"running\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert result(process)[0] == 143
    assert container.asked == ["stop"]


def test_run_with_rm_asks_for_it(fake: FakeSupervisor, run: Run) -> None:
    fake.on("POST", "/wherry/run", streaming([started(), exited(0)]))
    fake.on("DELETE", f"/containers/{ID}", empty())
    assert result(run("--rm"))[0] == 0
    assert fake.asked("POST", "/wherry/run").json["HostConfig"]["AutoRemove"] is True
