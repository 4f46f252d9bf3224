"""Responses in Docker's shape."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from wherry.errors import InternalError, InvalidRequest, WherryError

API_VERSION = "1.41"
MIN_API_VERSION = "1.24"
JSON = "application/json"
STREAM = "application/vnd.docker.multiplexed-stream"

encode = msgspec.json.Encoder().encode


# Refusals of HTTP's own. They keep the wire codes of the public tree, which is all that clients know.


class PageNotFoundError(InvalidRequest):
    """The path is none of the API's."""

    status = 404


class MethodNotAllowedError(InvalidRequest):
    """The path exists, with another method."""

    status = 405


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
    """A client of another user."""

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
        self._plain = CIMultiDict({**common, "Content-Type": "text/plain; charset=utf-8"})
        self._stream = CIMultiDict({**common, "Content-Type": STREAM})
        self._upgraded = CIMultiDict({**self._stream, "Connection": "Upgrade", "Upgrade": "tcp"})

    def json(self, value: Any, status: int = 200) -> web.Response:
        return self.encoded(encode(value), status)

    def encoded(self, body: bytes, status: int = 200) -> web.Response:
        """JSON that has been encoded."""
        return web.Response(body=body, status=status, headers=self._json)

    def empty(self, status: int) -> web.Response:
        return web.Response(status=status, headers=self._bare)

    def text(self, text: str) -> web.Response:
        headers = self._plain.copy()
        headers["Cache-Control"] = "no-cache, no-store, must-revalidate"
        return web.Response(body=text.encode(), headers=headers)

    def late_json(self) -> web.StreamResponse:
        """JSON that comes later than its headers."""
        return web.StreamResponse(headers=self._json)

    def frames(self) -> FrameResponse:
        return FrameResponse(headers=self._stream)

    def upgraded(self) -> FrameResponse:
        """The connection is a stream of frames from here on, as docker's client asks for with "Upgrade: tcp"."""
        response = FrameResponse(status=101, reason="UPGRADED", headers=self._upgraded)
        response.force_close()  # when the stream ends, as there is no other way to tell
        return response

    def failure(self, error: WherryError) -> web.Response:
        response = self.json({"message": str(error), "code": error.code}, error.status)
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
