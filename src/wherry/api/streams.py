"""Logs and the output of ``POST /wherry/run``, as Docker's multiplexed stream.

A frame is: 1 byte kind (1 stdout, 2 stderr, 3 status of ours as JSON), 3 zero bytes, 4 bytes length (big endian), the
bytes. Nothing is queued here: a chunk is read when the one before it fits into the socket, so a reader that stalls
holds one chunk.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Iterator
from contextlib import aclosing, closing
from itertools import chain
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_writer import StreamWriter

from wherry import logs
from wherry.api.containers import wanted
from wherry.api.outlet import Outlet, Piece
from wherry.api.pace import Pace
from wherry.api.query import Query
from wherry.api.replies import FrameResponse, encode
from wherry.api.router import Call
from wherry.errors import InvalidRequest
from wherry.supervisor.model import End, Record

STATUS = 3
_HEAD = struct.Struct(">BxxxL")
_BATCH = 256 * 1024
_FAIR_SHARE = 1024 * 1024
"""After that many bytes without waiting for the client, others get their turn on the event loop."""


class LogQuery(msgspec.Struct, frozen=True):
    streams: frozenset[int]
    tail: int | None
    since_ns: int | None
    until_ns: int | None
    follow: bool
    timestamps: bool

    @classmethod
    def parse(cls, query: Query) -> LogQuery:
        query.only("stdout", "stderr", "follow", "tail", "timestamps", "since", "until", "details")
        streams = frozenset(kind for kind, name in ((1, "stdout"), (2, "stderr")) if query.flag(name))
        if not streams:
            raise InvalidRequest("Bad parameters: you must choose at least one stream")
        return cls(
            streams=streams,
            tail=_tail(query),
            since_ns=query.nanoseconds("since"),
            until_ns=query.nanoseconds("until"),
            follow=query.flag("follow"),
            timestamps=query.flag("timestamps"),
        )

    def selection(self) -> dict[str, Any]:
        return {"streams": self.streams, "tail": self.tail, "since_ns": self.since_ns, "until_ns": self.until_ns}


def _tail(query: Query) -> int | None:
    if query.text("tail", "all") in ("all", ""):
        return None
    lines = query.integer("tail")
    return lines if lines is not None and lines >= 0 else None  # docker: negative means all


class Framer:
    """Turns chunks of a log into frames; with ``timestamps`` every line of a stream begins with its time."""

    def __init__(self, timestamps: bool) -> None:
        self._stamper = logs.Stamper() if timestamps else None

    def frame(self, chunk: logs.Chunk) -> bytes:
        if self._stamper is not None:
            chunk = self._stamper.feed(chunk)
        return _HEAD.pack(chunk.stream, len(chunk.data)) + chunk.data

    def batches(self, pieces: Iterable[logs.Chunk | logs.Extent]) -> Iterator[Piece]:
        """Frames for an Outlet: small ones together, those of extents alone."""
        frames: list[bytes] = []
        size = 0
        for piece in pieces:
            if isinstance(piece, logs.Extent):
                if frames:
                    yield b"".join(frames), None
                yield _HEAD.pack(piece.stream, piece.size), piece
            else:
                frames.append(self.frame(piece))
                size += len(frames[-1])
                if size < _BATCH:
                    continue
                yield b"".join(frames), None
            frames, size = [], 0
        if frames:
            yield b"".join(frames), None


class Sender:
    """Writes to a response with backpressure, and without keeping the event loop from others."""

    def __init__(self, response: FrameResponse, pace: Pace) -> None:
        self._response = response
        self._pace = pace
        self._burst = 0

    async def send(self, data: bytes) -> None:
        await self._pace.turn()
        await self._response.write(data)
        self._burst += len(data)
        if self._burst >= _FAIR_SHARE:
            self._burst = 0
            await asyncio.sleep(0)


async def read_logs(call: Call) -> web.StreamResponse:
    """GET /containers/X/logs."""
    query = LogQuery.parse(call.query)
    if not call.engine.get(call.ref).started_ns:
        return call.replies.frames()  # docker: what never ran has an empty log, and nobody to wait for
    log = call.engine.log(call.ref)
    return await (_follow if query.follow else _dump)(call, log, query)


async def _follow(call: Call, log: logs.Log, query: LogQuery) -> web.StreamResponse:
    response = call.replies.frames()
    await response.flush(call.request)  # a quiet container may keep its followers waiting for hours
    with call.lifetime.watching(ends_cleanly=True):
        await forward(log, query, Sender(response, call.pace))
    return response


async def forward(log: logs.Log, query: LogQuery, sender: Sender, position: int | None = None) -> None:
    """Send what a follower gets; with ``position`` from there on."""
    framer = Framer(query.timestamps)
    # a generator, typed as a mere iterator
    following: Any = logs.follow(log, **query.selection(), position=position)
    async with aclosing(following) as chunks:
        async for chunk in chunks:
            await sender.send(framer.frame(chunk))


async def _dump(call: Call, log: logs.Log, query: LogQuery) -> web.StreamResponse:
    response = call.replies.frames()
    with call.lifetime.watching(ends_cleanly=False):
        await dump(call, log, query, response)
    return response


async def dump(call: Call, log: logs.Log, query: LogQuery, response: FrameResponse) -> None:
    """Send what there is now. Reading may wait for a disk, so it happens in a thread."""
    framer = Framer(query.timestamps)
    pieces = (logs.read if query.timestamps else logs.read_pieces)(log, **query.selection())
    frames = framer.batches(pieces)
    # Not in the loop's own threads: looking for the last lines of a long log would keep starts from them.
    first = await asyncio.get_running_loop().run_in_executor(call.lifetime.readers, _beginning, frames)
    writer = await response.prepare(call.request)
    if len(first) < 2 and all(extent is None for _, extent in first):
        for data, _ in first:
            await response.write(data)
    elif isinstance(writer, StreamWriter):
        with closing(Outlet(call.request, writer, call.lifetime.readers)) as outlet:
            await outlet.send(chain(first, frames))


def _beginning(pieces: Iterator[Piece]) -> list[Piece]:
    """Up to two pieces, none behind an extent: it would hold no longer. One without an extent is all there is."""
    taken: list[Piece] = []
    for piece in pieces:
        taken.append(piece)
        if piece[1] is not None or len(taken) == 2:
            break
    return taken


async def run(call: Call) -> web.StreamResponse:
    """POST /wherry/run: create and start as one; with stream=1 the answer is the output, then how it ended."""
    query = call.query.only("name", "stream", "replace")
    stream, replace = query.flag("stream"), query.flag("replace")
    name, request = await wanted(call)
    if not stream:
        record = await call.lifetime.finish(call.engine.run(name, request, replace=replace))
        return call.replies.json({"Id": record.id, "Name": record.name, "Pid": record.pid}, 201)
    starting = call.lifetime.begin(call.engine.run(name, request, hold=True, replace=replace))
    try:
        return await _run_stream(call, await asyncio.shield(starting))
    finally:
        call.lifetime.detach(_release(call, starting))


async def _release(call: Call, starting: asyncio.Task[Record]) -> None:
    """The client may have gone before the start was through: the hold ends in any case."""
    record = await starting
    await call.engine.release(record.id)


async def _run_stream(call: Call, record: Record) -> web.StreamResponse:
    response = call.replies.frames()
    sender = Sender(response, call.pace)
    await response.prepare(call.request)
    await sender.send(_status({"Event": "started", "Id": record.id, "Name": record.name, "Pid": record.pid}))
    with call.lifetime.watching(ends_cleanly=False):
        await forward(call.engine.log(record.id), _WHOLE_LOG, sender)
        ended = await call.engine.wait(record.id, "not-running")
        await call.engine.release(record.id)  # before the client can ask for the same name again
        await response.write_eof(_status(_ending(ended)))
    return response


def _ending(record: End) -> dict[str, Any]:
    return {
        "Event": "exited",
        "ExitCode": record.exit_code,
        "Reason": record.reason,
        "Signal": record.signal,
        "Error": record.error,
    }


def _status(fields: dict[str, Any]) -> bytes:
    data = encode(fields)
    return _HEAD.pack(STATUS, len(data)) + data


_WHOLE_LOG = LogQuery(streams=frozenset({1, 2}), tail=None, since_ns=None, until_ns=None, follow=True, timestamps=False)
