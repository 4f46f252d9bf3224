"""Clients that mean harm or do not know better get an answer or a closed connection; the others are served."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from tests.patience import PATIENCE

from wherry.api.http import bodies, connection

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

CREATE = b"POST /containers/create?name=x HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"


@pytest.fixture(autouse=True)
def serves_on(api: Api) -> Iterator[None]:
    """After each attack the server still serves, no container is there and no connection is left."""
    yield
    assert api.request("GET", "/_ping").status == 200
    assert api.engine.entries == {}
    api.until(lambda: len(api.server._http.transports) == 0)


def message(reply: bytes) -> str:
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"application/json" in head
    text = json.loads(body)["message"]
    assert text.isprintable()
    return str(text)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("cut", [0, 1, 10, 40, len(CREATE) + 10, len(CREATE) + 30])
def test_a_truncated_request_changes_nothing(api: Api, cut: int) -> None:
    body = b'{"Cmd":["true"],"Wherry":{"Rootfs":"/srv"}}'
    request = CREATE + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with api.connect() as sock:
        sock.sendall(request[:cut])
        sock.shutdown(socket.SHUT_WR)
        sock.recv(65536)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 50,
        b"GET\r\n\r\n",
        b"GET /_ping HTTP/9.9\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nBad Header: x\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: a\0b\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: -1\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        CREATE + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: " + b"a" * 20000 + b"\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: d\r\n" + b"X: a\r\n" * 100 + b"\r\n",
    ],
)
def test_what_is_not_http_is_answered_with_400_and_closed(api: Api, garbage: bytes) -> None:
    reply = api.raw(garbage)
    assert reply.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert message(reply).startswith("malformed HTTP request")


def test_garbage_behind_a_good_request(api: Api) -> None:
    with api.connect() as sock:
        sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        assert sock.recv(65536).endswith(b"OK")
        sock.sendall(b"\x01\x02garbage\r\n\r\nGET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        assert b" 400 " in sock.recv(65536)
        assert sock.recv(65536) == b""


def test_pipelined_requests_are_answered_in_order(api: Api) -> None:
    paths = [b"/nothing/%d" % number if number % 2 else b"/_ping" for number in range(200)]
    requests = b"".join(b"GET %s HTTP/1.1\r\nHost: d\r\n\r\n" % path for path in paths)
    reply = api.raw(requests + b"GET /version HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", reply)
    assert statuses == [b"404" if number % 2 else b"200" for number in range(200)] + [b"200"]


def _drip(sock: socket.socket) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        sock.sendall(b"G")
        time.sleep(0.05)


def test_a_head_that_drips_is_cut_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with api.connect() as sock, pytest.raises((BrokenPipeError, ConnectionResetError)):
        _drip(sock)


def test_a_quiet_connection_is_not_cut_off_as_slow(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
    with api.connect() as sock:
        for _ in range(2):
            time.sleep(0.3)
            sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
            assert sock.recv(65536).endswith(b"OK")


def test_a_body_that_drips_is_answered_with_408(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    reply = api.raw(CREATE + b"Content-Length: 100\r\n\r\n{")
    assert reply.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_100_mib_is_refused_in_bounded_memory(api: Api, announced: bool) -> None:
    block = b" " * (1 << 20)
    before = resident()
    with api.connect() as sock:
        if announced:
            sock.sendall(CREATE + b"Content-Length: %d\r\n\r\n" % (100 << 20))
        else:
            sock.sendall(CREATE + b"Transfer-Encoding: chunked\r\n\r\n")
            block = b"100000\r\n" + block + b"\r\n"
        try:
            for _ in range(100):
                sock.sendall(block)
        except (BrokenPipeError, ConnectionResetError):
            pass
        reply = b""
        while data := sock.recv(65536):
            reply += data
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in reply
    assert "larger than 4194304 bytes" in message(reply)
    assert resident() - before < 30 << 20


def test_an_announced_body_is_refused_before_it_is_asked_for(api: Api) -> None:
    with api.connect() as sock:
        sock.sendall(CREATE + b"Expect: 100-continue\r\nContent-Length: 104857600\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_waits_for_a_go_ahead_gets_it(api: Api) -> None:
    with api.connect() as sock:
        sock.sendall(CREATE + b"Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n")
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"{}")
        assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} {}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"Cmd":["\xff"]}',
        b'{"Cmd":["\\ud800"]}',
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"StopTimeout":' + b"9" * 5000 + b"}",
        b'{"StopTimeout":1e999}',
        b'{"Cmd":["true\\u0000"],"Wherry":{"Rootfs":"/srv"}}',
        b'{"Cmd":["true"],"Wherry":{"Rootfs":"/srv\\u0000"}}',
    ],
)
def test_bad_json_is_a_400(api: Api, body: bytes) -> None:
    reply = api.request("POST", "/containers/create?name=x", body)
    assert reply.status == 400
    assert reply.json()["message"].isprintable()


def test_other_bodies_than_json_are_refused(api: Api) -> None:
    body = b'{"Cmd":["true"],"Wherry":{"Rootfs":"/srv"}}'
    kind = api.request("POST", "/containers/create", body, {"Content-Type": "text/plain"})
    assert (kind.status, "must be 'application/json'" in kind.json()["message"]) == (400, True)
    coding = api.request("POST", "/containers/create", body, {"Content-Encoding": "gzip"})
    assert coding.status == 415


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("//", 404),
        ("/nothing", 404),
        ("/v1.41", 404),
        ("/v1.41/", 404),
        ("/v1.41/v1.41/_ping", 404),
        ("/_ping/", 404),
        ("/containers", 404),
        ("/containers//json", 404),
        ("/containers/json/", 404),
        ("/containers/%2e%2e/json", 404),
        ("/containers/..%2f..%2fetc/json", 404),
        ("/containers/a%2Fb/json", 404),
        ("/containers/a%00b/json", 404),
        ("/containers/a%0d%0aX-Evil:%201/json", 404),
        ("/containers/" + "a" * 129 + "/json", 404),
        ("/containers/%F0%9F%92%A9/json", 404),
        ("/containers/%ff/json", 400),
        ("/containers/x%", 405),
        ("/containers/json?all=1&all=0", 400),
        ("/containers/json?all=%ff", 400),
        ("/containers/json?filters=%00", 400),
        ("/containers/json?" + "&".join(f"a{number}=" for number in range(100)), 400),
        ("/_ping?x=1", 200),
    ],
)
def test_strange_paths(api: Api, path: str, status: int) -> None:
    reply = api.request("GET", path)
    assert reply.status == status
    if status != 200:
        assert reply.json()["message"].isprintable()


@pytest.mark.parametrize(
    "name", ["..", ".", "a/b", "a%0ab", "a%00b", "%1b[31m", "-a", "_a", "a" * 129, "%C3%A9", "a b"]
)
def test_bad_names_are_refused_and_not_echoed_raw(api: Api, name: str) -> None:
    reply = api.request("POST", f"/containers/create?name={name.replace(' ', '+')}", {"Wherry": {}})
    assert reply.status == 400
    text = reply.json()["message"]
    assert text.startswith(("invalid container name (", "query parameter 'name' contains a NUL byte"))
    assert text.isprintable()


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/_ping"), ("PUT", "/containers/json"), ("GET", "/containers/x/start"), ("PATCH", "/version")],
)
def test_wrong_methods_are_a_405(api: Api, method: str, path: str) -> None:
    assert api.request(method, path).status == 405


@pytest.mark.parametrize(
    "path",
    ["/containers/x?link=1", "/containers/x?force=1&force=0", "/containers/x?force=%00", "/containers/x?shiny=1"],
)
def test_a_change_is_refused_when_part_of_it_is_not_understood(api: Api, path: str) -> None:
    assert api.request("DELETE", path).status == 400
    assert api.request("DELETE", "/containers/x?v=False&link=False&force=False").status == 404


def test_start_does_not_take_a_configuration(api: Api) -> None:
    assert api.request("POST", "/containers/x/start", {"Binds": ["/:/host"]}).status == 400
    assert api.request("POST", "/containers/x/start", {}).status == 404


STRANGER = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sys.stdout.buffer.write(sock.recv(65536))
"""


@pytest.mark.root
def test_a_client_of_another_user_is_refused(api: Api) -> None:
    os.chmod(os.path.dirname(api.path), 0o755)
    os.chmod(api.path, 0o666)
    command = [sys.executable, "-c", STRANGER, api.path]
    reply = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True).stdout
    assert reply.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert "uid 65534" in message(reply)


def test_more_connections_than_allowed_are_turned_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 3)
    held = [api.connect() for _ in range(3)]
    api.until(lambda: len(api.server._http.transports) == 3)
    with api.connect() as sock:
        assert sock.recv(65536).startswith(b"HTTP/1.1 503 ")
    for sock in held:
        sock.close()
    api.until(lambda: len(api.server._http.transports) == 0)


def test_resets_in_the_middle_of_everything(api: Api) -> None:
    body = b'{"Cmd":["missing"],"Wherry":{"Rootfs":"/srv"}}'
    whole = CREATE.replace(b"/containers/create", b"/wherry/run") + b"Content-Length: %d\r\n\r\n" % len(body) + body
    for cut in range(1, len(whole) + 1, 7):
        sock = api.connect()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(whole[:cut])
        sock.close()


SEEDS = (
    CREATE.replace(b"/containers/create?", b"/wherry/run?stream=1&")
    + b'Content-Length: 46\r\n\r\n{"Cmd":["missing"],"Wherry":{"Rootfs":"/srv"}}',
    b"GET /v1.41/containers/json?all=1&filters=%7B%22name%22%3A%5B%22x%22%5D%7D HTTP/1.1\r\nHost: d\r\n\r\n",
    b"GET /containers/x/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n",
    b"POST /containers/x/wait HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /containers/x/stop?t=1 HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
)


def _mutated(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(SEEDS) + chance.choice((b"", *SEEDS)))
    for _ in range(chance.randint(0, 6)):
        place = chance.randrange(len(data))
        size = chance.randint(1, 8)
        data[place : place + chance.choice((0, size))] = chance.choice((b"", chance.randbytes(size), data[:size]))
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_requests_raise_nothing(api: Api, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        with api.connect() as sock, contextlib.suppress(OSError):
            sock.settimeout(0.002)  # some of them wait for more
            sock.sendall(_mutated(chance))
            sock.recv(65536)
    api.until(lambda: not api.server._http.transports)
    assert [entry for entry in caplog.records if entry.levelname not in ("DEBUG", "INFO")] == []
