"""Responses in Docker's shape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from wherry.api.http.versions import NEWEST, Version, shown
from wherry.errors import InternalError, InvalidRequest, WherryError, printable

API_VERSION = shown(NEWEST)
JSON = "application/json"
STREAM = "application/vnd.docker.multiplexed-stream"
RAW_STREAM = "application/vnd.docker.raw-stream"

encode = msgspec.json.Encoder().encode


# Refusals of HTTP's own. They keep the wire codes of the public tree, which is all that clients know.


class PageNotFoundError(InvalidRequest):
    """The path is none of the API's."""

    status = 404


class MethodNotAllowedError(InvalidRequest):
    """The path exists, with the methods in ``allowed``."""

    status = 405

    def __init__(self, message: str, allowed: Iterable[str]) -> None:
        super().__init__(message)
        self.allowed = ", ".join(sorted(allowed))


class BodyTooLargeError(InvalidRequest):
    """A request body above the limit."""

    status = 413


class BodyTooSlowError(InvalidRequest):
    """A request body that did not arrive in time."""

    status = 408


class BadMediaTypeError(InvalidRequest):
    """A request body in a coding that is not read here."""

    status = 415


class ForbiddenError(InvalidRequest):
    """What nobody may do, or not a client of this user."""

    status = 403


class TooManyConnectionsError(InternalError):
    """More clients at once than the supervisor serves."""

    status = 503


class ReloadingError(InternalError):
    """Another program takes the supervisor's place; containers are not concerned."""

    status = 503


class TooManyRepliesError(InternalError):
    """More large answers at once than the supervisor holds for clients that do not read."""

    status = 503


class Replies:
    """Makes responses with the headers that Docker's daemon puts on every one of them."""

    def __init__(self, version: str) -> None:
        common = {
            "Api-Version": API_VERSION,
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Server": f"wherry/{version} (linux)",
        }
        self._bare = CIMultiDict(common)
        self._json = CIMultiDict({**common, "Content-Type": JSON})
        plain = {**common, "Content-Type": "text/plain; charset=utf-8"}
        self._ping = CIMultiDict(
            {
                **plain,
                "Cache-Control": "no-cache, no-store, must-revalidate",
                "Pragma": "no-cache",
                "Builder-Version": "1",  # the classic one: docker's client asks us then, and not a BuildKit
                "Swarm": "inactive",
            }
        )
        self._stream = CIMultiDict({**common, "Content-Type": STREAM})
        self._old_stream = CIMultiDict({**common, "Content-Type": RAW_STREAM})

    def json(self, value: Any, status: int = 200) -> web.Response:
        return self.encoded(encode(value), status)

    def encoded(self, body: bytes, status: int = 200) -> web.Response:
        """JSON that has been encoded."""
        return web.Response(body=body, status=status, headers=self._json)

    def empty(self, status: int) -> web.Response:
        return web.Response(status=status, headers=self._bare)

    def ping(self) -> web.Response:
        return web.Response(body=b"OK", headers=self._ping)

    def late_json(self) -> web.StreamResponse:
        """JSON that comes later than its headers."""
        return web.StreamResponse(headers=self._json)

    def frames(self, version: Version = NEWEST) -> FrameResponse:
        """Docker names the type of such a stream from 1.42 on."""
        return FrameResponse(headers=self._stream if version >= (1, 42) else self._old_stream)

    def upgraded(self, version: Version = NEWEST) -> FrameResponse:
        """The connection is a stream of frames from here on, as docker's client asks for with "Upgrade: tcp"."""
        response = self.frames(version)
        response.set_status(101, "UPGRADED")
        response.headers.update({"Connection": "Upgrade", "Upgrade": "tcp"})
        response.force_close()  # when the stream ends, as there is no other way to tell
        return response

    def failure(self, error: WherryError) -> web.Response:
        headers = self._json
        if isinstance(error, MethodNotAllowedError):
            headers = CIMultiDict({**headers, "Allow": error.allowed})
        body = encode({"message": printable(str(error)), "code": error.code})
        response = web.Response(body=body, status=error.status, headers=headers)
        if isinstance(error, BodyTooLargeError | BodyTooSlowError):
            response.force_close()
        return response


class FrameResponse(web.StreamResponse):
    """A stream whose headers leave together with its first frame, in one system call, or with ``flush``."""

    _send_headers_immediately = False

    async def flush(self, request: web.BaseRequest) -> None:
        """Prepare and send the headers now."""
        writer = await self.prepare(request)
        if writer is not None:
            writer.send_headers()
