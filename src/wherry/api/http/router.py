"""From a request line to a handler, and from an exception to a response.

aiohttp's own router is not used: it would need every route twice for the optional version prefix, and it decodes "%2F"
in a name to a separator.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from aiohttp import web

from wherry.api.http.delivery import Budget
from wherry.api.http.lifetime import Lifetime
from wherry.api.http.pace import Pace
from wherry.api.http.query import Query
from wherry.api.http.replies import MethodNotAllowedError, PageNotFoundError, Replies
from wherry.api.http.versions import NEWEST, Version, of_segment
from wherry.api.needs import Engine
from wherry.errors import InternalError, InvalidRequest, NotFound, WherryError, quoted

_log = logging.getLogger(__name__)
_REF = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_SLASHED = frozenset({"images", "distribution", "plugins"})
"""What has references with slashes, which docker's clients leave as they are."""


class Call(NamedTuple):
    """One request, as a handler gets it; ``ref`` is what the path names (a container, an image ...), "" without that.

    ``version`` is the one of docker's API that the path asks for, else the newest.
    """

    request: web.BaseRequest
    engine: Engine
    ref: str
    query: Query
    replies: Replies
    lifetime: Lifetime
    budget: Budget
    pace: Pace
    version: Version = NEWEST


Handler = Callable[[Call], Awaitable[web.StreamResponse]]
Routes = Mapping[tuple[str, ...], Mapping[str, Handler]]
"""Path segments, the second "*" for what a path names, to methods to handlers."""


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
        response = self._replies.failure(error)
        if "Upgrade" in request.headers:
            response.force_close()  # aiohttp reads no further request after one that has asked for it
        return response

    def _resolve(self, request: web.BaseRequest) -> tuple[Handler, Call]:
        path, _, query = request.raw_path.partition("?")
        version, segments = _parsed(path)
        handler, ref = self._find(request.method, segments)
        call = Call(
            request,
            self._engine,
            _ref(ref) if segments[0] == "containers" else ref,
            Query(query),
            self._replies,
            self._lifetime,
            self.budget,
            self._pace,
            version,
        )
        return handler, call

    def _find(self, method: str, segments: tuple[str, ...]) -> tuple[Handler, str]:
        allowed: set[str] = set()
        for path, ref in _readings(segments):
            handlers = self._routes.get(path, {})
            if method in handlers:
                return handlers[method], ref
            allowed.update(handlers)
        if allowed:
            raise MethodNotAllowedError(f"method {quoted(method)} not allowed for this path", allowed)
        raise PageNotFoundError("page not found")


def _readings(segments: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paths of ``Routes`` that the segments may mean, with what they name then."""
    yield segments, ""
    if len(segments) < 2:
        return
    kind, rest = segments[0], segments[1:]
    if kind in _SLASHED and len(rest) > 1:
        yield (kind, "*", rest[-1]), "/".join(rest[:-1])
        yield (kind, "*"), "/".join(rest)
    else:
        yield (kind, "*", *rest[1:]), rest[0]


def _parsed(path: str) -> tuple[Version, tuple[str, ...]]:
    """The version, and the parts behind it, each decoded on its own: an encoded slash is no separator."""
    if not path.startswith("/"):
        raise PageNotFoundError("page not found")
    parts = path[1:].split("/")
    version = of_segment(parts[0])
    if version is not None:
        del parts[0]
    if "%" in path:
        try:
            parts = [unquote(part, errors="strict") for part in parts]
        except UnicodeDecodeError:
            raise InvalidRequest("the path is not valid UTF-8") from None
    return version or NEWEST, tuple(parts)


def _ref(text: str) -> str:
    ref = text.removeprefix("/")  # docker-py's Container.name and docker's own JSON have names with a slash
    if text and not _REF.fullmatch(ref):
        raise NotFound(f"No such container: {quoted(text)}")
    return ref
