"""Logs and run streams: frames, order, time stamps, backpressure, and clients that leave."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.patience import PATIENCE

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

STREAM = "application/vnd.docker.multiplexed-stream"


def frames(body: bytes) -> list[tuple[int, bytes]]:
    found = []
    while body:
        assert body[1:4] == b"\0\0\0"
        size = int.from_bytes(body[4:8], "big")
        assert len(body) >= 8 + size, "a torn frame"
        found.append((body[0], body[8 : 8 + size]))
        body = body[8 + size :]
    return found


def run(api: Api, *command: str, name: str = "alpha", **fields: Any) -> list[tuple[int, bytes]]:
    body = {"Cmd": list(command), "Wherry": {"Rootfs": "/srv"}, **fields}
    reply = api.request("POST", f"/wherry/run?name={name}&stream=1", body)
    assert (reply.status, reply.headers["Content-Type"]) == (200, STREAM)
    return frames(reply.body)


class Reader:
    """A client that follows a stream chunk by chunk."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.status = self._file.readline()
        while self._file.readline() != b"\r\n":
            pass

    def chunk(self) -> bytes:
        """The next chunk of a chunked body; b"" is its proper end. Raises EOFError when it was cut."""
        size = self._file.readline()
        if not size:
            raise EOFError
        data = self._file.read(int(size, 16) + 2)
        return data[:-2]


@contextlib.contextmanager
def open_stream(api: Api, method: str, path: str, body: bytes = b"") -> Iterator[Reader]:
    with api.connect() as sock:
        head = f"{method} {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        with sock.makefile("rb") as file:  # it keeps the socket open
            yield Reader(file)


def run_body(*command: str, **fields: Any) -> bytes:
    return json.dumps({"Cmd": list(command), "Wherry": {"Rootfs": "/srv"}, **fields}).encode()


def test_a_run_streams_its_output_between_two_status_frames(api: Api) -> None:
    started, *output, ended = run(api, "mixed")
    assert started[0] == ended[0] == 3
    assert json.loads(started[1]) == {
        "Event": "started",
        "Id": api.engine.get("alpha").id,
        "Name": "alpha",
        "Pid": 1000,
    }
    assert output == [(1, b"out\n"), (2, b"err\n")]
    how = {"ExitCode": 3, "Reason": "exited", "Signal": None, "Error": "", "LostBytes": 0}
    assert json.loads(ended[1]) == {"Event": "exited", **how}


def test_a_run_that_is_removed_at_its_end_still_shows_its_output(api: Api) -> None:
    for _ in range(20):  # the name is free as soon as the stream has ended
        _, output, _ = run(api, "echo", "hello", HostConfig={"AutoRemove": True})
        assert output == (1, b"hello\n")
    assert api.engine.entries == {}


def test_started_leaves_before_there_is_any_output(api: Api) -> None:
    with open_stream(api, "POST", "/wherry/run?name=alpha&stream=1", run_body("sleep")) as reader:
        assert reader.status == b"HTTP/1.1 200 OK\r\n"
        assert json.loads(frames(reader.chunk())[0][1])["Event"] == "started"
        log = api.engine.entries["alpha"].log
        for word in (b"a", b"", b"b\n", b"\0\xff" * 40000):
            if word:
                api.call(partial(log.write, 1, word))
                got = b""
                while len(got) < len(word) + 8:
                    got += reader.chunk()
                assert frames(got) == [(1, word)]
        assert api.request("POST", "/containers/alpha/kill?signal=KILL").status == 204
        (ended,) = frames(reader.chunk())
        assert json.loads(ended[1])["Signal"] == 9
        assert reader.chunk() == b""


@pytest.mark.parametrize("auto_remove", [False, True])
def test_a_client_that_leaves_does_not_stop_its_container(api: Api, auto_remove: bool) -> None:
    body = run_body("sleep", HostConfig={"AutoRemove": auto_remove})
    with open_stream(api, "POST", "/wherry/run?name=alpha&stream=1", body) as reader:
        reader.chunk()
    entry = api.engine.entries["alpha"]
    api.until(lambda: entry.log.followers == 0 and not entry.held)
    assert api.engine.get("alpha").state == "running"
    assert api.request("POST", "/containers/alpha/stop").status == 204
    assert ("alpha" in api.engine.entries) is not auto_remove


def test_a_client_that_leaves_while_its_container_starts_leaves_no_hold(api: Api) -> None:
    api.engine.slow = 0.2
    body = run_body("sleep", HostConfig={"AutoRemove": True})
    with api.connect() as sock:
        head = f"POST /wherry/run?name=alpha&stream=1 HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        api.until(lambda: "alpha" in api.engine.entries)
    entry = api.engine.entries["alpha"]
    api.until(lambda: entry.record.state == "running" and not entry.held)
    assert api.request("POST", "/containers/alpha/stop").status == 204
    assert api.engine.entries == {}


def test_logs_shows_what_there_is(api: Api) -> None:
    api.start("alpha", "mixed")
    both = api.request("GET", "/containers/alpha/logs?stdout=1&stderr=1&tail=all")
    assert (both.status, both.headers["Content-Type"]) == (200, STREAM)
    assert frames(both.body) == [(1, b"out\n"), (2, b"err\n")]
    assert frames(api.request("GET", "/containers/alpha/logs?stderr=1").body) == [(2, b"err\n")]
    assert frames(api.request("GET", "/containers/alpha/logs?stdout=True&stderr=False").body) == [(1, b"out\n")]
    assert frames(api.request("GET", "/containers/alpha/logs?stdout=1&stderr=1&tail=1").body) == [(2, b"err\n")]
    assert frames(api.request("GET", "/containers/alpha/logs?stdout=1&stderr=1&tail=-1").body) == frames(both.body)


@pytest.mark.parametrize("follow", ["", "&follow=1"])
@pytest.mark.parametrize("started", [False, True])
def test_logs_of_a_container_that_wrote_nothing_is_an_empty_stream(api: Api, follow: str, started: bool) -> None:
    (api.start if started else api.create)("alpha", "true")
    reply = api.request("GET", f"/containers/alpha/logs?stdout=1{follow}")
    assert (reply.status, reply.headers["Content-Type"], reply.body) == (200, STREAM, b"")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "you must choose at least one stream"),
        ("stdout=0", "you must choose at least one stream"),
        ("stdout=1&tail=ten", "'tail'"),
        ("stdout=1&since=yesterday", "'since'"),
        ("stdout=1&until=1e9", "'until'"),
        ("stdout=1&shiny=1", "'shiny' is not supported"),
    ],
)
def test_logs_refuses_what_it_does_not_understand(api: Api, query: str, message: str) -> None:
    api.start("alpha", "mixed")
    reply = api.request("GET", f"/containers/alpha/logs?{query}")
    assert reply.status == 400
    assert message in reply.json()["message"]


def test_since_and_until_are_exact_to_the_nanosecond(api: Api) -> None:
    api.start("alpha", "mixed")
    moment = api.engine.entries["alpha"].log.chunks[1].wall_ns
    api.engine.entries["alpha"].log.chunks[0] = api.engine.entries["alpha"].log.chunks[0]._replace(wall_ns=moment - 1)
    stamp = f"{moment // 10**9}.{moment % 10**9:09d}"
    assert frames(api.request("GET", f"/containers/alpha/logs?stdout=1&stderr=1&since={stamp}").body) == [(2, b"err\n")]
    before = f"{(moment - 1) // 10**9}.{(moment - 1) % 10**9:09d}"
    assert frames(api.request("GET", f"/containers/alpha/logs?stdout=1&stderr=1&until={before}").body) == [
        (1, b"out\n")
    ]


def test_time_stamps_stand_at_the_beginning_of_every_line(api: Api) -> None:
    api.start("alpha", "true")
    log = api.engine.entries["alpha"].log
    for stream, data in ((1, b"one\ntwo"), (2, b"err\n"), (1, b" and more\n"), (1, b"\n"), (1, b"end")):
        api.call(partial(log.write, stream, data))
    for number, chunk in enumerate(log.chunks):
        log.chunks[number] = chunk._replace(wall_ns=1_700_000_000_000_000_000 + number)
    reply = api.request("GET", "/containers/alpha/logs?stdout=1&stderr=1&timestamps=1")
    t = [b"2023-11-14T22:13:20.00000000%dZ " % number for number in range(5)]
    assert frames(reply.body) == [
        (1, t[0] + b"one\n" + t[0] + b"two"),
        (2, t[1] + b"err\n"),
        (1, b" and more\n"),
        (1, t[3] + b"\n"),
        (1, t[4] + b"end"),
    ]


def test_following_shows_new_output_and_ends_with_the_container(api: Api) -> None:
    api.start("alpha", "sleep")
    log = api.engine.entries["alpha"].log
    with open_stream(api, "GET", "/containers/alpha/logs?stdout=1&follow=1") as reader:
        assert reader.status == b"HTTP/1.1 200 OK\r\n"  # though there is nothing to show yet
        for word in (b"one\n", b"two\n"):
            api.call(partial(log.write, 1, word))
            assert frames(reader.chunk()) == [(1, word)]
        api.request("POST", "/containers/alpha/stop")
        assert reader.chunk() == b""


def test_a_follower_that_leaves_is_noticed(api: Api) -> None:
    api.start("alpha", "sleep")
    log = api.engine.entries["alpha"].log
    with open_stream(api, "GET", "/containers/alpha/logs?stdout=1&follow=1"):
        api.until(lambda: log.followers == 1)
    api.until(lambda: log.followers == 0)


def test_a_follower_that_does_not_read_holds_little_and_nobody_up(api: Api) -> None:
    api.start("alpha", "sleep")
    log = api.engine.entries["alpha"].log
    log.endless = b"x" * 65536
    pulled = 0

    class Counting(bytes):
        def __len__(self) -> int:
            nonlocal pulled
            pulled += 1
            return super().__len__()

    log.endless = Counting(log.endless)
    with open_stream(api, "GET", "/containers/alpha/logs?stdout=1&follow=1"):
        api.until(lambda: log.followers == 1)
        count = -1
        while count != pulled:  # until it stands still
            count = pulled
            for _ in range(20):
                assert api.request("GET", "/_ping").status == 200
            time.sleep(0.05)
        assert pulled < 64  # 64 KiB each, a few len() each: what the kernel and asyncio buffer, and one more
    api.until(lambda: log.followers == 0)


def test_a_fast_follower_leaves_the_others_their_turn(api: Api) -> None:
    api.start("alpha", "sleep")
    log = api.engine.entries["alpha"].log
    log.endless = b"x" * 65536
    stop = threading.Event()

    def drain() -> None:
        with api.connect() as sock:
            sock.sendall(b"GET /containers/alpha/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n")
            while not stop.is_set():
                sock.recv(1 << 20)

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        api.until(lambda: log.followers == 1)
        for _ in range(20):
            assert api.request("GET", "/_ping").status == 200
    finally:
        stop.set()
        thread.join()
    api.until(lambda: log.followers == 0)


def test_a_stream_that_breaks_is_cut_and_not_ended(api: Api) -> None:
    api.start("alpha", "sleep")
    log = api.engine.entries["alpha"].log
    with open_stream(api, "GET", "/containers/alpha/logs?stdout=1&follow=1") as reader:
        api.call(lambda: log.write(1, b"one\n"))
        assert reader.chunk()
        api.call(lambda: log.write(1, None))  # type: ignore[arg-type]
        with pytest.raises(EOFError):
            reader.chunk()
    assert api.request("GET", "/_ping").status == 200


def test_http_1_0_clients_read_until_the_connection_closes(api: Api) -> None:
    api.start("alpha", "mixed")
    reply = api.raw(b"GET /containers/alpha/logs?stdout=1&stderr=1&follow=1 HTTP/1.0\r\n\r\n")
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert frames(body) == [(1, b"out\n"), (2, b"err\n")]


@pytest.mark.parametrize("reads", [True, False])
def test_close_ends_followers_within_its_bound(api: Api, reads: bool) -> None:
    api.start("alpha", "sleep")
    log = api.engine.entries["alpha"].log
    if not reads:
        log.endless = b"x" * 65536
    with open_stream(api, "GET", "/containers/alpha/logs?stdout=1&follow=1") as reader:
        api.until(lambda: log.followers == 1)
        api.do(api.server.close(1))  # what does not end would run into the time limit
        if reads:
            assert reader.chunk() == b""  # a proper end
    with pytest.raises(FileNotFoundError):
        api.connect()


def test_close_lets_a_run_whose_container_is_stopping_say_how_it_ended(api: Api) -> None:
    with open_stream(api, "POST", "/wherry/run?name=alpha&stream=1", run_body("sleep")) as reader:
        reader.chunk()
        closing = threading.Thread(target=lambda: api.do(api.server.close(PATIENCE)))
        closing.start()
        api.until(lambda: api.server._lifetime.closing)
        api.do(api.engine.stop("alpha"))
        assert json.loads(frames(reader.chunk())[0][1])["Reason"] == "stopped"
        assert reader.chunk() == b""
        closing.join()


def test_close_waits_for_a_start_under_way(api: Api) -> None:
    api.engine.slow = 0.2
    api.create("alpha", "sleep")
    with api.connect() as sock:
        sock.sendall(b"POST /containers/alpha/start HTTP/1.1\r\nHost: d\r\n\r\n")
        api.until(lambda: len(api.server._lifetime._work) == 1)
        api.do(api.server.close(PATIENCE))
        assert sock.recv(65536).startswith(b"HTTP/1.1 204")
        assert sock.recv(65536) == b""
    assert api.engine.get("alpha").state == "running"
