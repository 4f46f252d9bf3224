"""Errors as the client raises them: those that the supervisor tells of, and replies that make no sense."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.fake_supervisor import FakeSupervisor, failure, frame, reply, status_frame, streaming

from wherry import Client, errors

ERRORS = [
    (404, "not_found", errors.NotFound),
    (409, "name_in_use", errors.NameInUse),
    (409, "conflict", errors.Conflict),
    (400, "not_supported", errors.NotSupported),
    (500, "start_failed", errors.StartFailed),
    (400, "command_not_found", errors.CommandNotFound),
    (400, "not_executable", errors.NotExecutable),
    (500, "from_a_newer_supervisor", errors.InternalError),
]


@pytest.mark.parametrize(("status", "code", "kind"), ERRORS)
def test_an_error_keeps_its_kind_and_message(
    fake: FakeSupervisor, client: Client, status: int, code: str, kind: type[errors.WherryError]
) -> None:
    fake.on("POST", "/wherry/run", failure(status, code, "what happened"))
    for call in (client.run, client.start):
        with pytest.raises(kind) as raised:
            call("a", "/r", ["x"])
        assert (type(raised.value), str(raised.value)) == (kind, "what happened")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, errors.InvalidRequest), (404, errors.NotFound), (409, errors.Conflict), (500, errors.InternalError)],
)
def test_without_our_code_the_status_tells(
    fake: FakeSupervisor, client: Client, status: int, kind: type[errors.WherryError]
) -> None:
    fake.on("GET", "/info", reply({"message": "from docker"}, status))
    with pytest.raises(kind, match="from docker"):
        client.info()


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"message"', b"\xff", b"[" * 50_000])
def test_an_error_without_sense_shows_its_status(fake: FakeSupervisor, client: Client, body: bytes) -> None:
    head = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n" % len(body)
    fake.on("GET", "/info", lambda _: [head + body])
    with pytest.raises(errors.InternalError, match="502 Bad Gateway"):
        client.info()


SENSELESS: list[tuple[str, Callable[[Client], object], object]] = [
    ("/containers/json", Client.ps, [{"Id": "x"}]),
    ("/containers/json", Client.ps, {"Id": "x"}),
    ("/containers/json", Client.ps, 5),
    ("/info", Client.info, []),
    ("/version", Client.version, None),
    ("/containers/a/json", lambda client: client.inspect("a"), "x"),
]


@pytest.mark.parametrize(("path", "call", "value"), SENSELESS)
def test_a_reply_of_another_shape_is_an_error_of_the_supervisor(
    fake: FakeSupervisor, client: Client, path: str, call: Callable[[Client], object], value: object
) -> None:
    fake.on("GET", path, reply(value))
    with pytest.raises(errors.InternalError, match="supervisor's reply"):
        call(client)


@pytest.mark.parametrize("fields", [{"Name": "a"}, [], 5])
def test_a_started_container_without_a_pid_is_an_error(fake: FakeSupervisor, client: Client, fields: object) -> None:
    fake.on("POST", "/wherry/run", reply(fields, 201))
    with pytest.raises(errors.InternalError, match="makes no sense"):
        client.start("a", "/r", ["x"])


def test_a_reply_that_is_not_http_is_an_error(fake: FakeSupervisor, client: Client) -> None:
    fake.on("GET", "/info", lambda _: [b"220 mail ready\r\n"])
    with pytest.raises(errors.InternalError, match="no sensible reply"):
        client.info()


def test_a_stream_with_a_broken_status_is_an_error(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/wherry/run", streaming([frame(3, b"{")]))
    with pytest.raises(errors.InternalError, match="not JSON"):
        client.run("a", "/r", ["x"])
    fake.on("POST", "/wherry/run", streaming([status_frame(Event="exited")]))
    with pytest.raises(errors.InternalError, match="makes no sense"):
        client.run("a", "/r", ["x"])
