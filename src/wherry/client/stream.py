"""Docker's raw-stream format: the two streams of a container, and our status frames, over one connection."""

from __future__ import annotations

from wherry.client.http1 import ProtocolError, TruncatedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self

STDOUT = 1
STDERR = 2
STATUS = 3
"""Kinds of raw-stream frames: the container's two streams, and our JSON status (``POST /wherry/run?stream=1``)."""

MAX_STATUS = 1 << 20
"""Largest status frame, in bytes; output frames are passed on in pieces and need no limit."""


def frames(pieces: Iterator[memoryview]) -> Iterator[tuple[int, memoryview]]:
    """(kind, data) from Docker's raw-stream format: kind, three zero bytes, big-endian length, data.

    Output is passed on as it arrives, uncopied, in pieces of a frame if need be; a status frame is passed on whole.
    Raises ProtocolError for anything else, an end in the middle of a frame included.
    """
    header = status = b""
    kind = left = 0
    for piece in pieces:
        rest = piece
        while rest:
            if not left:
                missing = 8 - len(header)
                header += rest[:missing]
                rest = rest[missing:]
                if len(header) == 8:
                    kind, left = _frame_header(header)
                    header = b""
                continue
            data, rest = rest[:left], rest[left:]
            left -= len(data)
            if kind != STATUS:
                yield kind, data
                continue
            status += data
            if not left:
                yield kind, memoryview(status)
                status = b""
    if header or left:
        raise TruncatedError("the stream ended in the middle of a frame")


def _frame_header(header: bytes) -> tuple[int, int]:
    kind, size = header[0], int.from_bytes(header[4:8], "big")
    if kind not in {STDOUT, STDERR, STATUS} or any(header[1:4]):
        raise ProtocolError(f"not a frame header: {header!r}")
    if kind == STATUS and size > MAX_STATUS:
        raise ProtocolError(f"a status frame of {size} bytes; the most is {MAX_STATUS}")
    return kind, size


class ClosableStream:
    """What comes over a connection, item by item, until ``close()`` or its end; also a context manager.

    One thread at a time iterates. Any thread or signal handler may close it: the iteration then ends at once, without
    an error. A stream that is dropped closes its connection.
    """

    def __init__(self, items: Iterator[Any], close: Callable[[], None]) -> None:
        """``close`` may be called from any thread, and more than once; ``items`` then end."""
        self._items = items
        self._close = close
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        return next(self._items)

    def close(self) -> None:
        self._closed = True
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class LogStream(ClosableStream):
    """An iterator of (stream, data): stream 1 is stdout and 2 stderr, data what came, with no regard to lines.

    ``cursor`` is where the next byte comes from: given to ``Client.logs(after=)`` it goes on behind what has been
    handed out, whenever and by whomever; "" before anything has come. (With ``timestamps`` it is exact at the end;
    before that the last piece may be repeated.) ``lost_bytes`` counts what had been rotated away before it was read.
    ``close()``, from any thread, ends it early; it is also a context manager. Iterating raises the errors of
    ``Client``.
    """

    def __init__(
        self,
        pairs: Iterator[tuple[int, memoryview]],
        close: Callable[[], None],
        *,
        counts: bool = True,
        after: str = "",
    ) -> None:
        """``counts``: frames hold the log's bytes and nothing else; ``after`` is where the first of them begins."""
        super().__init__(self._data(pairs), close)
        self._counts = counts
        self._id, _, position = after.rpartition(":")
        self._position = int(position) if after else 0
        self.lost_bytes = 0

    @property
    def cursor(self) -> str:
        return f"{self._id}:{self._position}" if self._id else ""

    def __next__(self) -> tuple[int, bytes]:
        stream, data = super().__next__()
        return stream, bytes(data)

    def views(self) -> Iterator[tuple[int, memoryview]]:
        """The same without a copy of the bytes: for whoever passes much on at once."""
        for stream, data in self._items:
            if self._closed:
                return
            yield stream, data

    def _data(self, pairs: Iterator[tuple[int, memoryview]]) -> Iterator[tuple[int, memoryview]]:
        for kind, data in pairs:
            if kind == STATUS:
                self._take_status(bytes(data))
                continue
            if self._counts:
                self._position += len(data)
            yield kind, data

    def _take_status(self, data: bytes) -> None:
        from wherry.client import jsontext  # noqa: PLC0415 (run decodes status frames itself)

        try:
            fields = jsontext.decode(data)
            if fields["Event"] == "at":
                self._id, _, position = fields["Cursor"].rpartition(":")
                self._position = int(position)
            elif fields["Event"] == "lost":
                self.lost_bytes += int(fields["Bytes"])
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as failure:
            raise ProtocolError(f"a status frame makes no sense: {failure!r}") from failure
