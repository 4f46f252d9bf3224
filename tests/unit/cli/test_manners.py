"""What the command line does with what users type: help, suggestions, empty values, a name alone, a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from tests.patience import PATIENCE
from tests.unit.cli.conftest import Engine
from tests.unit.fake_supervisor import FakeSupervisor, Request, entry, exited, failure, reply, started, streaming

from wherry.cli import main

MISTAKES = {
    "pss": "engine: unknown command 'pss'; did you mean 'ps'?",
    "stat": "engine: unknown command 'stat'; did you mean 'stats' or 'start'?",
    "zzzz": "engine: unknown command 'zzzz'",
    "help inspct": "engine: unknown command 'inspct'; did you mean 'inspect'?",
    "--sokcet x ps": "engine: unrecognized arguments: --sokcet; did you mean '--socket'?",
    "ps --runing": "engine ps: unrecognized arguments: --runing; did you mean '--running'?",
    "run --memmory": "engine run: unrecognized arguments: --memmory; did you mean '--memory' or '--memory-swap'?",
    "start --read-onl a r c": "engine start: unrecognized arguments: --read-onl; did you mean '--read-only'?",
    "logs --zzzz x": "engine logs: unrecognized arguments: --zzzz",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_gets_the_nearest_word_there_is(fake: FakeSupervisor, engine: Engine, line: str) -> None:
    """Case 17."""
    code, out, err = engine(*line.split())
    assert (code, out) == (125 if line.startswith(("run", "start")) else 2, "")
    assert err.splitlines()[0] == MISTAKES[line]
    assert fake.requests == []


def test_difflib_is_for_mistakes_only() -> None:
    """Case 17: neither a good command line nor a help text pays for it."""
    for words in ("--version", "ps --help", "help"):
        code = (
            f"import sys; from wherry.cli.main import main; main({words.split()}); sys.exit('difflib' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_help_is_a_command_too(engine: Engine) -> None:
    """Case 17."""
    assert engine("help") == engine("--help")
    assert engine("help")[0] == 0
    assert "commands:" in engine("help")[1]
    for name in main.COMMANDS:
        assert engine("help", name) == engine(name, "--help")


@pytest.mark.parametrize("word", ["-v", "--version"])
def test_the_version_has_a_short_name(engine: Engine, word: str) -> None:
    """Case 17."""
    code, out, err = engine(word)
    assert (code, out.startswith("wherry "), err) == (0, True, "")


ALONE: dict[str, tuple[dict[str, object], str]] = {
    "ended": ({"WasRunning": False}, "OK: alpha started, pid=7\n"),
    "running": ({"WasRunning": True}, "OK: alpha was running already, pid=7\n"),
}


@pytest.mark.parametrize("state", ALONE)
def test_start_with_a_name_alone_starts_what_is_there(fake: FakeSupervisor, engine: Engine, state: str) -> None:
    """Case 31."""
    fields, said = ALONE[state]
    fake.on("POST", "/wherry/start", reply({"Id": "ab" * 32, "Name": "alpha", "Pid": 7, **fields}, 201))
    assert engine("start", "alpha") == (0, said, "")
    (request,) = fake.requests
    assert (request.query, request.body) == ({"name": "alpha"}, b"")


WRONG_ALONE = {
    ("start", "alpha", "--memory", "64m"): "--memory needs ROOTFS and COMMAND: NAME alone starts a container as it",
    ("start", "--rm", "alpha"): "--rm needs ROOTFS and COMMAND",
    ("start", "--replace", "alpha"): "--replace needs ROOTFS and COMMAND",
    ("start", "-w/x", "alpha"): "-w/x needs ROOTFS and COMMAND",
    ("start", ""): "NAME is empty",
    ("start", "alpha", "rootfs"): "COMMAND is missing",
    ("run", "alpha"): "ROOTFS and COMMAND are missing",
}


@pytest.mark.parametrize("words", WRONG_ALONE, ids=" ".join)
def test_start_with_a_name_alone_ignores_no_option(fake: FakeSupervisor, engine: Engine, words: list[str]) -> None:
    """Case 31."""
    code, out, err = engine(*words)
    assert (code, out, fake.requests) == (125, "", [])
    assert WRONG_ALONE[tuple(words)] in err


def test_start_of_a_name_that_is_not_there_fails(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("POST", "/wherry/start", failure(404, "not_found", "no such container: alpha"))
    assert engine("start", "alpha") == (125, "", "engine: cannot start alpha: no such container: alpha\n")


@pytest.mark.parametrize("command", ["start", "run"])
def test_replace_is_asked_for(fake: FakeSupervisor, engine: Engine, command: str) -> None:
    """Case 31."""
    quick = reply({"Id": "ab" * 32, "Name": "a", "Pid": 7}, 201)
    fake.on("POST", "/wherry/run", quick if command == "start" else streaming([started(), exited()]))
    assert engine(command, "--replace", "a", "/r", "x")[0] == 0
    assert engine(command, "a", "/r", "x", "--replace")[0] == 0
    assert [request.query["replace"] for request in fake.requests] == ["1", "1"]


EMPTY_VALUES = [
    ("kill", "-s", "", "x"),
    ("kill", "--signal=", "x"),
    ("start", "-w", "", "a", "r", "c"),
    ("run", "--hostname", "", "a", "r", "c"),
    ("run", "a", "r", "c", "--user="),
    ("run", "--env=", "a", "r", "c"),
    ("run", "-v", "", "a", "r", "c"),
    ("run", "--tmpfs", "", "a", "r", "c"),
    ("run", "--network", "", "a", "r", "c"),
    ("run", "--memory=", "a", "r", "c"),
    ("run", "--cpuset-cpus=", "a", "r", "c"),
    ("run", "--sched-policy", "", "a", "r", "c"),
    ("run", "--soft-action", "", "a", "r", "c"),
    ("update", "--cpuset-cpus", "", "a"),
    ("update", "--nice=", "a"),
    ("stop", "-t", "", "a"),
    ("logs", "--since=", "a"),
    ("logs", "--stream", "", "a"),
    ("logs", "-n", "", "a"),
    ("ps", "--format", ""),
    ("events", "--filter", ""),
    ("events", "--format="),
    ("events", "--filter", "container="),
    ("stats", "--format="),
    ("ps", "--socket", ""),
    ("--socket=", "ps"),
    ("supervisor", "--state-dir="),
    ("experiment", "list", "--out", ""),
]


@pytest.mark.parametrize("words", EMPTY_VALUES, ids=" ".join)
def test_an_empty_value_is_an_error_of_every_option(fake: FakeSupervisor, engine: Engine, words: list[str]) -> None:
    """Case 17: `engine kill -s "" x` killed: the variable in the script was empty."""
    code, out, err = engine(*words)
    assert (code, out, fake.requests) == (125 if words[0] in {"start", "run"} else 2, "", [])
    assert "value is empty" in err or "is not KEY=VALUE" in err


# engine stats on a terminal


def stats(name: str, cpu_ns: int) -> dict[str, Any]:
    cpu = {"cpu_usage": {"total_usage": cpu_ns}, "system_cpu_usage": cpu_ns * 2, "online_cpus": 2}
    log = {"BytesIn": 1, "BytesHeld": 0, "HighWater": 1, "BytesLost": 0, "TimesFull": 0, "FullSeconds": 0.0}
    return {"name": f"/{name}", "cpu_stats": cpu, "memory_stats": {}, "pids_stats": {}, "Wherry": {"Log": log}}


class Watched:
    """``engine stats`` on a terminal of 20 lines, read as it comes."""

    def __init__(self, *words: str, columns: int = 60, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns, slave)
        self.shown = ""
        command = [sys.executable, "-m", "wherry.cli.main", "stats", *words]
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", **environment},
            process_group=0,  # with us in its session that group is not orphaned: the kernel lets it be stopped
        )
        os.close(slave)

    def resize(self, columns: int, terminal: int | None = None) -> None:
        target = self._master if terminal is None else terminal
        subprocess.run(["stty", "cols", str(columns), "rows", "20"], stdin=target, check=True)

    def until(self, condition: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition(self.shown):
            assert time.monotonic() < deadline, self.shown
            self.shown += os.read(self._master, 65536).decode()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        with contextlib.suppress(OSError):  # EIO: it has ended
            while data := os.read(self._master, 65536):
                self.shown += data.decode()
        os.close(self._master)
        return self.process.wait(20)


def lines_of(frame: str) -> list[str]:
    """Without what erases old text; the terminal puts a carriage return of its own before each line feed."""
    return re.split(r"\r+\n", re.sub(r"\x1b\[[KJ]", "", frame))


@pytest.fixture
def busy(fake: FakeSupervisor) -> FakeSupervisor:
    names = [f"container-{number}" for number in range(30)]
    fake.on("GET", "/containers/json", reply([entry(name) for name in names]))

    def answer(request: Request) -> Iterable[bytes]:
        asked = request.query.get("names")
        return reply([stats(name, 1) for name in (asked.split(",") if asked else names)])(request)

    fake.on("GET", "/wherry/stats", answer)
    return fake


ENTER, LEAVE, HOME = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", "\x1b[H"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.usefixtures("busy")
def test_stats_are_drawn_anew_in_their_place(number: int, code: int) -> None:
    """Case 17: a new header came every second. What ends it gives the terminal back, with the last figures on it."""
    watched = Watched()
    watched.until(lambda shown: shown.count(HOME) == 2)
    assert watched.end(number) == code
    before, rest = watched.shown.split(ENTER)
    drawn, left = rest.split(LEAVE)
    assert before == ""
    for frame in drawn.split(HOME)[1:]:
        lines = lines_of(frame)
        assert len(lines) == 20
        assert max(map(len, lines)) == 59
        assert lines[0].startswith("NAME")
        assert lines[-1] == "... 12 more"
    assert left.count("NAME") == 1
    assert left.count("container-") == 30


@pytest.mark.usefixtures("busy")
def test_stats_follow_the_size_of_the_window() -> None:
    """Case 17."""
    watched = Watched()
    watched.until(lambda shown: HOME in shown)
    watched.resize(30)
    watched.until(lambda shown: shown.count(HOME) == 3)
    watched.end(signal.SIGINT)
    last = watched.shown.partition(LEAVE)[0].split(HOME)[-1]
    assert max(map(len, lines_of(last))) == 29


@pytest.mark.usefixtures("busy")
def test_stats_that_are_stopped_give_the_terminal_back_meanwhile() -> None:
    """Case 17: Ctrl-Z."""
    watched = Watched("container-1")
    watched.until(lambda shown: HOME in shown)
    watched.process.send_signal(signal.SIGTSTP)
    os.waitid(os.P_PID, watched.process.pid, os.WSTOPPED | os.WNOWAIT)
    watched.until(lambda shown: LEAVE in shown)
    watched.process.send_signal(signal.SIGCONT)
    watched.until(lambda shown: shown.count(ENTER) == 2)
    assert watched.end(signal.SIGINT) == 130


@pytest.mark.usefixtures("busy")
def test_stats_on_a_terminal_that_cannot_be_drawn_on_are_lines() -> None:
    """Case 17."""
    watched = Watched("container-1", TERM="dumb")
    watched.until(lambda shown: shown.count("container-1") == 2)
    watched.end(signal.SIGINT)
    assert "\x1b" not in watched.shown
    assert watched.shown.count("NAME") == 1


@pytest.mark.usefixtures("busy")
def test_piped_stats_are_one_header_and_lines() -> None:
    """Case 17."""
    command = [sys.executable, "-m", "wherry.cli.main", "stats", "container-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TERM": "xterm"}) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
    assert [line.split()[0] for line in lines] == ["NAME", "container-1", "container-1"]
