"""A small strict HTTP/1.1 client over a UNIX socket.

Why no library: the command line starts an interpreter for every call, and importing is what Python is slow at.
Measured on a 2-core machine: a bare interpreter 11 ms, one that imports h11 35 ms, http.client 45 ms (email, ssl).
Even ``socket`` adds 7 ms, for the enums it makes of its constants; ``_socket``, the C module below it, is built in
and has the same class. What one peer on one machine needs of RFC 9112 fits in this file.

Strict means: a reply that RFC 9112 does not allow, or that is larger than the limits below, raises ProtocolError;
nothing is guessed or repaired. A failed or half-read exchange closes its connection, so that no reply is ever taken
for another's.

    Pool        keeps idle connections to one socket; may be used by several threads
    Response    status, headers and the body as an iterator of memoryviews, each over bytes that nobody changes
"""

from __future__ import annotations

import _socket
import _thread
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    T = TypeVar("T")
    U = TypeVar("U")

MAX_LINE = 8 * 1024
"""Longest status line, header line or chunk-size line, in bytes."""

MAX_HEADERS = 100
"""Most header lines of one reply, and most trailer lines."""

MAX_INTERIM = 8
"""Most 1xx replies before the real one."""

MAX_CHUNK = 1 << 30
"""Largest chunk, in bytes. Chunks are passed on as they arrive; the limit only refuses nonsense."""

MAX_BODY = 64 << 20
"""Largest body that ``Response.read`` takes into memory, in bytes."""

MAX_IDLE = 4
"""Connections a pool keeps for the next request."""

_RECEIVE = 256 * 1024
_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_HEX = b"0123456789abcdefABCDEF"
_CONTROLS = bytes([*range(9), *range(10, 32), 127])
_UPGRADE = b"\r\nUpgrade: tcp"  # no body has that: JSON escapes line ends
_IDEMPOTENT = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}


class ProtocolError(Exception):
    """The peer sent what is not HTTP/1.1, more than the limits allow, or ended in the middle."""


class TruncatedError(ProtocolError):
    """The connection ended in the middle of a reply."""


class NoReplyError(TruncatedError):
    """The connection ended before the first byte of a reply.

    ``unread`` is True when the peer cannot have acted on the request, because it closed without having read all of it:
    the kernel then reports ECONNRESET or EPIPE (``unix_release_sock()`` in Linux net/unix/af_unix.c), and a plain end
    of file otherwise.
    """

    def __init__(self, unread: bool) -> None:
        super().__init__("the connection was closed before a reply came")
        self.unread = unread


class ClosedError(TruncatedError):
    """The connection was closed on this side, by another thread or a signal handler, while it was in use."""

    def __init__(self) -> None:
        super().__init__("the connection was closed by this program")


class _Reader:
    """Buffered reading by lines and by counted pieces. Received bytes are not copied, only cut up.

    ``receive`` gives what has come, and b"" at the end of file.
    """

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self.more = receive
        self._rest = memoryview(b"")
        self.received = False

    @property
    def pending(self) -> bool:
        return bool(self._rest)

    def _receive(self) -> bool:
        """Whether anything came; only to be called when nothing is left."""
        self._rest = memoryview(self.more())
        self.received |= self.pending
        return self.pending

    def line(self, what: str) -> bytes:
        """One line without its CRLF; an end of file raises."""
        line = b""
        while not line.endswith(b"\n"):
            if len(line) > MAX_LINE:
                raise ProtocolError(f"{what} is longer than {MAX_LINE} bytes")
            if not self._rest and not self._receive():
                raise TruncatedError(f"the reply ended in the middle of {what}")
            start = bytes(self._rest[: MAX_LINE + 1 - len(line)])
            size = start.find(b"\n") + 1 or len(start)
            line += start[:size]
            self._rest = self._rest[size:]
        if not line.endswith(b"\r\n"):
            raise ProtocolError(f"{what} does not end in CR LF: {_shown(line[:-1])}")
        return line[:-2]

    def piece(self, most: int) -> memoryview:
        """Between 1 and ``most`` bytes, as soon as there are any; nothing at the end of file."""
        if not self._rest:
            self._receive()
        piece, self._rest = self._rest[:most], self._rest[most:]
        return piece

    def counted(self, size: int, what: str) -> Iterator[memoryview]:
        """Exactly ``size`` bytes, in pieces as they arrive."""
        left = size
        while left:
            data = self.piece(left)
            if not data:
                raise TruncatedError(f"the reply ended after {size - left} of {size} bytes of {what}")
            left -= len(data)
            yield data


def _shown(data: bytes) -> str:
    return repr(data[:60])[1:] + ("..." if len(data) > 60 else "")


def _fields(reader: _Reader, what: str) -> dict[str, str]:
    """Header or trailer lines up to the empty line; names in lower case, repeated ones joined by a comma."""
    found: dict[str, str] = {}
    for _ in range(MAX_HEADERS + 1):
        line = reader.line(f"a {what} line")
        if not line:
            return found
        name, value = _field(line, what)
        if name in found:
            value = f"{found[name]}, {value}"
        found[name] = value
    raise ProtocolError(f"more than {MAX_HEADERS} {what} lines")


def _field(line: bytes, what: str) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    value = value.strip(b" \t")
    if not name or not colon or name.translate(None, _TOKEN) or len(value.translate(None, _CONTROLS)) != len(value):
        raise ProtocolError(f"not a {what} line: {_shown(line)}")
    return name.decode("ascii").lower(), value.decode("latin-1")


def _status(line: bytes) -> tuple[bool, int, str]:
    """Whether the peer speaks HTTP/1.1 (and not 1.0), the status code, and the reason phrase."""
    version, _, rest = line.partition(b" ")
    code, _, reason = rest.partition(b" ")
    known = version in {b"HTTP/1.1", b"HTTP/1.0"}
    if not known or len(code) != 3 or not code.isdigit() or not 100 <= int(code) <= 599:
        raise ProtocolError(f"not an HTTP/1.1 status line: {_shown(line)}")
    return version == b"HTTP/1.1", int(code), reason.decode("latin-1")


def _content_length(headers: dict[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    values = {value.strip() for value in text.split(",")}
    value = values.pop()
    if values or not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise ProtocolError(f"not a Content-Length: {text!r}")
    return int(value)


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].rstrip(b" \t")
    if not digits or len(digits) > 16 or digits.translate(None, _HEX):
        raise ProtocolError(f"not a chunk size: {_shown(line)}")
    size = int(digits, 16)
    if size > MAX_CHUNK:
        raise ProtocolError(f"a chunk of {size} bytes; the most is {MAX_CHUNK}")
    return size


def _chunked(reader: _Reader, trailers: dict[str, str]) -> Iterator[memoryview]:
    while size := _chunk_size(reader.line("a chunk-size line")):
        yield from reader.counted(size, "a chunk")
        if reader.line("the end of a chunk"):
            raise ProtocolError("a chunk is longer than it said")
    trailers.update(_fields(reader, "trailer"))


def _until_close(reader: _Reader) -> Iterator[memoryview]:
    while data := reader.piece(_RECEIVE):
        yield data


class Response:
    """A reply whose body is still on its way: iterate over it, or ``read()`` it whole; ``close()`` drops the rest.

    One thread reads; any thread or signal handler may close, and who waits for more then gets a ClosedError at once.
    ``headers`` and ``trailers`` have names in lower case; ``trailers`` fills when a chunked body ends. Iterating raises
    ProtocolError for a malformed or truncated body and OSError (TimeoutError included) when receiving fails.
    """

    def __init__(self, connection: Connection, method: str, done: Callable[[bool], None], *, upgrade: bool) -> None:
        reader = connection.reader
        self.feed = connection.feed  # after a 101, which says that the stream goes both ways
        self._upgrade = upgrade
        self.trailers: dict[str, str] = {}
        self._done = [done]
        self.was_closed = False
        """Before its body had been read to the end."""
        self.set_timeout = connection.set_timeout
        modern, self.status, self.reason = self._final_status(reader)
        self.headers = _fields(reader, "header")
        options = {option.strip().lower() for option in self.headers.get("connection", "").split(",")}
        self._reusable = modern and "close" not in options
        self._pieces = self._body(reader, method)

    def _final_status(self, reader: _Reader) -> tuple[bool, int, str]:
        for _ in range(MAX_INTERIM + 1):
            modern, status, reason = _status(reader.line("the status line"))
            if status == 101 and not self._upgrade:
                raise ProtocolError("the peer switched protocols, which nobody asked for")
            if status == 101 or status >= 200:
                return modern, status, reason
            _fields(reader, "header")
        raise ProtocolError(f"more than {MAX_INTERIM} interim replies")

    def _body(self, reader: _Reader, method: str) -> Iterator[memoryview]:
        length = _content_length(self.headers)
        coding = self.headers.get("transfer-encoding")
        # Both at once is how replies are smuggled (RFC 9112, section 6.1), and no other coding was asked for.
        if coding is not None and (coding.lower() != "chunked" or length is not None):
            raise ProtocolError(f"Transfer-Encoding {coding!r} with Content-Length {length}")
        if method == "HEAD" or self.status in {204, 304}:
            return iter(())
        if coding is not None:
            return _chunked(reader, self.trailers)
        if length is not None:
            return reader.counted(length, "the body")
        self._reusable = False
        return _until_close(reader)

    def __iter__(self) -> Iterator[memoryview]:
        return self

    def __next__(self) -> memoryview:
        try:
            return next(self._pieces)
        except StopIteration:
            self._finish(self._reusable)
            raise
        except BaseException:
            self.close()
            raise

    def read(self, limit: int = MAX_BODY) -> bytes:
        """The whole body, or what is left of it; more than ``limit`` bytes raise ProtocolError."""
        body = bytearray()
        for piece in self:
            body += piece
            if len(body) > limit:
                self.close()
                raise ProtocolError(f"the body is larger than {limit} bytes")
        return bytes(body)

    def close(self) -> None:
        """Let go of the connection; it is closed unless the body was read to its end. May be called twice."""
        self._pieces = iter(())
        self.was_closed |= self._finish(False)

    def _finish(self, reusable: bool) -> bool:
        try:
            done = self._done.pop()  # one operation: of two threads only one gets it
        except IndexError:
            return False
        done(reusable)
        return True


class Connection:
    """One connection to the socket at ``path``, for one request at a time.

    Raises OSError when connecting fails, and PermissionError when the listener runs as a user who is neither root nor
    the caller: anybody may have put a socket into a directory that all can write to.
    """

    def __init__(self, path: str, timeout: float | None) -> None:
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        # Reentrant: a signal handler may close what the thread that it interrupts is using.
        self._lock = _thread.RLock()
        self._in_call = False
        self._closed = False
        try:
            self._sock.settimeout(timeout)
            self._sock.connect(path)
            self._check_peer()
        except BaseException:
            self._sock.close()
            raise
        self.reader = _Reader(self._receive)
        self.owner = os.getpid()

    def _check_peer(self) -> None:
        # struct ucred of unix(7), 12 bytes: pid, uid, gid. For a client these are the listener's, taken at listen(2).
        credentials = self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        uid = int.from_bytes(credentials[4:8], sys.byteorder)
        if uid not in {0, os.geteuid()}:
            raise PermissionError(f"user {uid} listens there, who is neither root nor you")

    def is_stale(self) -> bool:
        """Whether the peer closed this idle connection, or sent what nobody asked for."""
        if self.reader.pending:
            return True
        # Not MSG_DONTWAIT: with a timeout set, Python's recv() polls for that long before it makes the call.
        self._sock.setblocking(False)
        try:
            self._sock.recv(1, _socket.MSG_PEEK)
        except OSError as error:
            return not isinstance(error, BlockingIOError)
        return True

    def set_timeout(self, seconds: float | None) -> None:
        """For each wait from now on."""
        self._sock.settimeout(seconds)

    def feed(self, given: Any) -> None:
        """Send this ``Input`` while more is received, for which no time is set. Raises InvalidRequest for any other."""
        from wherry.client.feeding import Feeder  # noqa: PLC0415 (few calls have input)

        feeder = Feeder(self._sock, given)
        self.reader.more = lambda: self._use(feeder.receive, _RECEIVE)

    def exchange(self, method: str, request: bytes, timeout: float | None, done: Callable[[bool], None]) -> Response:
        """Send one whole request and read the head of its reply; NoReplyError when nothing came back."""
        self._sock.settimeout(timeout)
        self.reader.received = False
        unread = False
        try:
            self._use(self._sock.sendall, request)
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses a large body answers and closes while we still send: its answer is in our queue.
            unread = True
        try:
            return Response(self, method, done, upgrade=_UPGRADE in request)
        except (ProtocolError, ConnectionResetError) as failure:
            if self.reader.received or isinstance(failure, ClosedError):
                raise
            raise NoReplyError(unread or isinstance(failure, ConnectionResetError)) from failure

    def _receive(self) -> bytes:
        return self._use(self._sock.recv, _RECEIVE)

    def _use(self, call: Callable[[T], U], argument: T) -> U:
        """What ``call`` returns; ClosedError when the connection is closed before or meanwhile."""
        with self._lock:
            self._check_open()
            self._in_call = True
        try:
            result = call(argument)
        except OSError:
            self._check_open()
            raise
        finally:
            with self._lock:
                self._in_call = False
                if self._closed:
                    self._sock.close()
        self._check_open()
        return result

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError

    def close(self) -> None:
        """From any thread. A call that waits on the socket ends at once (shutdown(2)), and closes it: closed under the
        call, the descriptor's number could be another file's before the kernel looks at it.
        """
        if self.owner != os.getpid():
            self._sock.close()  # of a forked child, which must not end its parent's connection
            return
        with self._lock:
            self._closed = True
            if not self._in_call:
                self._sock.close()
                return
            try:
                self._sock.shutdown(_socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself


class Pool:
    """Requests to the server on the UNIX socket ``path``, over connections that are kept and used again.

    Threads may share a pool: a connection belongs to one exchange until its body has been read, and the idle list is
    only touched by single list operations, which are atomic. A forked child opens connections of its own.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._closings = 0

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        timeout: float | None = None,
        upgrade: bool = False,
    ) -> Response:
        """Send a request; ``timeout`` in seconds holds for each wait for the peer, not for the whole exchange.

        A connection that was kept and turns out to be closed is replaced and the request sent once more, unless the
        peer may have acted on it. ``upgrade`` asks for a stream both ways. Raises OSError when the socket cannot be
        reached and ProtocolError (NoReplyError) for bad replies.
        """
        request, closings = _serialised(method, target, body, upgrade), self._closings
        if connection := self._kept():
            try:
                return self._exchange(connection, method, request, timeout, closings)
            except NoReplyError as failure:
                if not failure.unread and method not in _IDEMPOTENT:
                    raise
        return self._exchange(Connection(self._path, timeout), method, request, timeout, closings)

    def _exchange(
        self, connection: Connection, method: str, request: bytes, timeout: float | None, closings: int
    ) -> Response:
        def done(reusable: bool) -> None:
            self._busy.discard(connection)
            if reusable and len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
            else:
                connection.close()

        self._busy.add(connection)
        try:
            if self._closings != closings:  # by a close() that came too early to see this connection
                raise ClosedError
            return connection.exchange(method, request, timeout, done)
        except BaseException:
            self._busy.discard(connection)
            connection.close()
            raise

    def _kept(self) -> Connection | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.owner == os.getpid() and not connection.is_stale():
                return connection
            connection.close()

    def close(self) -> None:
        """Close all connections: exchanges under way end with a ClosedError. The pool can be used again."""
        self._closings += 1
        for connection in list(self._busy):
            connection.close()
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def __del__(self) -> None:
        self._close_idle()


def _serialised(method: str, target: str, body: bytes | None, upgrade: bool) -> bytes:
    if not target.startswith("/") or not target.isascii() or not target.isprintable() or " " in target:
        raise ValueError(f"not a request target: {target!r}")
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    if upgrade:
        lines += ["Connection: Upgrade", _UPGRADE.decode()[2:]]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    elif method == "POST":
        lines.append("Content-Length: 0")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")
