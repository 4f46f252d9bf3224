"""The HTTP client against a scripted server on a UNIX socket, with well-formed, malformed and random replies."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.patience import PATIENCE
from tests.unit.fake_supervisor import RawServer, read_request

from wherry.client import http1
from wherry.client.http1 import NoReplyError, Pool, ProtocolError, TruncatedError

OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def answering(path: Path, *replies: bytes, then_close: bool = True) -> Iterator[Pool]:
    """A pool whose server sends ``replies``, one for each request on each connection."""

    def script(connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            for reply in replies:
                if read_request(stream) is None:
                    return
                connection.sendall(reply)
            if not then_close:
                stream.read(1)

    with RawServer(path, script) as server:
        pool = Pool(server.path)
        yield pool
        pool.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def fetch(path: Path, reply: bytes, method: str = "GET") -> tuple[int, bytes]:
    with answering(path, reply) as pool:
        response = pool.request(method, "/x", timeout=PATIENCE)
        return response.status, response.read()


WELL_FORMED = {
    "content-length": (OK + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    "empty body": (OK + b"Content-Length: 0\r\n\r\n", b""),
    "until close": (OK + b"\r\nabc", b"abc"),
    "until close, 1.0": (b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc"),
    "chunked": (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
    "chunk extension": (OK + b"Transfer-Encoding: CHUNKED\r\n\r\n3;a=b \r\nabc\r\n00\r\n\r\n", b"abc"),
    "no reason phrase": (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", b"a"),
    "header without blank": (OK + b"Content-Length:1\r\n\r\na", b"a"),
    "same length twice": (OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", b"a"),
    "interim reply": (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na", b"a"),
}


@pytest.mark.parametrize(("reply", "body"), WELL_FORMED.values(), ids=WELL_FORMED.keys())
def test_a_well_formed_reply_is_read(path: Path, reply: bytes, body: bytes) -> None:
    assert fetch(path, reply) == (200, body)


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(path: Path, status: int) -> None:
    reply = f"HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n".encode()
    with answering(path, reply, OK + b"Content-Length: 1\r\n\r\na") as pool:
        assert pool.request("GET", "/x").read() == b""
        assert pool.request("GET", "/x").read() == b"a"


def test_the_reply_to_head_has_no_body(path: Path) -> None:
    assert fetch(path, OK + b"Content-Length: 5\r\n\r\n", "HEAD") == (200, b"")


MALFORMED = {
    "not HTTP": (b"220 mail ready\r\n\r\n", "status line"),
    "HTTP/2": (b"HTTP/2 200 OK\r\n\r\n", "status line"),
    "two-digit status": (b"HTTP/1.1 20 OK\r\n\r\n", "status line"),
    "status 999": (b"HTTP/1.1 999 OK\r\n\r\n", "status line"),
    "status with a sign": (b"HTTP/1.1 +20 OK\r\n\r\n", "status line"),
    "bare LF": (b"HTTP/1.1 200 OK\n\n", "CR LF"),
    "no colon": (OK + b"Nonsense\r\n\r\n", "header line"),
    "blank before colon": (OK + b"Content-Length : 1\r\n\r\na", "header line"),
    "empty name": (OK + b": 1\r\n\r\na", "header line"),
    "folded line": (OK + b"A: b\r\n c\r\n\r\n", "header line"),
    "NUL in a value": (OK + b"A: b\0c\r\n\r\n", "header line"),
    "CR in a value": (OK + b"A: b\rc\r\n\r\n", "header line"),
    "two lengths": (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "Content-Length"),
    "negative length": (OK + b"Content-Length: -1\r\n\r\n", "Content-Length"),
    "length with underscore": (OK + b"Content-Length: 1_0\r\n\r\n", "Content-Length"),
    "endless length": (OK + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", "Content-Length"),
    "length and chunked": (
        OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding",
    ),
    "unknown coding": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding"),
    "chunk size no number": (OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "chunk size"),
    "chunk size empty": (OK + b"Transfer-Encoding: chunked\r\n\r\n\r\n", "chunk size"),
    "chunk size with 0x": (OK + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", "chunk size"),
    "chunk too large": (OK + b"Transfer-Encoding: chunked\r\n\r\n40000001\r\n", "chunk of"),
    "chunk longer than said": (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "chunk"),
    "chunk end without CR": (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n", "CR LF"),
    "bad trailer": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nnonsense\r\n\r\n", "trailer line"),
    "switched protocols": (b"HTTP/1.1 101 Upgrade\r\n\r\n", "switched"),
    "endless interim": (b"HTTP/1.1 100 Continue\r\n\r\n" * 20, "interim"),
    "long status line": (b"HTTP/1.1 200 " + b"x" * 9000 + b"\r\n\r\n", "longer than 8192"),
    "endless line": (OK + b"A: " + b"x" * 600_000, "longer than 8192"),
    "too many headers": (OK + b"A: b\r\n" * 101 + b"\r\n", "more than 100 header"),
    "too many trailers": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        "more than 100 trailer",
    ),
}


@pytest.mark.parametrize(("reply", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_reply_is_refused(path: Path, reply: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        fetch(path, reply)


TRUNCATED = {
    "status line": b"HTTP/1.1 20",
    "headers": OK + b"Content-Length: 1\r\n",
    "body": OK + b"Content-Length: 5\r\n\r\nabc",
    "chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
    "chunk end": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc",
    "last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "trailers": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
}


@pytest.mark.parametrize("reply", TRUNCATED.values(), ids=TRUNCATED.keys())
def test_a_truncated_reply_is_told_from_a_whole_one(path: Path, reply: bytes) -> None:
    with pytest.raises(TruncatedError):
        fetch(path, reply)


def test_repeated_headers_are_joined_and_names_are_lower_case(path: Path) -> None:
    with answering(path, OK + b"X-One: a\r\nx-one:  b \r\nContent-Length: 0\r\n\r\n") as pool:
        response = pool.request("GET", "/x")
        assert response.headers["x-one"] == "a, b"
        response.close()


def test_trailers_are_there_after_the_body(path: Path) -> None:
    with answering(path, OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n") as pool:
        response = pool.request("GET", "/x")
        assert response.trailers == {}
        assert response.read() == b"a"
        assert response.trailers == {"x-sum": "7"}


def test_a_body_comes_while_it_is_being_sent(path: Path) -> None:
    seen = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        assert seen.wait(PATIENCE)
        connection.sendall(b"4\r\nlast\r\n0\r\n\r\n")

    with RawServer(path, script) as server:
        response = Pool(server.path).request("GET", "/x", timeout=PATIENCE)
        assert bytes(next(response)) == b"first"
        seen.set()
        assert list(response) == [b"last"]


def test_a_body_above_the_limit_is_refused(path: Path) -> None:
    reply = OK + b"Content-Length: 11\r\n\r\n" + b"x" * 11
    with answering(path, reply) as pool, pytest.raises(ProtocolError, match="larger than 10 bytes"):
        pool.request("GET", "/x").read(limit=10)


def test_a_slow_peer_is_a_timeout(path: Path) -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(OK)
        connection.recv(1)

    with RawServer(path, script) as server, pytest.raises(TimeoutError):
        Pool(server.path).request("GET", "/x", timeout=0.05)


# Connections


def counted(path: Path, script: Callable[[int, socket.socket], None]) -> RawServer:
    numbers = itertools.count()
    return RawServer(path, lambda connection: script(next(numbers), connection))


ONE = OK + b"Content-Length: 1\r\n\r\na"


def test_a_connection_is_used_again(path: Path) -> None:
    def script(connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while read_request(stream):
                connection.sendall(ONE)

    with RawServer(path, script) as server:
        pool = Pool(server.path)
        assert [pool.request(method, "/x").read() for method in ("GET", "POST", "GET")] == [b"a"] * 3
        assert server.connections == 1
        pool.close()


@pytest.mark.parametrize(
    "reply",
    [
        OK + b"Connection: close\r\nContent-Length: 1\r\n\r\na",
        OK + b"Connection: keep-alive, Close\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
        ONE + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb",  # a reply that nobody asked for
    ],
)
def test_a_connection_that_must_not_be_used_again_is_not(path: Path, reply: bytes) -> None:
    with answering(path, reply, then_close=False) as pool:
        assert pool.request("GET", "/x").read() == b"a"
        assert pool.request("GET", "/x").read() == b"a"


def test_a_body_that_was_not_read_costs_its_connection(path: Path) -> None:
    with answering(path, OK + b"Content-Length: 2\r\n\r\nab", then_close=False) as pool:
        response = pool.request("GET", "/x")
        response.close()
        assert list(response) == []
        assert pool.request("GET", "/x").read() == b"ab"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_closed_while_idle_is_replaced(path: Path, method: str) -> None:
    closed = threading.Event()

    def script(number: int, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            read_request(stream)
            connection.sendall(ONE)
            if number == 0:
                connection.shutdown(socket.SHUT_RDWR)
                closed.set()

    with counted(path, script) as server:
        pool = Pool(server.path)
        assert pool.request("GET", "/x").read() == b"a"
        assert closed.wait(PATIENCE)
        assert pool.request(method, "/x").read() == b"a"
        assert server.connections == 2
        pool.close()


def answered_then_gone(path: Path, read_second: bool) -> RawServer:
    """The first connection answers once, and closes when it has seen the next request (read or only waiting)."""

    def script(number: int, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(ONE)
        if number == 0:
            connection.recv(65536 if read_second else 1, 0 if read_second else socket.MSG_PEEK)

    return counted(path, script)


def test_a_get_that_nobody_answered_is_sent_again(path: Path) -> None:
    with answered_then_gone(path, read_second=True) as server:
        pool = Pool(server.path)
        assert [pool.request("GET", "/x").read() for _ in range(2)] == [b"a", b"a"]
        assert server.connections == 2
        pool.close()


def test_a_post_that_was_read_and_not_answered_is_not_sent_again(path: Path) -> None:
    """It may have started a container."""
    with answered_then_gone(path, read_second=True) as server:
        pool = Pool(server.path)
        assert pool.request("GET", "/x").read() == b"a"
        with pytest.raises(NoReplyError):
            pool.request("POST", "/x")
        assert server.connections == 1


def test_a_post_that_was_not_read_is_sent_again(path: Path) -> None:
    """The kernel tells: closing a socket with unread data resets the peer."""
    with answered_then_gone(path, read_second=False) as server:
        pool = Pool(server.path)
        assert pool.request("GET", "/x").read() == b"a"
        assert pool.request("POST", "/x", b"{}").read() == b"a"
        assert server.connections == 2
        pool.close()


def test_a_new_connection_is_not_tried_twice(path: Path) -> None:
    with RawServer(path, lambda connection: connection.close()) as server:
        with pytest.raises(NoReplyError):
            Pool(server.path).request("GET", "/x")
        assert server.connections == 1


def test_an_early_refusal_of_a_large_body_is_seen(path: Path) -> None:
    """A server that answers 413 and closes while the body is still coming: the answer counts, not EPIPE."""

    def script(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    with RawServer(path, script) as server:
        response = Pool(server.path).request("POST", "/x", b"x" * (8 << 20))
        assert (response.status, response.read()) == (413, b"")


def test_threads_share_a_pool(path: Path) -> None:
    def script(connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while request := read_request(stream):
                body = request.raw_target.encode()
                connection.sendall(OK + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    with RawServer(path, script) as server:
        pool = Pool(server.path)
        wrong: list[object] = []

        def ask(thread: int) -> None:
            for number in range(50):
                target = f"/{thread}/{number}"
                answer = pool.request("GET", target, timeout=PATIENCE).read()
                if answer != target.encode():
                    wrong.append((target, answer))

        threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert 1 <= server.connections <= 400
        pool.close()


def test_a_forked_child_opens_a_connection_of_its_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(path, ONE, ONE, then_close=False) as pool:
        assert pool.request("GET", "/x").read() == b"a"
        (kept,) = pool._idle
        monkeypatch.setattr(os, "getpid", lambda: kept.owner + 1)
        assert pool.request("GET", "/x").read() == b"a"
        assert kept not in pool._idle


@pytest.mark.parametrize("target", ["x", "/a b", "/a\r\nX: y", "/ä", "/\x7f"])
def test_a_target_that_would_break_the_request_is_refused(path: Path, target: str) -> None:
    with pytest.raises(ValueError, match="request target"):
        Pool(str(path)).request("GET", target)


# Random replies

SETTINGS = settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
numbers = itertools.count()


def outcome(tmp_path: Path, reply: bytes, cuts: list[int]) -> bytes | type[ProtocolError]:
    """What the client makes of a reply that arrives in pieces."""

    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        for begin, end in itertools.pairwise([0, *sorted(cut % (len(reply) + 1) for cut in cuts), len(reply)]):
            connection.sendall(reply[begin:end])

    with RawServer(tmp_path / str(next(numbers)), script) as server:
        try:
            return Pool(server.path).request("GET", "/x", timeout=PATIENCE).read()
        except ProtocolError as error:
            return type(error)


CUTS = st.lists(st.integers(0, 10_000), max_size=6)


@SETTINGS
@given(reply=st.binary(max_size=200), cuts=CUTS)
@example(reply=b"", cuts=[])
@example(reply=b"HTTP/1.1 ", cuts=[])
def test_random_bytes_are_refused(tmp_path: Path, reply: bytes, cuts: list[int]) -> None:
    assert issubclass(outcome(tmp_path, reply, cuts), ProtocolError)  # type: ignore[arg-type]


@SETTINGS
@given(chunks=st.lists(st.binary(min_size=1, max_size=3000), max_size=8), cuts=CUTS, chunked=st.booleans())
def test_a_body_survives_however_it_is_cut(tmp_path: Path, chunks: list[bytes], cuts: list[int], chunked: bool) -> None:
    body = b"".join(chunks)
    if chunked:
        coded = b"".join(b"%X\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        reply = OK + b"Transfer-Encoding: chunked\r\n\r\n" + coded
    else:
        reply = OK + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    assert outcome(tmp_path, reply, cuts) == body


CHUNKED = OK + b"A: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n"


@SETTINGS
@given(position=st.integers(0, len(CHUNKED) - 1), cuts=CUTS)
def test_a_reply_cut_short_never_passes_for_a_whole_one(tmp_path: Path, position: int, cuts: list[int]) -> None:
    found = outcome(tmp_path, CHUNKED[:position], cuts)
    assert found in {TruncatedError, NoReplyError}


@SETTINGS
@given(position=st.integers(0, len(CHUNKED) - 1), insert=st.binary(min_size=1, max_size=3), drop=st.integers(0, 3))
def test_a_damaged_reply_is_refused_or_read_never_anything_else(
    tmp_path: Path, position: int, insert: bytes, drop: int
) -> None:
    damaged = CHUNKED[:position] + insert + CHUNKED[position + drop :]
    found = outcome(tmp_path, damaged, [])
    assert isinstance(found, bytes) or issubclass(found, ProtocolError)


def test_the_limits_are_those_of_the_documentation() -> None:
    assert (http1.MAX_LINE, http1.MAX_HEADERS, http1.MAX_CHUNK, http1.MAX_BODY) == (8192, 100, 1 << 30, 64 << 20)
