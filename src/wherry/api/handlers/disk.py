"""Handlers about disk space: GET /system/df and docker's prune calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from wherry.api.docker import views
from wherry.api.docker.durations import moment
from wherry.api.docker.filters import known_filters, label_test, wanted_flag
from wherry.api.handlers.images import nameless, sizes
from wherry.api.http.replies import encode
from wherry.api.http.router import Call
from wherry.api.http.versions import Version
from wherry.errors import InvalidRequest, quoted
from wherry.logs import rfc3339_nano
from wherry.storage.catalogue import Unpacked
from wherry.supervisor.containers.record import Record
from wherry.supervisor.disk import ContainerUsage, Disk, DiskUsage

_KEYS = {"image": "Images", "container": "Containers", "volume": "Volumes", "build-cache": "BuildCache"}
_TYPES = frozenset(_KEYS)


async def usage(call: Call) -> web.StreamResponse:
    """GET /system/df. Unpacked archives stand where docker has images. ``type`` may be given several times."""
    types = set(call.query.only("type").several("type")) or _TYPES
    if unknown := types - _TYPES:
        raise InvalidRequest(f"unknown object type: {quoted(min(unknown))}")
    with_containers = "container" in types  # whose root file system is an archive's
    found = await call.engine.disk().usage(archives="image" in types or with_containers, containers=with_containers)
    archives = {each.digest: _size(each) for each in found.archives}
    parts: dict[str, Callable[[], list[Any]]] = {
        "image": lambda: [_image(call.version, each) for each in found.archives],
        "container": lambda: [_container(call, each, archives) for each in found.containers],
        "volume": list,
        "build-cache": list,
    }
    # A type that nobody asked for is null.
    shown = {_KEYS[kind]: part() if kind in types else None for kind, part in parts.items()}
    layers = sum(archives.values()) if "image" in types else 0
    builder = {} if call.version >= (1, 42) else {"BuilderSize": 0}
    ours = {"Wherry": _details(found, call.engine.disk().cache_limit)}
    return call.replies.json({"LayersSize": layers, **shown, **builder, **ours})


def _size(archive: Unpacked) -> int:
    return archive.usage.bytes if archive.usage else 0


def _image(version: Version, archive: Unpacked) -> dict[str, Any]:
    return {
        "Id": f"sha256:{archive.digest}",
        "ParentId": "",
        **nameless(version),
        "Created": archive.made_ns // 1_000_000_000,
        **sizes(version, _size(archive)),
        "SharedSize": 0,
        "Labels": None,
        "Containers": archive.users,
    }


def _container(call: Call, found: ContainerUsage, archives: dict[str, int]) -> dict[str, Any]:
    summary: dict[str, Any] = msgspec.json.decode(encode(views.summary(found.record, call.engine.log(found.record.id))))
    return {
        **summary,
        "SizeRw": found.layer,
        "SizeRootFs": found.layer + archives.get(found.record.unpacked, 0),
    }


def _details(found: DiskUsage, cache_limit: int) -> dict[str, Any]:
    return {
        "FreeBytes": found.space.free,
        "ReserveBytes": found.space.reserve,
        "CacheLimitBytes": cache_limit,
        "Archives": [
            {
                "Id": f"sha256:{each.digest}",
                "Source": each.source,
                "Bytes": _size(each),
                "Entries": each.usage.entries if each.usage else 0,
                "UsedAt": rfc3339_nano(each.used_ns),
                "Users": each.users,
            }
            for each in found.archives
        ],
        "Containers": [
            {
                "Id": each.record.id,
                "Name": each.record.name,
                "State": each.record.state,
                "LayerBytes": each.layer,
                "LogBytes": each.log,
            }
            for each in found.containers
        ],
    }


def brief(disk: Disk) -> dict[str, Any]:
    """What ``info`` says, measured without looking at any tree."""
    space, archives = disk.space(), disk.archives()
    return {
        "FreeBytes": space.free,
        "ReserveBytes": space.reserve,
        "CacheLimitBytes": disk.cache_limit,
        "Archives": len(archives),
        "ArchiveBytes": sum(map(_size, archives)),
        "UnusedArchiveBytes": sum(_size(each) for each in archives if not each.users),
    }


async def prune_containers(call: Call) -> web.StreamResponse:
    """POST /containers/prune, with docker's filters until, label and label!."""
    wanted = _container_filter(call.query.only("filters").text("filters"))
    pruned = await call.lifetime.finish(call.engine.disk().prune_containers(wanted))
    return call.replies.json({"ContainersDeleted": list(pruned.ids), "SpaceReclaimed": pruned.bytes})


def _container_filter(text: str) -> Callable[[Record], bool]:
    filters = known_filters(text, "until", "label", "label!")
    before = _until(filters)
    has = label_test(filters.get("label", []))
    lacks = label_test(filters["label!"]) if filters.get("label!") else None

    def wanted(record: Record) -> bool:
        is_old = before is None or record.created_ns < before
        return is_old and has(record) and not (lacks is not None and lacks(record))

    return wanted


async def prune_archives(call: Call) -> web.StreamResponse:
    """POST /images/prune: the unpacked archives that no container uses.

    None of them has a tag or a label: "dangling" makes no difference, and with a label wanted there is nothing to do.
    """
    filters = known_filters(call.query.only("filters").text("filters"), "until", "label", "label!", "dangling")
    before = _until(filters)
    removed: Sequence[Unpacked] = []
    if not filters.get("label"):
        removed = await call.lifetime.finish(call.engine.disk().prune_archives(before))
    deleted = [{"Deleted": f"sha256:{each.digest}"} for each in removed]
    return call.replies.json({"ImagesDeleted": deleted, "SpaceReclaimed": sum(map(_size, removed))})


async def prune_networks(call: Call) -> web.StreamResponse:
    """Nobody can make a network here: there is none to remove. ``docker system prune`` asks."""
    known_filters(call.query.only("filters").text("filters"), "until", "label", "label!")
    return call.replies.json({"NetworksDeleted": []})


async def prune_volumes(call: Call) -> web.StreamResponse:
    """Nor a volume by name, nor one without: ``all`` (of 1.42) makes no difference."""
    wanted_flag(known_filters(call.query.only("filters").text("filters"), "all", "label", "label!"), "all")
    return call.replies.json({"VolumesDeleted": [], "SpaceReclaimed": 0})


async def prune_builds(call: Call) -> web.StreamResponse:
    """Nothing is built here."""
    return call.replies.json({"CachesDeleted": [], "SpaceReclaimed": 0})


def _until(filters: dict[str, list[str]]) -> int | None:
    """Nanoseconds since the epoch; None without the filter."""
    values = filters.get("until", [])
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest("filter 'until' may be given once")
    try:
        return moment(values[0])
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"invalid filter 'until={quoted(values[0])}': no duration, RFC 3339 time, date or UNIX time"
        ) from None
