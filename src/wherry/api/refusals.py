"""What docker's API has and Wherry refuses: a path of docker's, as its swagger spells it, to a sentence.

Whoever serves one of them takes it out here: a path that is served and refused is an error (``routes``).
"""

from __future__ import annotations

from aiohttp import web

from wherry.api.http.router import Call, Handler, Routes
from wherry.errors import NotSupported


class NotThereError(NotSupported):
    """docker's API has it, and Wherry does not have it yet."""

    status = 501


class NoSwarmError(NotSupported):
    """What only a manager of a swarm answers."""

    status = 503


_NO_MANAGER = "This node is not a swarm manager"
_NO_SWARM = "there are no swarms here: this node cannot become part of one"
_NO_BUILDER = "images cannot be built here yet"
_NO_STORE = "there is no store of images yet: containers are made from root file systems (Wherry.Rootfs)"
_NO_REGISTRY = "there is no client for registries yet"
_NO_NETWORKS = "networks cannot be made or joined yet: there are none and host"
_NO_VOLUMES = "volumes cannot be made yet: bind a directory of the host"
_NO_PLUGINS = "there are no plugins here: none can be installed"
_NO_EXEC = "a command cannot be executed in a container yet"
_NO_TERMINAL = "there are no terminals yet: nothing has a size"
_NO_FILES = "files cannot be copied from or to a container yet"

NOT_THERE = {
    "GET /containers/{id}/changes": "what a container has changed in its file system cannot be listed yet",
    "GET /containers/{id}/export": "the file system of a container cannot be exported yet",
    "POST /containers/{id}/resize": _NO_TERMINAL,
    "GET /containers/{id}/attach/ws": "a container cannot be attached to over a websocket yet",
    "HEAD /containers/{id}/archive": _NO_FILES,
    "GET /containers/{id}/archive": _NO_FILES,
    "PUT /containers/{id}/archive": _NO_FILES,
    "POST /containers/{id}/exec": _NO_EXEC,
    "POST /exec/{id}/start": _NO_EXEC,
    "POST /exec/{id}/resize": _NO_TERMINAL,
    "GET /exec/{id}/json": _NO_EXEC,
    "POST /commit": "a container cannot be committed to an image yet",
    "POST /build": _NO_BUILDER,
    "POST /session": _NO_BUILDER,
    "POST /grpc": _NO_BUILDER,
    "POST /images/create": _NO_STORE,
    "GET /images/{name}/history": _NO_STORE,
    "POST /images/{name}/push": _NO_REGISTRY,
    "POST /images/{name}/tag": _NO_STORE,
    "DELETE /images/{name}": _NO_STORE,
    "GET /images/search": _NO_REGISTRY,
    "GET /images/{name}/get": _NO_STORE,
    "GET /images/get": _NO_STORE,
    "POST /images/load": _NO_STORE,
    "POST /auth": _NO_REGISTRY,
    "GET /distribution/{name}/json": _NO_REGISTRY,
    "POST /volumes/create": _NO_VOLUMES,
    "POST /networks/create": _NO_NETWORKS,
    "POST /networks/{id}/connect": _NO_NETWORKS,
    "POST /networks/{id}/disconnect": _NO_NETWORKS,
    "GET /plugins/privileges": _NO_PLUGINS,
    "POST /plugins/pull": _NO_PLUGINS,
    "POST /plugins/create": _NO_PLUGINS,
    "POST /swarm/init": _NO_SWARM,
    "POST /swarm/join": _NO_SWARM,
}
"""Answered with 501."""

NO_SWARM = {
    "PUT /volumes/{name}": _NO_MANAGER,  # volumes of a cluster only
    "GET /swarm": _NO_MANAGER,
    "POST /swarm/leave": "This node is not part of a swarm",
    "POST /swarm/update": _NO_MANAGER,
    "GET /swarm/unlockkey": _NO_MANAGER,
    "POST /swarm/unlock": _NO_MANAGER,
    "GET /nodes": _NO_MANAGER,
    "GET /nodes/{id}": _NO_MANAGER,
    "DELETE /nodes/{id}": _NO_MANAGER,
    "POST /nodes/{id}/update": _NO_MANAGER,
    "GET /services": _NO_MANAGER,
    "POST /services/create": _NO_MANAGER,
    "GET /services/{id}": _NO_MANAGER,
    "DELETE /services/{id}": _NO_MANAGER,
    "POST /services/{id}/update": _NO_MANAGER,
    "GET /services/{id}/logs": _NO_MANAGER,
    "GET /tasks": _NO_MANAGER,
    "GET /tasks/{id}": _NO_MANAGER,
    "GET /tasks/{id}/logs": _NO_MANAGER,
    "GET /secrets": _NO_MANAGER,
    "POST /secrets/create": _NO_MANAGER,
    "GET /secrets/{id}": _NO_MANAGER,
    "DELETE /secrets/{id}": _NO_MANAGER,
    "POST /secrets/{id}/update": _NO_MANAGER,
    "GET /configs": _NO_MANAGER,
    "POST /configs/create": _NO_MANAGER,
    "GET /configs/{id}": _NO_MANAGER,
    "DELETE /configs/{id}": _NO_MANAGER,
    "POST /configs/{id}/update": _NO_MANAGER,
}
"""Answered with 503."""


def routes(served: Routes) -> Routes:
    """``served``, and the refusals beside them. Raises ValueError for a path that is in both."""
    found: dict[tuple[str, ...], dict[str, Handler]] = {path: dict(methods) for path, methods in served.items()}
    for table, kind in ((NOT_THERE, NotThereError), (NO_SWARM, NoSwarmError)):
        for place, sentence in table.items():
            method, path = segments(place)
            if method in found.setdefault(path, {}):
                raise ValueError(f"served and refused: {place}")
            found[path][method] = _refusal(kind, sentence)
    return found


def segments(place: str) -> tuple[str, tuple[str, ...]]:
    """Method and path of "GET /containers/{id}/json", as ``Routes`` has them."""
    method, _, path = place.partition(" /")
    return method, tuple("*" if part.startswith("{") else part for part in path.split("/"))


def _refusal(kind: type[NotSupported], sentence: str) -> Handler:
    async def refuse(_call: Call) -> web.StreamResponse:
        raise kind(sentence)

    return refuse
