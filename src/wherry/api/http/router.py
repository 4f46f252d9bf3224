"""From a request line to a handler, and from an exception to a response.

aiohttp's own router is not used: it would need every route twice for the optional version prefix, and it decodes "%2F"
in a name to a separator.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from aiohttp import web

from wherry.api.http.delivery import Budget
from wherry.api.http.lifetime import Lifetime
from wherry.api.http.pace import Pace
from wherry.api.http.query import Query
from wherry.api.http.replies import API_VERSION, MIN_API_VERSION, MethodNotAllowedError, PageNotFoundError, Replies
from wherry.api.needs import Engine
from wherry.errors import InternalError, InvalidRequest, NotFound, WherryError, quoted

_log = logging.getLogger(__name__)
_VERSION = re.compile(r"v([0-9]{1,4})\.([0-9]{1,4})")
_REF = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


class Call(NamedTuple):
    """One request, as a handler gets it; ``ref`` is the container (or image) in the path, "" where there is none."""

    request: web.BaseRequest
    engine: Engine
    ref: str
    query: Query
    replies: Replies
    lifetime: Lifetime
    budget: Budget
    pace: Pace


Handler = Callable[[Call], Awaitable[web.StreamResponse]]
Routes = Mapping[tuple[str, ...], Mapping[str, Handler]]
"""Path segments, "*" for a container or an image, to methods to handlers."""


class Router:
    def __init__(self, routes: Routes, engine: Engine, replies: Replies, lifetime: Lifetime) -> None:
        self._routes = routes
        self._engine = engine
        self._replies = replies
        self._lifetime = lifetime
        self.budget = Budget()
        self._pace = Pace()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            handler, call = self._resolve(request)
            return await handler(call)
        except WherryError as error:
            return self._fail(request, error)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            _log.exception("%s %s failed", request.method, quoted(request.raw_path))
            return self._fail(request, InternalError(f"internal error: {type(error).__name__}: {error}"))

    def _fail(self, request: web.BaseRequest, error: WherryError) -> web.Response:
        if request.writer.output_size > 0:
            # the status is out: only a cut connection can still tell the client that this is not the whole answer
            raise ConnectionAbortedError(str(error)) from error
        return self._replies.failure(error)

    def _resolve(self, request: web.BaseRequest) -> tuple[Handler, Call]:
        path, _, query = request.raw_path.partition("?")
        segments = _segments(path)
        handler, ref = self._find(request.method, segments)
        call = Call(
            request,
            self._engine,
            ref if segments[:1] == ("images",) else _ref(ref),
            Query(query),
            self._replies,
            self._lifetime,
            self.budget,
            self._pace,
        )
        return handler, call

    def _find(self, method: str, segments: tuple[str, ...]) -> tuple[Handler, str]:
        exact = self._routes.get(segments, {})
        if method in exact:
            return exact[method], ""
        named: Mapping[str, Handler] = {}
        if len(segments) >= 2:
            named = self._routes.get((segments[0], "*", *segments[2:]), {})
            if method in named:
                return named[method], segments[1]
        if exact or named:
            raise MethodNotAllowedError(f"method {quoted(method)} not allowed for this path")
        raise PageNotFoundError("page not found")


def _segments(path: str) -> tuple[str, ...]:
    """The path's parts without the version, each decoded on its own: an encoded slash is no separator."""
    if not path.startswith("/"):
        raise PageNotFoundError("page not found")
    parts = path[1:].split("/")
    if match := _VERSION.fullmatch(parts[0]):
        _check_version(int(match[1]), int(match[2]))
        del parts[0]
    if "%" in path:
        try:
            parts = [unquote(part, errors="strict") for part in parts]
        except UnicodeDecodeError:
            raise InvalidRequest("the path is not valid UTF-8") from None
    if parts[:1] == ["images"] and len(parts) > 3:  # docker's clients leave the slashes of a reference as they are
        parts[1:-1] = ["/".join(parts[1:-1])]
    return tuple(parts)


def _check_version(major: int, minor: int) -> None:
    version = f"{major}.{minor}"
    if (major, minor) > _numbers(API_VERSION):
        raise InvalidRequest(f"client version {version} is too new. Maximum supported API version is {API_VERSION}")
    if (major, minor) < _numbers(MIN_API_VERSION):
        raise InvalidRequest(
            f"client version {version} is too old. Minimum supported API version is {MIN_API_VERSION}, "
            "please upgrade your client to a newer version"
        )


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)


def _ref(text: str) -> str:
    ref = text.removeprefix("/")  # docker-py's Container.name and docker's own JSON have names with a slash
    if text and not _REF.fullmatch(ref):
        raise NotFound(f"No such container: {quoted(text)}")
    return ref
