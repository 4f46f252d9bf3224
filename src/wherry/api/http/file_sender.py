"""The way of many log bytes to a client: straight from the log's pages into the socket, past asyncio's buffers.

A transport copies what it cannot send at once, and each round of the event loop moves what a socket buffer holds. Here
a thread sends: sendfile(2) for extents, which a UNIX socket takes by reference (Linux 6.5; a copy before that),
write(2) for what had to be read. It waits for a client only as long as one needs that keeps reading; then the event
loop waits.

What a client that stalls costs: a descriptor, what its socket buffer refers to, and at most a frame in memory. When
somebody truncates the log in the middle of a frame that is being sent, the connection is cut: its length was promised.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future

from aiohttp import web
from aiohttp.http_writer import StreamWriter

from wherry.logs import FileRange

_SEND_BUFFER = 1024 * 1024
_WAIT_MS = 5
_TURN_SECONDS = 0.02
"""After that long another reader's turn comes."""

Piece = tuple[bytes, FileRange | None]
"""Frames, or the head of one frame and its bytes."""


class Outlet:
    """For one response that has been prepared, sent in a thread of ``threads``; close() it."""

    def __init__(self, request: web.BaseRequest, writer: StreamWriter, threads: Executor) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        self._transport = transport
        self._writer = writer
        self._threads = threads
        # Ours: a transport closes its own at any time, and the number might be another client's when a thread uses it.
        self._socket: socket.socket = transport.get_extra_info("socket").dup()
        self._running: Future[bool] | None = None
        self._rest = memoryview(b"")
        self._extent: FileRange | None = None
        self._behind = b""
        self._is_stuck = False
        _enlarge(self._socket)

    def close(self) -> None:
        if self._running is None or self._running.done():
            self._socket.close()
        else:
            self._running.add_done_callback(lambda _: self._socket.close())

    async def send(self, pieces: Iterator[Piece]) -> None:
        """Send all; the iterator is used in a thread. However it ends, the client has whole chunks or will get them.

        Raises ConnectionError when the client has gone, and what the iterator raises.
        """
        await self._flush()
        try:
            while not await self._turn(pieces):
                await self._writable()
        except asyncio.CancelledError:
            await self._hand_over()
            raise

    async def _flush(self) -> None:
        """Let the transport send what it has: ours comes behind it."""
        self._writer.send_headers()
        self._transport.set_write_buffer_limits(high=0)
        try:
            await self._writer.drain()
        finally:
            self._transport.set_write_buffer_limits()

    async def _turn(self, pieces: Iterator[Piece]) -> bool:
        """Whether all has been sent."""
        done = False
        while not done:
            self._running = self._threads.submit(self._push, pieces)
            done = await asyncio.wrap_future(self._running)
            if not done and self._is_stuck:
                return False
        return True

    async def _hand_over(self) -> None:
        """The end of a chunk whose beginning is out goes the ordinary way."""
        if self._running is not None and not self._running.done():
            await asyncio.wait([asyncio.wrap_future(self._running)])
        if not self._transport.is_closing():
            self._transport.write(bytes(self._take_rest()))

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(self._socket, _resolve, ready)
        try:
            await ready
        finally:
            loop.remove_writer(self._socket)

    # In a thread.

    def _push(self, pieces: Iterator[Piece]) -> bool:
        until = time.monotonic() + _TURN_SECONDS
        self._is_stuck = False
        while time.monotonic() < until:
            try:
                if not self._has_rest() and not self._next(pieces):
                    return True
                self._send_some()
            except BlockingIOError:
                if not self._wait():
                    self._is_stuck = True
                    # Not left to its file: that may be truncated long before this client reads on.
                    self._rest = self._take_rest()
                    return False
        return False

    def _has_rest(self) -> bool:
        return bool(self._rest) or self._extent is not None or bool(self._behind)

    def _next(self, pieces: Iterator[Piece]) -> bool:
        piece = next(pieces, None)
        if piece is None:
            return False
        head, extent = piece
        if extent is not None and not extent.is_there():
            return True  # truncated by somebody meanwhile
        size = len(head) + (extent.size if extent else 0)
        chunked = self._writer.chunked
        self._rest = memoryview(b"%x\r\n%s" % (size, head) if chunked else head)
        self._extent = extent
        self._behind = b"\r\n" if chunked else b""
        return True

    def _send_some(self) -> None:
        if self._rest:
            self._rest = self._rest[os.write(self._socket.fileno(), self._rest) :]
        elif self._extent is not None:
            sent = self._extent.send_to(self._socket.fileno())
            if not sent:
                raise ConnectionAbortedError("the log was truncated while it was being sent")
            self._extent = self._extent.behind(sent)
        elif self._behind:
            self._rest, self._behind = memoryview(self._behind), b""

    def _wait(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(_WAIT_MS))

    def _take_rest(self) -> memoryview:
        """What is missing of the chunk, in memory."""
        data = b"" if self._extent is None else self._extent.read()
        rest = memoryview(b"".join((self._rest, data, self._behind)))
        self._rest, self._extent, self._behind = memoryview(b""), None, b""
        return rest


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _enlarge(connection: socket.socket) -> None:
    """Fewer wake-ups for a reader that is busy; without CAP_NET_ADMIN up to net.core.wmem_max (socket(7))."""
    so_sndbufforce = 32  # asm-generic/socket.h
    try:
        connection.setsockopt(socket.SOL_SOCKET, so_sndbufforce, _SEND_BUFFER)
    except PermissionError:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
