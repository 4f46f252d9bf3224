"""What a client sends on a connection that speaks no HTTP any more.

One piece is held at a time (256 KiB at most): while nobody takes it, nothing more is read, and the client has to wait.
So its end is not seen by reading either, but by a hang-up (``connection.HangUp``); what it had sent by then, which is
no more than its socket holds, is still handed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque


class Input:
    """Made by ``Connection.hands_on_input``, which feeds it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._pieces: deque[bytes] = deque()
        self._has_ended = False
        self._news = asyncio.Event()

    async def read(self) -> bytes:
        """The next piece; b"" at the end. One reader."""
        while not self._pieces:
            if self._has_ended:
                return b""
            self._news.clear()
            if not self._transport.is_closing():
                self._transport.resume_reading()
            await self._news.wait()
        return self._pieces.popleft()

    def refuse(self) -> None:
        """Let the client get EPIPE when it writes more: shutdown(2) tells the peer of a UNIX socket, which sees it when
        there is room to write.
        """
        self.end()
        self._pieces.clear()
        if not self._transport.is_closing():
            self._transport.pause_reading()
            self.take_rest()

    def came(self, data: bytes) -> None:
        if self._has_ended:
            return
        self._pieces.append(data)
        self._transport.pause_reading()
        self._news.set()

    def end(self) -> None:
        self._has_ended = True
        self._news.set()

    def take_rest(self) -> None:
        """The connection is being closed, by whichever end: what has not been read of it is all that there will be."""
        connection = self._socket()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RD)  # nothing can be added to it any more
        # Taken even if nobody wants it: a socket that is closed with something in it is a reset for the client, which
        # comes before what we have sent.
        while data := _received(connection):
            if not self._has_ended:
                self._pieces.append(data)
        self.end()

    def _socket(self) -> socket.socket:
        found: socket.socket = self._transport.get_extra_info("socket")
        return found


def _received(connection: socket.socket) -> bytes:
    """b"" when there is nothing more."""
    for _ in range(2):
        try:
            return os.read(connection.fileno(), 1 << 18)  # a transport's socket has no recv()
        except ConnectionResetError:  # told once, when the client has not read all of ours; its bytes come after it
            continue
        except OSError:
            break
    return b""
