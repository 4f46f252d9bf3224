"""Input for a container while its output is read: both over one connection, by one thread, with poll(2).

Loaded by calls with ``input`` only: ``select`` is what nobody else needs.
"""

from __future__ import annotations

import _socket
import os
import select

from wherry import errors
from wherry.client import arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Input = bytes | str | Iterable[bytes]

_PIECE = 256 * 1024
_INPUT = select.POLLIN | select.POLLHUP | select.POLLERR


class Descriptor:
    """Input from an open file as it comes: it is read when there is something, and output goes on meanwhile. Once
    nobody takes it any more it is /dev/null, so that whoever writes into a pipe learns that.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """Raises OSError; after that it goes on, which a generator would not (EAGAIN)."""
        if piece := os.read(self.number, _PIECE):
            return piece
        raise StopIteration

    def close(self) -> None:
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, self.number)
        os.close(null)


def pieces_of(given: Input) -> Iterator[bytes]:
    """Raises InvalidRequest for what is no input at all; what an iterable gives is looked at when its turn comes."""
    if isinstance(given, str):
        return iter([given.encode()])
    if isinstance(given, bytes | bytearray | memoryview):
        return iter([bytes(given)])
    try:
        return iter(given)
    except TypeError:
        arguments.refuse("input", given, "bytes, a string, or an iterable of bytes, such as a file opened with 'rb'")


class Feeder:
    """``receive`` takes the place of recv(2) on the connection ``sock``."""

    def __init__(self, sock: _socket.socket, given: Input) -> None:
        self._sock = sock
        self._file = given if isinstance(given, Descriptor) else None
        self._pieces = pieces_of(given)
        self._rest = memoryview(b"")
        self._has_ended = False

    def receive(self, size: int) -> bytes:
        """What has come, at most ``size`` bytes, b"" at the end; sends input until then. Raises OSError."""
        while True:
            while not (self._rest or self._has_ended or self._file):  # a piece may be empty
                self._next()
            ready = self._wait()
            if self._file and ready.get(self._file.number):
                self._next()
            if self._rest and ready.get(self._sock.fileno(), 0) & (select.POLLOUT | select.POLLERR | select.POLLHUP):
                self._send()
            if ready.get(self._sock.fileno(), 0) & _INPUT:
                return self._receive(size)

    def _receive(self, size: int) -> bytes:
        try:
            return self._sock.recv(size)
        except ConnectionResetError:  # the peer has closed without having read all; told once, ahead of what it sent
            return self._sock.recv(size)

    def _wait(self) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN | (select.POLLOUT if self._rest else 0))
        if self._file and not self._rest and not self._has_ended:
            poll.register(self._file.number, select.POLLIN)
        return dict(poll.poll())

    def _next(self) -> None:
        try:
            piece = next(self._pieces, None)
        except BlockingIOError:  # somebody else has read it first
            return
        except OSError as failure:  # else it would pass for one of the connection's
            raise errors.InvalidRequest(f"input: cannot be read: {failure.strerror or failure}") from failure
        if piece is None:
            self._end()
        elif isinstance(piece, bytes | bytearray | memoryview):
            self._rest = memoryview(piece).cast("B")
        else:
            arguments.refuse("input", piece, "bytes")

    def _send(self) -> None:
        try:
            self._rest = self._rest[self._sock.send(self._rest, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):  # the container reads no more; that is no error
            self._rest, self._has_ended = memoryview(b""), True
            if self._file:
                self._file.close()

    def _end(self) -> None:
        self._has_ended = True
        try:
            self._sock.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # the supervisor has gone; what it had still to say comes first
