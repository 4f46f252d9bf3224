"""``pause``, ``unpause``, ``restart``, ``rename``, ``top``, and ``wait`` for several with a limit."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.patience import PATIENCE
from tests.unit.cli.conftest import Engine
from tests.unit.fake_supervisor import FakeSupervisor, Request, empty, failure, reply

from wherry.errors import Conflict, NotFound


def test_wait_waits_for_all_at_once_and_no_longer_than_it_may(fake: FakeSupervisor, engine: Engine) -> None:
    all_here = threading.Barrier(2)
    over = threading.Event()

    def wait(request: Request) -> Iterator[bytes]:
        all_here.wait(PATIENCE)
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n"
        if request.path == "/containers/a/wait":
            over.wait(PATIENCE)
        yield b'{"StatusCode":7}'

    for name in "ab":
        fake.on("POST", f"/containers/{name}/wait", wait)
    fake.on("POST", "/containers/c/wait", failure(404, NotFound.code, "No such container: 'c'"))
    assert engine("wait", "--timeout", "0.5", "a", "b", "c") == (
        124,
        "7\n",
        "engine: a has not ended within 0.5 s\nengine: No such container: 'c'\n",
    )
    over.set()


@pytest.mark.parametrize(
    ("command", "words", "query"),
    [
        ("pause", [], {}),
        ("unpause", [], {}),
        ("restart", [], {}),
        ("restart", ["-t", "3"], {"t": "3"}),
        ("restart", ["--time=-1"], {"t": "-1"}),
    ],
)
def test_names_of_what_was_paused_or_restarted(
    fake: FakeSupervisor, engine: Engine, command: str, words: list[str], query: dict[str, str]
) -> None:
    fake.on("POST", f"/containers/a/{command}", empty())
    fake.on("POST", f"/containers/b/{command}", failure(409, Conflict.code, "container b is not running"))
    assert engine(command, *words, "b", "a") == (1, "a\n", "engine: container b is not running\n")
    assert [request.query for request in fake.requests] == [query, query]


def test_rename_prints_nothing(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("POST", "/containers/a/rename", empty())
    assert engine("rename", "a", "b") == (0, "", "")
    assert fake.requests[0].query == {"name": "b"}


TOP = {"Titles": ["PID", "CMD"], "Processes": [["7", "sh"], ["80", "\x1b[2J\u202eevil x"]]}


@pytest.mark.parametrize(
    ("words", "sent"),
    [([], {}), (["aux"], {"ps_args": "aux"}), (["-o", "pid,cmd", "--help"], {"ps_args": "-o pid,cmd --help"})],
)
def test_top_gives_ps_what_follows_the_name(
    fake: FakeSupervisor, engine: Engine, words: list[str], sent: dict[str, str]
) -> None:
    """What a process calls itself does not reach the terminal as it is."""
    fake.on("GET", "/containers/a/top", reply(TOP))
    assert engine("top", "a", *words) == (0, "PID   CMD\n7     sh\n80    \\x1b[2J\\u202eevil x\n", "")
    assert fake.requests[0].query == sent


@pytest.mark.parametrize("words", [[], ["--wrong", "a"], ["-h"]])
def test_top_takes_its_own_options_before_the_name(engine: Engine, words: list[str]) -> None:
    code, out, err = engine("top", *words)
    assert (code, "engine top" in (out or err)) == (0 if "-h" in words else 2, True)
