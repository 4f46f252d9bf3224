"""``engine exec``: its words, and what it asks for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.cli.conftest import Engine
from tests.unit.fake_supervisor import FakeSupervisor, Request, exited, failure, frame

from wherry.client import Client
from wherry.errors import Conflict, InvalidRequest


def test_i_asks_for_input_and_others_do_not(fake: FakeSupervisor, engine: Engine) -> None:
    bodies = []

    def handler(request: Request) -> Iterator[bytes]:
        bodies.append((request.json.get("AttachStdin"), request.headers.get("upgrade")))
        stream = frame(1, b"out\n") + exited(7)
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(stream) + stream

    fake.on("POST", "/wherry/exec", handler)
    assert engine("exec", "c", "cat", "-i") == (7, "out\n", "")
    assert engine("exec", "-i", "c", "cat") == (7, "out\n", "")
    assert engine("exec", "--interactive", "c", "cat")[0] == 7
    assert bodies == [(None, None), (True, "tcp"), (True, "tcp")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-i -d c cat", "-i and -d exclude each other: nobody would feed it"),
        ("-id c cat", "-i and -d exclude each other: nobody would feed it"),
        ("-it c cat", "a terminal (-t) is not supported yet"),
        ("-t c cat", "a terminal (-t) is not supported yet"),
        ("-i c", "COMMAND is missing"),
    ],
)
def test_refusals(fake: FakeSupervisor, engine: Engine, words: str, message: str) -> None:
    code, out, err = engine("exec", *words.split())
    assert (code, out, message in err) == (125, "", True)
    assert fake.connections == 0


def test_a_container_that_has_ended(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("POST", "/wherry/exec", failure(409, Conflict.code, "container c is not running"))
    assert engine("exec", "-i", "c", "cat") == (125, "", "engine: container c is not running\n")


def test_what_is_no_input_is_refused_before_anything_is_sent(fake: FakeSupervisor) -> None:
    with Client(str(fake.path)) as client, pytest.raises(InvalidRequest, match=r"^input: expected bytes"):
        client.exec("c", ["cat"], input=7)  # type: ignore[arg-type]
    assert fake.connections == 0
