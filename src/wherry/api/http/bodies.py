"""Request bodies: bounded in size and in time, JSON only."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from wherry.api.http.replies import JSON, BadMediaTypeError, BodyTooLargeError, BodyTooSlowError
from wherry.errors import InvalidRequest

MAX_BODY = 4 * 1024 * 1024
MAX_PARTS = 200_000
"""Objects and arrays in a body, and a quarter of the quotation marks: what takes the decoder, which holds the
interpreter all the time, 200 ms for 4 MiB of {}."""
BODY_SECONDS = 30.0
"""A client on the same machine that needs longer for 4 MiB is not going to finish."""


async def read_body(request: web.BaseRequest) -> bytes:
    """The whole body, at most MAX_BODY bytes.

    Raises:
        BodyTooLargeError, BodyTooSlowError, BadMediaTypeError
        InvalidRequest: it ended early.
    """
    if not request.body_exists:
        return b""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadMediaTypeError("compressed request bodies are not supported")
    if (request.content_length or 0) > MAX_BODY:
        raise _too_large()
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _collect(request)
    except TimeoutError:
        raise BodyTooSlowError(f"the request body did not arrive within {BODY_SECONDS:g} s") from None
    except web.RequestPayloadError as error:
        raise InvalidRequest(f"the request body is malformed or ended early: {type(error).__name__}") from None


async def _collect(request: web.BaseRequest) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await request.content.readany():
        size += len(part)
        if size > MAX_BODY:
            raise _too_large()
        parts.append(part)
    return b"".join(parts)


async def read_json(request: web.BaseRequest) -> Any:
    """The body as JSON (dicts, lists, strings, numbers).

    Raises:
        InvalidRequest: no body, another content type, or no JSON; besides what ``read_body`` raises.
    """
    body = await read_body(request)
    if not body:
        raise InvalidRequest("invalid JSON: the request body is empty")
    kind = request.headers.get("Content-Type", JSON).partition(";")[0].strip().lower()
    if kind != JSON:
        raise InvalidRequest(f"unsupported Content-Type header ({kind!r}): must be {JSON!r}")
    if body.count(b"{") + body.count(b"[") > MAX_PARTS or body.count(b'"') > 4 * MAX_PARTS:
        raise InvalidRequest(f"invalid JSON: more than {MAX_PARTS} objects and arrays, or twice as many strings")
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise InvalidRequest("invalid JSON: nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"invalid JSON: {error}") from None


def _too_large() -> BodyTooLargeError:
    return BodyTooLargeError(f"the request body is larger than {MAX_BODY} bytes")
