"""Commands in containers that run: docker's three calls, and ours, which is one.

Output comes straight from the exec's pipes, a piece when the one before it fits into the socket. A client that goes
away leaves the exec behind; what it writes from then on is thrown away, as it is with docker, and its input ends when
it has read what the client had sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from aiohttp import web

from wherry.api.docker.exec import details, ending, exec_request, wants_detach
from wherry.api.handlers.attach import stream_both_ways, stream_response
from wherry.api.handlers.input import feed_into, input_of, is_upgrade, require_upgrade
from wherry.api.handlers.log_streams import Sender, packed, status
from wherry.api.http.bodies import read_json
from wherry.api.http.input import Input
from wherry.api.http.replies import FrameResponse
from wherry.api.http.router import Call
from wherry.errors import InvalidRequest, WherryError, printable
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
    together with the head. Detached, nobody feeds it: its input is /dev/null.
    """
    call.query.only()
    execution = call.engine.find_exec(call.ref)
    if wants_detach(await read_json(call.request)):
        await call.lifetime.finish(call.engine.start_exec(execution, attached=False))
        return call.replies.empty(200)
    takes_input = execution.record.request.stdin
    if takes_input:
        require_upgrade(call)
    if not is_upgrade(call):
        await _started(call, execution)
        response = stream_response(call)
        with _client_of(call, execution):
            await response.flush(call.request)
            await _pass_on(call, execution, response)
        return response
    call.engine.check_exec(execution)
    response, source = stream_both_ways(call) if takes_input else (stream_response(call), None)
    await response.flush(call.request)
    try:
        await _started(call, execution, source)
    except WherryError as error:
        if source is not None:
            source.refuse()
        await response.write(packed(_STDOUT, f"{printable(str(error))}\r\n".encode()))
        return response
    with _client_of(call, execution):
        await _pass_on(call, execution, response)
    return response


async def _started(call: Call, execution: Execution, source: Input | None = None) -> None:
    """When the client goes meanwhile, the start goes on, what comes of it has no reader, and what the client had sent
    is its input.
    """

    async def begin() -> None:
        await call.engine.start_exec(execution, attached=True)
        if source is not None:
            feed_into(execution.stdin, source)

    starting = call.lifetime.begin(begin())
    try:
        await asyncio.shield(starting)
    except BaseException as error:
        if not isinstance(error, WherryError):
            starting.add_done_callback(lambda _: call.engine.leave_exec(execution))
        raise


@contextlib.contextmanager
def _client_of(call: Call, execution: Execution) -> Iterator[None]:
    """Whoever goes before its end leaves it."""
    try:
        yield
    except BaseException:
        call.engine.leave_exec(execution)
        raise


async def _pass_on(call: Call, execution: Execution, response: FrameResponse) -> None:
    """All that it writes; returns when its end is booked."""
    sender = Sender(response, call.pace)
    with call.lifetime.watching(ends_cleanly=False):
        while execution.output is not None and (piece := await execution.output.read()) is not None:
            await sender.send(packed(*piece))
        await execution.ended.wait()


async def inspect(call: Call) -> web.StreamResponse:
    """GET /exec/ID/json."""
    call.query.only()
    return call.replies.json(details(call.engine.find_exec(call.ref).record))


async def run(call: Call) -> web.StreamResponse:
    """POST /wherry/exec: create and start as one; with stream=1 the answer is the output, then how it ended.

    With AttachStdin the connection is upgraded, and the client's input goes to the command.
    """
    query = call.query.only("name", "stream")
    name, stream = query.text("name"), query.flag("stream")
    if not name:
        raise InvalidRequest("query parameter 'name' is missing: the container's name or id")
    request = exec_request(await read_json(call.request), attached=stream)
    if request.stdin:
        require_upgrade(call)
        if not stream:
            raise InvalidRequest("AttachStdin needs stream=1: nobody would feed it")
    execution = call.engine.create_exec(name, request)
    if not stream:
        await call.lifetime.finish(call.engine.start_exec(execution, attached=False))
        return call.replies.json(_identity(execution), 201)
    await _started(call, execution)
    with _client_of(call, execution):
        source = input_of(call) if request.stdin else None
        response = call.replies.frames() if source is None else call.replies.upgraded()
        await response.prepare(call.request)
        if source is not None:
            feed_into(execution.stdin, source)
        await response.write(status({"Event": "started", **_identity(execution)}))
        await _pass_on(call, execution, response)
        await response.write_eof(status(ending(execution.record)))
    return response


def _identity(execution: Execution) -> dict[str, object]:
    record = execution.record
    return {"Id": record.id, "Name": execution.container.record.name, "Pid": record.pid}
