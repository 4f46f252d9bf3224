"""GET /images/json and /images/X/json: the root file systems that containers were made from, as images.

Known are those of containers, and the supervisor's own. An image has no tags, because a path is no reference.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from wherry.api.docker import durations
from wherry.api.docker.filters import decode_filters
from wherry.api.docker.platforms import architecture
from wherry.api.docker.rootfs_images import image_id, is_named
from wherry.api.http.router import Call
from wherry.api.http.versions import Version
from wherry.api.needs import Engine
from wherry.errors import Conflict, InvalidRequest, NotFound, quoted
from wherry.logs import rfc3339_nano

_FILTERS = frozenset({"before", "dangling", "label", "reference", "since", "until"})


def known(engine: Engine) -> dict[str, tuple[int, int]]:
    """Root file systems, each with the time of its first use in nanoseconds (0: none) and the number of containers."""
    found = {engine.info().rootfs: (0, 0)} if engine.info().rootfs else {}
    for record in reversed(engine.list()):  # oldest first
        first, count = found.get(record.request.rootfs, (0, 0))
        found[record.request.rootfs] = (first or record.created_ns, count + 1)
    return found


async def list_all(call: Call) -> web.StreamResponse:
    """GET /images/json. What only shapes docker's table (all, digests) changes nothing here, nor does shared-size: how
    much an image shares is not known.
    """
    filters = decode_filters(call.query.text("filters"))
    for key in filters:
        if key not in _FILTERS:
            raise InvalidRequest(f"invalid filter {quoted(key)}")
    # No image has a tag, a label or a name that a pattern could match, and none is without use.
    if any(values and (key, values) != ("dangling", ["false"]) for key, values in filters.items()):
        return call.replies.json([])
    found = sorted(known(call.engine).items(), key=lambda item: item[1], reverse=True)
    return call.replies.json([_summary(call.version, rootfs, *used) for rootfs, used in found])


def _summary(version: Version, rootfs: str, first_ns: int, containers: int) -> dict[str, Any]:
    return {
        "Id": image_id(rootfs),
        "ParentId": "",
        **nameless(version),
        "Created": first_ns // 1_000_000_000,
        **sizes(version, 0),
        "SharedSize": -1,
        "Labels": {},
        "Containers": containers,
        "Wherry": {"Rootfs": rootfs},
    }


def nameless(version: Version) -> dict[str, list[str]]:
    """An image without a tag, as a list of images has it."""
    if version >= (1, 43):
        return {"RepoTags": [], "RepoDigests": []}
    return {"RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}


def sizes(version: Version, size: int) -> dict[str, int]:
    return {"Size": size} if version >= (1, 44) else {"Size": size, "VirtualSize": size}


async def inspect(call: Call) -> web.StreamResponse:
    """GET /images/X/json, X a path, an id, or the beginning of one."""
    call.query.only()
    images = known(call.engine)
    found = [rootfs for rootfs in images if is_named(rootfs, call.ref)]
    if not found:
        raise NotFound(f"No such image: {call.ref if call.ref.isprintable() else quoted(call.ref)}")
    if len(found) > 1:
        raise Conflict(f"the image id {quoted(call.ref)} is ambiguous: {len(found)} begin with it")
    return call.replies.json(_details(call.version, found[0], images[found[0]][0]))


def _details(version: Version, rootfs: str, first_ns: int) -> dict[str, Any]:
    return {
        "Id": image_id(rootfs),
        "RepoTags": [],
        "RepoDigests": [],
        "Parent": "",
        "Comment": "",
        **_created(version, first_ns),
        "DockerVersion": "",
        "Author": "",
        "Architecture": architecture(),
        "Os": "linux",
        **sizes(version, 0),
        "Config": {"Cmd": None, "Entrypoint": None, "Env": None, "Labels": {}, "ExposedPorts": None, "Volumes": None},
        "GraphDriver": {"Name": "overlayfs", "Data": {}},
        "RootFS": {"Type": "layers", "Layers": []},
        "Metadata": {"LastTagTime": durations.ZERO},
        "Wherry": {"Rootfs": rootfs},
    }


def _created(version: Version, first_ns: int) -> dict[str, str]:
    """Of an image that nothing was made from it is not known."""
    if first_ns:
        return {"Created": rfc3339_nano(first_ns)}
    return {} if version >= (1, 44) else {"Created": durations.ZERO}
