"""The API server in front of the engine of ``fake_engine.py``.

The server runs on an event loop in a thread of its own, and tests talk to it over the real socket.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import http.client
import json
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from tests.patience import PATIENCE
from tests.unit.api.fake_engine import FakeEngine
from tests.unit.api.fake_log import FAKE_LOGS
from tests.waiting import wait_until

from wherry.api import needs
from wherry.api.handlers import log_streams
from wherry.api.server import Server, serve

T = TypeVar("T")
ROOTFS = "/srv/rootfs"


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("wherry", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


class Api:
    """The running server, its engine, and a client for it."""

    def __init__(self, path: str, engine: FakeEngine, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        self.path = path
        self.engine = engine
        self.loop = loop
        self.server = server

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, run on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def call(self, function: Callable[[], T]) -> T:
        async def work() -> T:
            return function()

        return self.do(work())

    def connect(self) -> socket.socket:
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(PATIENCE)
            sock.connect(self.path)
            undo.pop_all()
            return sock

    def raw(self, data: bytes) -> bytes:
        """Everything the server says to ``data`` until it closes the connection."""
        with self.connect() as sock:
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(data)
            return b"".join(iter(lambda: sock.recv(65536), b""))

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        connection = UnixConnection(self.path)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with contextlib.closing(connection):
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())

    def create(self, name: str, *command: str, **fields: Any) -> str:
        """Create a container, return its id."""
        reply = self.request("POST", f"/containers/create?name={name}", config(*command, **fields))
        assert reply.status == 201, reply.body
        return str(reply.json()["Id"])

    def start(self, name: str, *command: str, **fields: Any) -> str:
        container_id = self.create(name, *command, **fields)
        assert self.request("POST", f"/containers/{name}/start").status == 204
        return container_id

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to become true on the server's loop."""
        wait_until(lambda: self.call(condition))


def config(*command: str, **fields: Any) -> dict[str, Any]:
    return {"Cmd": list(command or ("true",)), "Wherry": {"Rootfs": ROOTFS}, **fields}


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """A directory whose path is short enough for a socket; tmp_path need not be."""
    with tempfile.TemporaryDirectory(prefix="wherry-") as directory:
        yield Path(directory)


@pytest.fixture
def api(socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(log_streams, "logs", FAKE_LOGS)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    engine = FakeEngine()
    port: needs.Engine = engine
    path = str(socket_dir / "engine.sock")
    server = asyncio.run_coroutine_threadsafe(serve(port, path), loop).result(20)
    try:
        yield Api(path, engine, loop, server)
        asyncio.run_coroutine_threadsafe(server.close(1), loop).result(20)
        left = asyncio.run_coroutine_threadsafe(_other_tasks(), loop).result(20)
        assert not left, f"left running: {left}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _other_tasks() -> builtins.list[asyncio.Task[Any]]:
    await asyncio.sleep(0.01)  # cancelled tasks get their turn to end
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
