"""Volumes and plugins: there are none, which is an answer too, and the right one to most questions about them."""

from __future__ import annotations

from aiohttp import web

from wherry.api.docker.filters import known_filters, wanted_flag
from wherry.api.http.router import Call
from wherry.errors import NotFound, quoted


async def volumes(call: Call) -> web.StreamResponse:
    filters = known_filters(call.query.only("filters").text("filters"), "dangling", "driver", "label", "name")
    wanted_flag(filters, "dangling")
    return call.replies.json({"Volumes": [], "Warnings": []})


async def volume(call: Call) -> web.StreamResponse:
    raise NotFound(f"get {call.ref if call.ref.isprintable() else quoted(call.ref)}: no such volume")


async def remove_volume(call: Call) -> web.StreamResponse:
    """With ``force`` one that there is not is no error, as in docker."""
    if not call.query.only("force").flag("force"):
        await volume(call)
    return call.replies.empty(204)


async def plugins(call: Call) -> web.StreamResponse:
    wanted_flag(known_filters(call.query.only("filters").text("filters"), "capability", "enabled"), "enabled")
    return call.replies.json([])


async def plugin(call: Call) -> web.StreamResponse:
    raise NotFound(f"plugin {quoted(call.ref)} not found")
