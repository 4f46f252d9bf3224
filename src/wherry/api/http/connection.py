"""One client's connection: who may connect, and how long it may take to say what it wants.

aiohttp bounds the size of a request's head and how much is pipelined; what it has no limit for is added here.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web

from wherry.api.http.input import Input
from wherry.api.http.peers import Peers
from wherry.api.http.replies import JSON, Replies, TooManyConnectionsError, encode
from wherry.errors import InternalError, InvalidRequest, WherryError, printable

_log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
"""From a request's first byte to the end of its head."""
IDLE_SECONDS = 600.0
"""How long a connection may stay open between requests."""
LINGER_SECONDS = 2.0
"""How long the rest of a body that nobody wants is read and thrown away, so that the client gets to read its answer."""
MAX_HEAD = 16 * 1024
"""Bytes in the request line, and in one header field."""
MAX_HEADERS = 64
MAX_CONNECTIONS = 1024


class HttpServer(web.Server):
    """aiohttp's low-level server with connections of our kind."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], replies: Replies, peers: Peers
    ) -> None:
        # the handler is cancelled when its client goes: nobody waits for the end of a container in vain
        super().__init__(self._handle, handler_cancellation=True)
        self._handler = handler
        self.replies = replies
        self.peers = peers
        self.transports: set[asyncio.Transport] = set()

    def __call__(self) -> Connection:
        return Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,
            tcp_keepalive=False,
            keepalive_timeout=IDLE_SECONDS,
            max_line_size=MAX_HEAD,
            max_field_size=MAX_HEAD,
            max_headers=MAX_HEADERS,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
        )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast(Connection, request.protocol)
        connection.request_begins()
        try:
            return await self._handler(request)
        finally:
            connection.request_ends()

    def abort(self) -> None:
        """Drop all connections that are left, with what their clients have not read."""
        for transport in tuple(self.transports):
            transport.abort()


class HangUp:
    """Calls back once when the peer of a socket has closed both halves; close() it before the socket."""

    def __init__(self, fd: int, callback: Callable[[], object]) -> None:
        self._epoll = select.epoll()
        self._epoll.register(fd, 0)  # EPOLLHUP and EPOLLERR are always told (epoll_ctl(2))
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), callback)

    def close(self) -> None:
        if not self._epoll.closed:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()


class Connection(web.RequestHandler):
    __slots__ = ("_busy", "_deadline", "_hang_up", "_input", "_is_stream", "_refused", "_server", "_transport")

    def __init__(self, server: HttpServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._busy = False
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._hang_up: HangUp | None = None
        self._is_stream = False
        self._input: Input | None = None

    def becomes_stream(self) -> None:
        """From here on the client speaks no HTTP: what it sends is thrown away."""
        self._is_stream = True

    def hands_on_input(self) -> Input:
        """From here on the client speaks no HTTP, and this is what it sends. Raises ConnectionResetError.

        To be called before the answer 101: what comes ahead of that is HTTP to aiohttp, or is thrown away.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._is_stream = True
        self._input = Input(self._transport)
        self._watch_hang_up(self._transport)
        return self._input

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        refusal = self._refusal(self._transport.get_extra_info("socket"))
        self._server.transports.add(self._transport)
        if refusal is None:
            super().connection_made(transport)
        else:
            self._refused = True
            self._transport.write(_raw_response(refusal))
            self._transport.close()

    def _refusal(self, connection: socket.socket) -> WherryError | None:
        refusal = self._server.peers.refusal(connection)
        if refusal is not None:
            _log.warning("refused a connection: %s", refusal)
        elif len(self._server.transports) >= MAX_CONNECTIONS:
            refusal = TooManyConnectionsError(f"more than {MAX_CONNECTIONS} connections")
        return refusal

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_clock()
        if self._hang_up is not None:
            self._hang_up.close()
        if self._input is not None:
            self._input.take_rest()
        if self._transport is not None:
            self._server.transports.discard(self._transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._input is not None:
            self._input.came(data)
        if self._refused or self._is_stream:
            return
        super().data_received(data)
        # a client that sends its head byte by byte does not get more time with every byte
        if self._deadline is None and not self._busy:
            self._deadline = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._head_is_late)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has nothing more to say may still want to hear: docker's attach closes its half at once.

        Its end is then seen by a hang-up (poll(2)), which epoll tells without being asked for events.
        """
        if not self._is_stream or self._transport is None:
            return False
        if self._input is not None:
            self._input.end()
        self._watch_hang_up(self._transport)
        return True

    def _watch_hang_up(self, transport: asyncio.Transport) -> None:
        if self._hang_up is None:
            self._hang_up = HangUp(transport.get_extra_info("socket").fileno(), transport.abort)

    def request_begins(self) -> None:
        self._busy = True
        self._stop_clock()

    def request_ends(self) -> None:
        self._busy = False

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp calls this for what is not HTTP, and for what escapes a handler; the connection ends after it."""
        _log.debug("bad request: %s", message or exc)
        if request.writer.output_size > 0:
            raise ConnectionAbortedError("the response had begun") from exc
        if status == 400:
            response = self._server.replies.failure(InvalidRequest(f"malformed HTTP request: {_one_line(message)}"))
        else:
            response = self._server.replies.failure(InternalError("internal error"))
        response.force_close()
        return response

    def _head_is_late(self) -> None:
        # no 408: what came late may have been the rest of a refused body, and the next request would get that answer
        self._deadline = None
        self.force_close()

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _raw_response(error: WherryError) -> bytes:
    """A response before there is any request: written as it is, since aiohttp answers requests only."""
    body = encode({"message": printable(str(error)), "code": error.code})
    head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: {JSON}\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _one_line(message: str | None) -> str:
    line = (message or "bad request").strip().partition("\n")[0]
    return "".join(char if char.isprintable() else "?" for char in line[:200])
