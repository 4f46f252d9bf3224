"""GET /containers/X/top: the processes of a container, as ps lists them."""

from __future__ import annotations

from aiohttp import web

from wherry.api.http.router import Call


async def top(call: Call) -> web.StreamResponse:
    listed = await call.engine.processes(call.ref, call.query.only("ps_args").text("ps_args"))
    return call.replies.json({"Titles": listed.titles, "Processes": listed.rows})
