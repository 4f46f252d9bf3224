"""Commands in containers that run: docker's three calls, and ours, which is one.

Output comes straight from the exec's pipes, a piece when the one before it fits into the socket. A client that goes
away leaves the exec behind; what it writes from then on is thrown away, as it is with docker.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from wherry.api.docker.exec import details, ending, exec_request, wants_detach
from wherry.api.handlers.attach import stream_response
from wherry.api.handlers.log_streams import Sender, packed, status
from wherry.api.http.bodies import read_json
from wherry.api.http.replies import FrameResponse
from wherry.api.http.router import Call
from wherry.errors import InvalidRequest, WherryError
from wherry.supervisor.lifecycle.execing import Execution

_STDOUT = 1


async def create(call: Call) -> web.StreamResponse:
    """POST /containers/X/exec."""
    call.query.only()
    execution = call.engine.create_exec(call.ref, exec_request(await read_json(call.request)))
    return call.replies.json({"Id": execution.record.id}, 201)


async def start(call: Call) -> web.StreamResponse:
    """POST /exec/ID/start.

    To a client that takes over the connection the answer's head is sent before the start, and why a command could not
    be executed comes in the stream, as from docker: its clients show nothing else, and docker-py loses what comes
    together with the head.
    """
    call.query.only()
    execution = call.engine.find_exec(call.ref)
    if wants_detach(await read_json(call.request)):
        await call.lifetime.finish(call.engine.start_exec(execution, attached=False))
        return call.replies.empty(200)
    if call.request.headers.get("Upgrade", "").lower() != "tcp":
        await _started(call, execution)
        response = stream_response(call)
        await response.flush(call.request)
    else:
        call.engine.check_exec(execution)
        response = stream_response(call)
        await response.flush(call.request)
        try:
            await _started(call, execution)
        except WherryError as error:
            await response.write(packed(_STDOUT, f"{error}\r\n".encode()))
            return response
    await _pass_on(call, execution, response)
    return response


async def _started(call: Call, execution: Execution) -> None:
    """When the client goes meanwhile, the start goes on, and what comes of it has no reader."""

    async def begin() -> None:
        await call.engine.start_exec(execution, attached=True)

    starting = call.lifetime.begin(begin())
    try:
        await asyncio.shield(starting)
    except BaseException as error:
        if not isinstance(error, WherryError):
            starting.add_done_callback(lambda _: call.engine.leave_exec(execution))
        raise


async def _pass_on(call: Call, execution: Execution, response: FrameResponse) -> None:
    """All that it writes; returns when its end is booked."""
    sender = Sender(response, call.pace)
    has_all = False
    try:
        with call.lifetime.watching(ends_cleanly=False):
            while execution.output is not None and (piece := await execution.output.read()) is not None:
                await sender.send(packed(*piece))
            has_all = True
            await execution.ended.wait()
    finally:
        if not has_all:
            call.engine.leave_exec(execution)


async def inspect(call: Call) -> web.StreamResponse:
    """GET /exec/ID/json."""
    call.query.only()
    return call.replies.json(details(call.engine.find_exec(call.ref).record))


async def run(call: Call) -> web.StreamResponse:
    """POST /wherry/exec: create and start as one; with stream=1 the answer is the output, then how it ended."""
    query = call.query.only("name", "stream")
    name, stream = query.text("name"), query.flag("stream")
    if not name:
        raise InvalidRequest("query parameter 'name' is missing: the container's name or id")
    request = exec_request(await read_json(call.request), attached=stream)
    execution = call.engine.create_exec(name, request)
    if not stream:
        await call.lifetime.finish(call.engine.start_exec(execution, attached=False))
        return call.replies.json(_identity(execution), 201)
    await _started(call, execution)
    response = call.replies.frames()
    await response.prepare(call.request)
    await response.write(status({"Event": "started", **_identity(execution)}))
    await _pass_on(call, execution, response)
    await response.write_eof(status(ending(execution.record)))
    return response


def _identity(execution: Execution) -> dict[str, object]:
    record = execution.record
    return {"Id": record.id, "Name": execution.container.record.name, "Pid": record.pid}
