"""Logs and the output of ``POST /wherry/run``, as Docker's multiplexed stream.

A frame is: 1 byte kind (1 stdout, 2 stderr, 3 status of ours as JSON), 3 zero bytes, 4 bytes length (big endian), the
bytes. Nothing is queued here: a chunk is read when the one before it fits into the socket, so a reader that stalls
holds one chunk.

Readers of ``run`` and ``attach`` get every byte (logs/holds.py) and nothing but the container's bytes: a loss that
happens all the same is told at the end, in the status of ``run``, and to attached clients of docker's in a frame of
kind 3, which they take for an error from the daemon. Readers of logs get the log as it is, with its markers. Those of
ours, which ask for it by ``status=1``, are told in status frames of where the next frame begins, if that is not where
the last one ended ("At": a cursor), and of bytes that were rotated away before they came ("Lost"); others find the
latter as a marker among the data.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import aclosing, closing
from itertools import chain
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_writer import StreamWriter

from wherry import logs
from wherry.api.handlers.containers import wanted
from wherry.api.handlers.input import feed, input_of, require_upgrade
from wherry.api.http.file_sender import Outlet, Piece
from wherry.api.http.pace import Pace
from wherry.api.http.query import Query
from wherry.api.http.replies import FrameResponse, encode
from wherry.api.http.router import Call
from wherry.errors import InvalidRequest, NotFound, quoted
from wherry.supervisor.containers.record import End, Record
from wherry.supervisor.containers.request import CreateRequest

STATUS = 3
_HEAD = struct.Struct(">BxxxL")
_BOTH = frozenset({1, 2})
_CURSOR = re.compile(r"([0-9a-f]{64}):([0-9]{1,18})")
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
    status: bool = False
    after: int | None = None

    @classmethod
    def parse(cls, query: Query, container_id: str) -> LogQuery:
        query.only("stdout", "stderr", "follow", "tail", "timestamps", "since", "until", "details", "status", "after")
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
            status=query.flag("status"),
            after=parse_cursor(query.text("after"), container_id),
        )

    def selection(self) -> dict[str, Any]:
        return {
            "streams": self.streams,
            "tail": self.tail,
            "since_ns": self.since_ns,
            "until_ns": self.until_ns,
            "after": self.after,
        }


def _tail(query: Query) -> int | None:
    if query.text("tail", "all") in ("all", ""):
        return None
    lines = query.integer("tail")
    return lines if lines is not None and lines >= 0 else None  # docker: negative means all


class Framer:
    """Turns chunks of a log into frames; with ``timestamps`` every line of a stream begins with its time.

    ``container_id`` makes the cursors of status frames; without it there are none, and no loss is told.
    """

    def __init__(self, timestamps: bool, container_id: str = "") -> None:
        self._stamper = logs.Stamper() if timestamps else None
        self._id = container_id
        self._next = -1
        self._begins_line = True

    def frame(self, chunk: logs.Chunk) -> bytes:
        status = self._status_before(chunk)
        if chunk.lost is not None and not chunk.data:
            if self._id:
                return status
            chunk = chunk._replace(data=_marker(chunk.lost, self._begins_line))
        if self._stamper is not None:
            chunk = self._stamper.feed(chunk)
        if len(chunk.data) == 0:
            return status
        self._begins_line = chunk.data.endswith(b"\n")
        return status + _HEAD.pack(chunk.stream, len(chunk.data)) + chunk.data

    def head(self, extent: logs.FileRange) -> bytes:
        """What comes before the bytes of an extent."""
        return self._place(extent.end, extent.size) + _HEAD.pack(extent.stream, extent.size)

    def batches(self, pieces: Iterable[logs.Chunk | logs.FileRange]) -> Iterator[Piece]:
        """Frames for an Outlet: small ones together, those of extents alone."""
        frames: list[bytes] = []
        size = 0
        for piece in pieces:
            if isinstance(piece, logs.FileRange):
                if frames:
                    yield b"".join(frames), None
                yield self.head(piece), piece
            else:
                frame = self.frame(piece)
                if frame:
                    frames.append(frame)
                size += len(frame)
                if size < _BATCH:
                    continue
                yield b"".join(frames), None
            frames, size = [], 0
        if frames:
            yield b"".join(frames), None

    def _status_before(self, chunk: logs.Chunk) -> bytes:
        if not self._id:
            return b""
        if chunk.lost is not None and not chunk.data:
            return status({"Event": "lost", "Bytes": chunk.lost}) + self._place(chunk.end, 0)
        return self._place(chunk.end, len(chunk.data))

    def _place(self, end: int, size: int) -> bytes:
        """Where ``size`` bytes begin that end at ``end``; nothing if that is where the last ones ended."""
        expected, self._next = self._next, end
        # With time stamps in between, nobody could count how far the bytes of a frame go.
        if not self._id or (expected == end - size and self._stamper is None):
            return b""
        return status({"Event": "at", "Cursor": f"{self._id}:{end - size}"})


def _marker(lost: int, begins_line: bool) -> bytes:
    return b"%s[wherry: %d bytes rotated away here]\n" % (b"" if begins_line else b"\n", lost)


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
    record = call.engine.get(call.ref)
    query = LogQuery.parse(call.query, record.id)
    if not record.started_ns:
        return call.replies.frames(call.version)  # docker: what never ran has an empty log, and nobody to wait for
    log = call.engine.log(call.ref)
    framer = Framer(query.timestamps, record.id if query.status else "")
    return await (_follow if query.follow else _dump)(call, log, query, framer)


async def _follow(call: Call, log: logs.Log, query: LogQuery, framer: Framer) -> web.StreamResponse:
    response = call.replies.frames(call.version)
    await response.flush(call.request)  # a quiet container may keep its followers waiting for hours
    sender = Sender(response, call.pace)
    # a generator, typed as a mere iterator
    following: Any = logs.follow(log, **query.selection(), shows_times=query.timestamps)
    with call.lifetime.watching(ends_cleanly=True):
        async with aclosing(following) as chunks:
            async for chunk in chunks:
                if frame := framer.frame(chunk):
                    await sender.send(frame)
    return response


async def forward(log: logs.Log, streams: frozenset[int], sender: Sender, hold: logs.Hold) -> int:
    """Send all that the container writes, and nothing else, from where ``hold`` is; returns how many bytes are missing.

    Whoever made the hold lets go of it.
    """
    framer = Framer(timestamps=False)
    lost = 0
    following: Any = logs.follow(log, streams=streams, hold=hold)
    async with aclosing(following) as chunks:
        async for chunk in chunks:
            if chunk.lost is None:
                await sender.send(framer.frame(chunk))
            else:
                lost += chunk.lost
    return lost


def let_go(call: Call, log: logs.Log, hold: logs.Hold) -> None:
    """The reader has all, or has gone: delete what was kept for it."""
    hold.release()
    call.lifetime.detach(asyncio.to_thread(log.prune))


async def _dump(call: Call, log: logs.Log, query: LogQuery, framer: Framer) -> web.StreamResponse:
    response = call.replies.frames(call.version)
    with call.lifetime.watching(ends_cleanly=False):
        await dump(call, log, query, framer, response)
    return response


async def dump(call: Call, log: logs.Log, query: LogQuery, framer: Framer, response: FrameResponse) -> None:
    """Send what there is now. Reading may wait for a disk, so it happens in a thread."""
    pieces = (logs.read if query.timestamps else logs.read_pieces)(log, **query.selection(), with_end=query.status)
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
    """POST /wherry/run: create and start as one; with stream=1 the answer is the output, then how it ended, and with
    stdin=1, on a connection that is upgraded, the client's input goes to the container.
    """
    query = call.query.only("name", "stream", "replace", "stdin")
    stream, replace, stdin = query.flag("stream"), query.flag("replace"), query.flag("stdin")
    name, request = await wanted(call)
    if stdin:
        _check_input(call, request, stream)
    if not stream:
        record = await call.lifetime.finish(call.engine.run(name, request, replace=replace))
        return call.replies.json({"Id": record.id, "Name": record.name, "Pid": record.pid}, 201)
    starting = call.lifetime.begin(call.engine.run(name, request, hold=True, replace=replace))
    try:
        return await _run_stream(call, await asyncio.shield(starting), stdin)
    finally:
        call.lifetime.detach(_release(call, starting))


def _check_input(call: Call, request: CreateRequest, stream: bool) -> None:
    require_upgrade(call)
    if not (stream and request.stdin):
        raise InvalidRequest("stdin=1 needs stream=1, and OpenStdin in the container's configuration")


async def _release(call: Call, starting: asyncio.Task[Record]) -> None:
    """The client may have gone before the start was through: the hold ends in any case, and so does an input that was
    only for this client.
    """
    record = await starting
    with contextlib.suppress(NotFound):
        if (stdin := call.engine.stdin(record.id)) is not None:
            stdin.missed()
    await call.engine.release(record.id)


async def _run_stream(call: Call, record: Record, stdin: bool) -> web.StreamResponse:
    log = call.engine.log(record.id)
    hold = log.watch(0)  # the one that the engine has kept since before the start
    # Now: when its output has been read to the end, the container may have been removed by somebody.
    ending = asyncio.ensure_future(call.engine.wait(record.id, "not-running"))
    ending.add_done_callback(lambda task: task.cancelled() or task.exception())
    try:
        source = input_of(call) if stdin else None
        response = call.replies.upgraded() if stdin else call.replies.frames()
        sender = Sender(response, call.pace)
        await response.prepare(call.request)
        feed(call, record.id, source)
        await sender.send(status({"Event": "started", "Id": record.id, "Name": record.name, "Pid": record.pid}))
        with call.lifetime.watching(ends_cleanly=False):
            lost = await forward(log, _BOTH, sender, hold)
            ended = await ending
            await call.engine.release(record.id)  # before the client can ask for the same name again
            await response.write_eof(status_of(ended, lost))
        return response
    finally:
        ending.cancel()
        let_go(call, log, hold)


def status_of(end: End, lost: int) -> bytes:
    """The last frame of who follows a container to its end; ``lost`` counts bytes that were not sent."""
    fields = {"ExitCode": end.exit_code, "Reason": end.reason, "Signal": end.signal, "Error": end.error}
    return status({"Event": "exited", **fields, "LostBytes": lost})


def status(fields: dict[str, Any]) -> bytes:
    return packed(STATUS, encode(fields))


def packed(kind: int, data: bytes) -> bytes:
    """One frame."""
    return _HEAD.pack(kind, len(data)) + data


def complaint(lost: int) -> bytes:
    """A frame for docker's clients (stdcopy.Systemerr), which end with this text as an error."""
    text = f"at least {lost} bytes of the container's output are lost".encode()
    return packed(STATUS, text)


def parse_cursor(text: str, container_id: str) -> int | None:
    """The position in a cursor, None without one.

    Raises:
        InvalidRequest: it is none, or of another container's log.
    """
    if not text:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"not a cursor of a log: {quoted(text)}")
    if found[1] != container_id:
        raise InvalidRequest(f"the cursor is of the log of container {found[1][:12]}, not of {container_id[:12]}")
    return int(found[2])
