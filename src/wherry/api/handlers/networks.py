"""GET /networks: none and host, which are all that there are. Neither can be made, left or removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from wherry.api.docker import durations
from wherry.api.docker.filters import known_filters, wanted_flag
from wherry.api.docker.networks import DRIVERS, network_id
from wherry.api.http.replies import ForbiddenError
from wherry.api.http.router import Call
from wherry.errors import Conflict, InvalidRequest, NotFound, quoted

Wanted = Callable[[str], bool]


async def list_all(call: Call) -> web.StreamResponse:
    tests = _tests(call.query.only("filters").text("filters"))
    shown = (name for name in DRIVERS if all(test(name) for test in tests))
    return call.replies.json([{**_details(name), "Containers": {}} for name in shown])


def _tests(text: str) -> list[Wanted]:
    filters = known_filters(text, "dangling", "driver", "id", "label", "name", "scope", "type")
    dangling = wanted_flag(filters, "dangling")
    # Who asks for networks without containers wants to remove them; these two are never among those in docker.
    tests: list[Wanted] = [] if dangling is None else [lambda _name: not dangling]
    return tests + [_test(key, values) for key, values in filters.items() if values and key != "dangling"]


def _test(key: str, values: list[str]) -> Wanted:
    match key:
        case "driver":
            return lambda name: DRIVERS[name] in values
        case "id":
            return lambda name: network_id(name).startswith(tuple(values))
        case "name":
            return lambda name: any(value in name for value in values)
        case "scope":
            return lambda _name: "local" in values
        case "label":
            return lambda _name: False
    if any(value not in ("builtin", "custom") for value in values):
        raise InvalidRequest(f"invalid filter 'type={quoted(values[0])}'")
    return lambda _name: "builtin" in values


async def inspect(call: Call) -> web.StreamResponse:
    """GET /networks/X, X a name, an id or the beginning of one, with the containers that run in it."""
    query = call.query.only("verbose", "scope")
    name = _find(call.ref)
    if query.text("scope") not in ("", "local"):
        raise _unknown(call.ref)
    inside = (record for record in call.engine.list() if record.is_live and record.request.network == name)
    endpoint = {"EndpointID": "", "MacAddress": "", "IPv4Address": "", "IPv6Address": ""}
    containers = {record.id: {"Name": record.name, **endpoint} for record in inside}
    return call.replies.json({**_details(name), "Containers": containers})


async def remove(call: Call) -> web.StreamResponse:
    name = _find(call.ref)
    raise ForbiddenError(f"{name} is a pre-defined network and cannot be removed")


def _find(ref: str) -> str:
    if ref in DRIVERS:
        return ref
    found = [name for name in DRIVERS if ref and network_id(name).startswith(ref)]
    if len(found) > 1:
        raise Conflict(f"network {quoted(ref)} is ambiguous: {len(found)} ids begin with it")
    if not found:
        raise _unknown(ref)
    return found[0]


def _unknown(ref: str) -> NotFound:
    return NotFound(f"network {ref if ref.isprintable() else quoted(ref)} not found")


def _details(name: str) -> dict[str, Any]:
    return {
        "Name": name,
        "Id": network_id(name),
        "Created": durations.ZERO,
        "Scope": "local",
        "Driver": DRIVERS[name],
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Options": {},
        "Labels": {},
    }
