"""A scripted HTTP server on a real UNIX socket, for the tests of the client and of the command line.

``RawServer`` hands every connection to a function; ``FakeSupervisor`` parses requests and answers each with what the
test put on its path. Both are threads with blocking sockets, and share no code with what they test.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote


class RawServer:
    """Runs ``script`` on every connection, in a thread of its own; an exception in it fails the test at the end."""

    def __init__(self, path: Path, script: Callable[[socket.socket], None]) -> None:
        self.path = str(path)
        self.connections = 0
        self.failures: list[BaseException] = []
        self._script = script
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(5)
        self._listener.close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        if kind is None and self.failures:
            raise self.failures[0]

    def open_connections(self) -> list[socket.socket]:
        return list(self._open)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._script(connection)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client may leave when it likes
            except BaseException as failure:
                self.failures.append(failure)
            finally:
                self._open.discard(connection)


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # decoded, without the query
    raw_target: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Handler = Callable[[Request], Iterable[bytes]]


def read_request(stream: Any) -> Request | None:
    line = stream.readline()
    if not line:
        return None
    method, target, version = line.decode("ascii").rstrip("\r\n").split(" ")
    assert version == "HTTP/1.1"
    headers = {}
    while (line := stream.readline()) != b"\r\n":
        assert line.endswith(b"\r\n"), line
        name, _, value = line.decode("ascii").rstrip("\r\n").partition(": ")
        headers[name.lower()] = value
    assert "host" in headers  # RFC 9112, section 3.2: a request without one is refused
    body = stream.read(int(headers.get("content-length", "0")))
    path, _, query = target.partition("?")
    return Request(method, unquote(path), target, dict(parse_qsl(query, keep_blank_values=True)), headers, body)


def reply(value: object, status: int = 200) -> Handler:
    """A JSON reply with a Content-Length."""
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return lambda _: [head.encode() + body]


def empty(status: int = 204) -> Handler:
    return lambda _: [f"HTTP/1.1 {status} Whatever\r\n\r\n".encode()]


def failure(status: int, code: str, message: str) -> Handler:
    return reply({"message": message, "code": code}, status)


def streaming(pieces: Iterable[bytes] | Callable[[Request], Iterable[bytes]]) -> Handler:
    """A chunked reply with one chunk for each piece."""

    def handler(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for piece in pieces(request) if callable(pieces) else pieces:
            yield b"%x\r\n%s\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"

    return handler


def frame(kind: int, data: bytes) -> bytes:
    return bytes([kind, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def status_frame(**fields: object) -> bytes:
    return frame(3, json.dumps(fields).encode())


def started(name: str = "alpha", pid: int = 1234) -> bytes:
    return status_frame(Event="started", Id="ab" * 32, Name=name, Pid=pid)


def exited(code: int | None = 0, reason: str = "exited", signal: int | None = None, error: str = "") -> bytes:
    return status_frame(Event="exited", ExitCode=code, Reason=reason, Signal=signal, Error=error)


def entry(name: str, **ours: object) -> dict[str, object]:
    """One container of ``GET /containers/json``; ``ours`` are fields of the object "Wherry"."""
    view = {
        "Name": name,
        "State": "running",
        "Reason": "",
        "ExitCode": None,
        "Signal": None,
        "Error": "",
        "Pid": 4321,
        "Created": "2026-01-31T10:00:00.000000001Z",
        "Started": "2026-01-31T10:00:01.123456789Z",
        "Finished": "",
        "SoftLimit": None,
        "HardLimit": None,
        "Nice": 0,
        "Rootfs": "/srv/rootfs",
        "Command": ["/bin/sleep", "60"],
        "LogPath": f"/var/lib/wherry/logs/{name}.log",
        "LogError": "",
        "PeakMemory": None,
        "PeakPids": None,
        **ours,
    }
    docker = {
        "Id": (name.encode().hex() * 64)[:64],
        "Names": [f"/{name}"],
        "Created": 1769853600,
        "State": view["State"],
    }
    return {**docker, "Wherry": view}


@dataclass
class FakeSupervisor:
    """Answers by method and path; ``requests`` has what came, in order. Unknown paths get docker's 404."""

    path: Path
    handlers: dict[tuple[str, str], Handler] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._server = RawServer(self.path, self._serve)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    @property
    def connections(self) -> int:
        return self._server.connections

    def connected(self) -> list[socket.socket]:
        """The supervisor's ends of the connections that are open."""
        return self._server.open_connections()

    def on(self, method: str, path: str, handler: Handler) -> None:
        self.handlers[method, path] = handler

    def asked(self, method: str, path: str) -> Request:
        """The one request of that kind; fails when there were none or several."""
        (found,) = [request for request in self.requests if (request.method, request.path) == (method, path)]
        return found

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while (request := read_request(stream)) is not None:
                self.requests.append(request)
                unknown = failure(404, "not_found", "page not found")
                for data in self.handlers.get((request.method, request.path), unknown)(request):
                    connection.sendall(data)
