"""POST /containers/X/attach: a container's output as it comes, from now on or from its beginning.

A container that does not run is waited for: ``docker start -a`` attaches first and starts then. Who attaches gets every
byte from that moment on, as from a pipe. With ``stdin`` what the client sends goes to the container, if that has a
standard input, else nowhere; docker says nothing about that either. With ``status``, which is ours, the container has
to run, and the last frame says how it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import cast

from aiohttp import web

from wherry import logs
from wherry.api.handlers.input import feed, input_of, is_upgrade
from wherry.api.handlers.log_streams import Framer, LogQuery, Sender, complaint, dump, forward, let_go, status_of
from wherry.api.http.connection import Connection
from wherry.api.http.input import Input
from wherry.api.http.replies import FrameResponse
from wherry.api.http.router import Call
from wherry.errors import Conflict, InvalidRequest
from wherry.supervisor.containers.record import End, Record

_log = logging.getLogger(__name__)


async def attach(call: Call) -> web.StreamResponse:
    query = call.query.only("logs", "stream", "stdin", "stdout", "stderr", "detachKeys", "status")
    streams = frozenset(kind for kind, name in ((1, "stdout"), (2, "stderr")) if query.flag(name))
    wants_logs, wants_stream = query.flag("logs"), query.flag("stream")
    if not (streams or query.flag("stdin")) or not (wants_logs or wants_stream):
        raise InvalidRequest("nothing to attach to: choose stdin, stdout or stderr, and logs or stream")
    record, log = call.engine.get(call.ref), call.engine.log(call.ref)
    takes_input = query.flag("stdin") and wants_stream and record.request.stdin
    # Before the first await: a start that the client asks for when it has our answer comes after this.
    runs, seen = record.is_live or log.is_live, log.openings
    ending = _ending(call, record, runs) if query.flag("status") else None
    hold = log.watch(0 if runs and wants_logs and wants_stream else None)
    try:
        _log.debug("%s: attach", record.name)
        response, source = stream_both_ways(call) if takes_input else (stream_response(call), None)
        await response.flush(call.request)
        with call.lifetime.watching(ends_cleanly=True):
            if wants_logs and streams and hold.position and not (runs and wants_stream):
                await _past(call, log, streams, response)
            if wants_stream and (runs or await _started(call, record.id, log, seen)):
                if not runs:
                    hold.move_to(log.begin)  # what was still missing of its last run belongs to that
                feed(call, record.id, source)
                lost = await forward(log, streams, Sender(response, call.pace), hold)
                if ending is not None:
                    await response.write(status_of(await ending, lost))
                elif lost:
                    await response.write(complaint(lost))
        return response
    finally:
        if ending is not None:
            ending.cancel()
        let_go(call, log, hold)


async def _past(call: Call, log: logs.Log, streams: frozenset[int], response: FrameResponse) -> None:
    query = LogQuery(streams=streams, tail=None, since_ns=None, until_ns=None, follow=False, timestamps=False)
    await dump(call, log, query, Framer(timestamps=False), response)


def _ending(call: Call, record: Record, runs: bool) -> asyncio.Future[End]:
    """How this run will have ended."""
    if not runs:
        raise Conflict(f"container {record.name} is not running")
    ending = asyncio.ensure_future(call.engine.wait(record.id, "not-running"))
    ending.add_done_callback(lambda task: task.cancelled() or task.exception())
    return ending


def stream_both_ways(call: Call) -> tuple[FrameResponse, Input]:
    """And what the client sends. Raises InvalidRequest where it has not asked for the connection itself."""
    source = input_of(call)
    return call.replies.upgraded(call.version), source


def stream_response(call: Call) -> FrameResponse:
    """Of frames, over the connection itself where the client has asked for that."""
    if not is_upgrade(call):
        return call.replies.frames(call.version)
    cast(Connection, call.request.protocol).becomes_stream()
    return call.replies.upgraded(call.version)


async def _started(call: Call, container_id: str, log: logs.Log, seen: int) -> bool:
    """Wait for the container's next start; false when it has been removed instead."""
    opening = asyncio.ensure_future(logs.opening(log, seen))
    removal = asyncio.ensure_future(call.engine.wait(container_id, "removed"))
    try:
        await asyncio.wait({opening, removal}, return_when=asyncio.FIRST_COMPLETED)
        return opening.done() and not opening.cancelled()
    finally:
        for waiting in (opening, removal):
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await waiting
