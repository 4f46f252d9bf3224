"""Handlers for containers, except those that stream (``log_streams``, ``attach``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from wherry.api.docker import views
from wherry.api.docker.create import create_request
from wherry.api.docker.filters import Filters
from wherry.api.docker.platforms import check_platform
from wherry.api.http.bodies import read_body, read_json
from wherry.api.http.delivery import send_list, send_whole
from wherry.api.http.pace import Slices
from wherry.api.http.replies import encode
from wherry.api.http.router import Call
from wherry.errors import InvalidRequest, NotFound, quoted
from wherry.runtime.signals import signal_number
from wherry.supervisor.containers.bounds import is_large
from wherry.supervisor.containers.names import check_name
from wherry.supervisor.containers.request import CreateRequest

LARGE_BODY = 64 * 1024
"""From that size on a request is checked in a thread: one may have a hundred thousand variables."""
_CONDITIONS = frozenset({"not-running", "next-exit", "removed"})


async def wanted(call: Call) -> tuple[str | None, CreateRequest]:
    """Name (None: generate one) and request that a create or run call asks for."""
    name = call.query.text("name").removeprefix("/")
    if name:
        check_name(name)
    defaults = (call.engine.pids_limit, call.version, call.engine.userns)
    body = await read_json(call.request)
    if (call.request.content_length or LARGE_BODY) < LARGE_BODY:
        return name or None, create_request(body, *defaults)
    return name or None, await asyncio.to_thread(create_request, body, *defaults)


async def create(call: Call) -> web.StreamResponse:
    check_platform(call.query.only("name", "platform").text("platform"))
    name, request = await wanted(call)
    record = await call.lifetime.finish(call.engine.create(name, request))
    return call.replies.json({"Id": record.id, "Warnings": []}, 201)


async def start(call: Call) -> web.StreamResponse:
    call.query.only("detachKeys")
    if (await read_body(call.request)).strip() not in (b"", b"{}", b"null"):
        raise InvalidRequest("a container cannot be configured when it is started: the request body must be empty")
    started = await call.lifetime.finish(call.engine.start(call.ref))
    return call.replies.empty(204 if started else 304)


async def start_again(call: Call) -> web.StreamResponse:
    """POST /wherry/start: as ``start``, with an answer like that of POST /wherry/run."""
    name = call.query.only("name").text("name")
    if not name:
        raise InvalidRequest("query parameter 'name' is missing: the container's name or id")
    record = await call.lifetime.finish(call.engine.start(name))
    ran = record is None
    record = record or call.engine.get(name)
    return call.replies.json({"Id": record.id, "Name": record.name, "Pid": record.pid, "WasRunning": ran}, 201)


async def stop(call: Call) -> web.StreamResponse:
    stopped = await call.lifetime.finish(call.engine.stop(call.ref, *_how_to_stop(call)))
    return call.replies.empty(204 if stopped else 304)


async def restart(call: Call) -> web.StreamResponse:
    await call.lifetime.finish(call.engine.restart(call.ref, *_how_to_stop(call)))
    return call.replies.empty(204)


def _how_to_stop(call: Call) -> tuple[float | None, int | None]:
    query = call.query.only("t", "signal")
    return query.seconds("t"), signal_number(query.text("signal")) if query.text("signal") else None


async def pause(call: Call) -> web.StreamResponse:
    call.query.only()
    await call.lifetime.finish(call.engine.pause(call.ref))
    return call.replies.empty(204)


async def unpause(call: Call) -> web.StreamResponse:
    call.query.only()
    await call.lifetime.finish(call.engine.unpause(call.ref))
    return call.replies.empty(204)


async def rename(call: Call) -> web.StreamResponse:
    name = call.query.only("name").text("name").removeprefix("/")
    if not name:
        raise InvalidRequest("query parameter 'name' is missing: the container's new name")
    await call.lifetime.finish(call.engine.rename(call.ref, check_name(name)))
    return call.replies.empty(204)


async def kill(call: Call) -> web.StreamResponse:
    signal = signal_number(call.query.only("signal").text("signal") or "SIGKILL")
    await call.lifetime.finish(call.engine.kill(call.ref, signal))
    return call.replies.empty(204)


async def remove(call: Call) -> web.StreamResponse:
    # v asks to remove anonymous volumes too: there are none
    force = call.query.only("force", "v").flag("force")
    await call.lifetime.finish(call.engine.remove(call.ref, force))
    return call.replies.empty(204)


async def wait(call: Call) -> web.StreamResponse:
    """The headers leave before the container ends: docker starts the container only when it has seen them.

    With wherry=1 the answer has an object "Wherry" with the reason of the end, names and times.
    """
    query = call.query.only("condition", "wherry")
    condition, in_full = query.text("condition") or "not-running", query.flag("wherry")
    if condition not in _CONDITIONS:
        raise InvalidRequest(f"invalid condition: {quoted(condition)}")
    ending = asyncio.ensure_future(call.engine.wait(call.ref, condition))
    try:
        await asyncio.sleep(0)  # wait() registers (or raises) before its first await: let it, then promise an answer
        if ending.done():
            return call.replies.json(views.ending(ending.result(), in_full=in_full))
        response = call.replies.late_json()
        await response.prepare(call.request)
        with call.lifetime.watching(ends_cleanly=False):
            await response.write_eof(encode(views.ending(await ending, in_full=in_full)))
        return response
    finally:
        ending.cancel()


async def inspect(call: Call) -> web.StreamResponse:
    call.query.only()
    record, log = call.engine.get(call.ref), call.engine.log(call.ref)
    if not is_large(record.request):
        return call.replies.json(views.details(record, log))
    return await send_whole(call.request, call.replies, call.budget, lambda: encode(views.details(record, log)))


async def list_all(call: Call) -> web.StreamResponse:
    """GET /containers/json. Parameters that only shape docker's own table (trunc_cmd) are ignored."""
    query = call.query
    if query.flag("size"):
        query.only("all", "limit", "filters")
    limit = query.integer("limit") or -1
    filters = Filters(query.text("filters"), call.engine.get)
    everything = query.flag("all") or filters.every_state or limit > 0
    return await send_list(call.request, call.replies, _summaries(call, filters, everything, limit))


async def _summaries(call: Call, filters: Filters, everything: bool, limit: int) -> AsyncIterator[bytes]:
    """Each as it is when its turn comes: of a thousand, the last are told later than the first."""
    slices = Slices(call.pace)
    for record in call.engine.list():
        await slices.pause()
        if not (everything or record.is_active) or not filters.match(record):
            continue
        try:
            log = call.engine.log(record.id)
        except NotFound:
            continue  # removed meanwhile
        yield encode(views.summary(record, log))
        limit -= 1
        if limit == 0:
            return
