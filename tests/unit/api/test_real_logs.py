"""Streams over logs as they are captured in earnest: pipes, files, the capture thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from tests.patience import PATIENCE

from wherry import logs
from wherry.api.handlers import log_streams
from wherry.api.http.file_sender import Outlet

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api
    from tests.unit.api.fake_log import FakeLog

LINE = b"%09d and some words that make the line longer\n"


class Writer:
    """Plays a container that writes, into a real log that stands in for the fake one."""

    def __init__(self, capture: logs.Pipeline, path: Path) -> None:
        self.log = logs.Log(path, "0" * 64)
        self.log.create()
        self.ended = threading.Event()
        out, self.stdout = os.pipe2(os.O_CLOEXEC)
        err, self.stderr = os.pipe2(os.O_CLOEXEC)
        capture.add(self.log, out, err, self.ended.set)

    def end(self) -> None:
        os.close(self.stdout)
        os.close(self.stderr)
        assert self.ended.wait(PATIENCE)


@pytest.fixture
def writer(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    monkeypatch.setattr(log_streams, "logs", logs)
    api.start("alpha", "sleep")
    with logs.Pipeline() as capture:
        writer = Writer(capture, tmp_path / "alpha.log")
        api.engine.entries["alpha"].log = cast("FakeLog", writer.log)
        yield writer


def output(body: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {1: b"", 2: b""}
    parts: dict[int, list[bytes]] = {1: [], 2: []}
    position = 0
    while position < len(body):
        size = int.from_bytes(body[position + 4 : position + 8], "big")
        parts[body[position]].append(body[position + 8 : position + 8 + size])
        position += 8 + size
    for stream in found:
        found[stream] = b"".join(parts[stream])
    return found


def test_every_byte_arrives_once_and_in_order(api: Api, writer: Writer) -> None:
    lines = b"".join(LINE % number for number in range(200_000))
    replies: list[Any] = []
    path = "/containers/alpha/logs?stdout=1&stderr=1&follow=1"
    followers = [threading.Thread(target=lambda: replies.append(api.request("GET", path))) for _ in range(3)]
    for follower in followers:
        follower.start()
    view = memoryview(lines)
    while view:
        view = view[os.write(writer.stdout, view[:100_000]) :]
        os.write(writer.stderr, b"e")
    writer.end()
    for follower in followers:
        follower.join(30)
    replies.append(api.request("GET", "/containers/alpha/logs?stdout=1&stderr=1"))
    assert len(replies) == 4
    for reply in replies:
        assert reply.status == 200
        found = output(reply.body)
        assert found[1] == lines
        assert set(found[2]) == set(b"e")


def test_tail_and_time_stamps(api: Api, writer: Writer) -> None:
    os.write(writer.stdout, b"one\ntwo\nthree\n")
    writer.end()
    assert output(api.request("GET", "/containers/alpha/logs?stdout=1&tail=2").body)[1] == b"two\nthree\n"
    stamped = output(api.request("GET", "/containers/alpha/logs?stdout=1&timestamps=1").body)[1]
    assert [line.partition(b" ")[2] for line in stamped.splitlines()] == [b"one", b"two", b"three"]
    assert output(api.request("GET", "/containers/alpha/logs?stdout=1&since=4000000000").body)[1] == b""


def test_a_log_that_is_gone_is_a_404_and_not_a_fault(api: Api, writer: Writer) -> None:
    writer.end()
    writer.log.remove()
    assert api.request("GET", "/containers/alpha/logs?stdout=1").status == 404


def test_a_reader_that_stalls_gets_what_it_was_promised_from_a_log_that_is_truncated(
    api: Api, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = threading.Event()
    real = Outlet._writable

    async def wait(outlet: Outlet) -> None:
        stalled.set()
        await real(outlet)

    monkeypatch.setattr(Outlet, "_writable", wait)
    lines = b"".join(LINE % number for number in range(300_000))  # far more than a socket buffer takes
    view = memoryview(lines)
    while view:
        view = view[os.write(writer.stdout, view[:100_000]) :]
    writer.end()
    with api.connect() as sock, sock.makefile("rb") as file:
        sock.sendall(b"GET /containers/alpha/logs?stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
        assert file.readline().startswith(b"HTTP/1.1 200")
        while file.readline() != b"\r\n":
            pass
        assert stalled.wait(PATIENCE)
        assert api.request("GET", "/_ping").status == 200  # the others are served
        os.truncate(writer.log.path, 0)
        body = b""
        while size := int(file.readline(), 16):
            body += file.read(size)
            assert file.read(2) == b"\r\n"
    shown = output(body)[1]  # whole frames
    assert 0 < len(shown) < len(lines)
    assert lines.startswith(shown)
