"""POST /containers/X/update: docker's resources, and those of our ``Wherry`` object, for a container that exists."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from wherry.api.docker.create import RestartConfig, asks_for_nothing, ignored, restart_fields, shown_field
from wherry.api.http.bodies import read_json
from wherry.api.http.router import Call
from wherry.api.http.versions import NEWEST, Version
from wherry.errors import InvalidRequest, NotSupported

_UNLIMITED = -1


class WherryResources(msgspec.Struct, rename="pascal", kw_only=True):
    nice: int | None = None
    soft_limit: int | None = None
    hard_limit: int | None = None


class UpdatedResources(msgspec.Struct, rename="pascal", kw_only=True):
    """null, 0, "" and a restart policy without a name leave things as they are, as in docker; NanoCpus -1 takes the
    limit away, and so do PidsLimit 0 and -1.
    """

    blkio_weight: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    nano_cpus: int | None = None
    pids_limit: int | None = None
    restart_policy: RestartConfig | None = None
    wherry: WherryResources | None = None


async def update(call: Call) -> web.StreamResponse:
    call.query.only()
    changes = changes_from(await read_json(call.request), call.version)
    await call.lifetime.finish(call.engine.update(call.ref, changes))
    return call.replies.json({"Warnings": []})


def changes_from(body: Any, version: Version = NEWEST) -> dict[str, Any]:
    """Fields of CreateRequest by name, with their new values.

    Raises:
        InvalidRequest: a value of the wrong type.
        NotSupported: a field that asks for something that cannot be changed.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("invalid resources: expected a JSON object")
    known = {*UpdatedResources.__struct_encode_fields__, *ignored(version)}
    refused = [name for name, value in body.items() if name not in known and _asks(name, value, body)]
    ours = body.get("Wherry")
    if isinstance(ours, dict):
        refused += [f"Wherry.{name}" for name in ours if name not in WherryResources.__struct_encode_fields__]
    if refused:
        raise NotSupported("cannot be updated: " + ", ".join(shown_field(name) for name in refused[:10]))
    try:
        resources = msgspec.convert(body, UpdatedResources)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"invalid resources: {error}") from None
    return _changes(resources)


def _asks(name: str, value: Any, body: dict[str, Any]) -> bool:
    return not asks_for_nothing(f"HostConfig.{name}", value, body)


def _changes(resources: UpdatedResources) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    ours = resources.wherry or WherryResources()
    own = {"nice": ours.nice, "soft_bytes": ours.soft_limit, "hard_bytes": ours.hard_limit}
    changes |= {name: value for name, value in own.items() if value is not None}
    if resources.nano_cpus:
        changes["cpus"] = None if resources.nano_cpus == _UNLIMITED else resources.nano_cpus / 1e9
    if resources.pids_limit is not None:
        changes["pids_limit"] = None if resources.pids_limit in (0, _UNLIMITED) else resources.pids_limit
    if resources.restart_policy is not None and resources.restart_policy.name:
        changes |= restart_fields(resources.restart_policy)
    given = {
        "cpu_shares": resources.cpu_shares,
        "cpuset_cpus": resources.cpuset_cpus,
        "io_weight": resources.blkio_weight,
    }
    return changes | {name: value for name, value in given.items() if value}
