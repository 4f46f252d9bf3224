"""Requests to the supervisor and its replies, errors explained: what ``client.Client`` speaks through."""

from __future__ import annotations

import errno
import os

from wherry import defaults, errors
from wherry.client import arguments, http1, jsontext
from wherry.client.replies import RunResult, status_from
from wherry.client.stream import STATUS, STDERR, STDOUT, frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from wherry.client.config import StrPath
    from wherry.client.feeding import Input
    from wherry.client.replies import StartedContainer

_UNRESERVED = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._~")
_MAX_SOCKET_PATH = 107
CLOSED = "the client was closed while it waited for the supervisor"
_BY_STATUS: dict[int, type[errors.WherryError]] = {
    400: errors.InvalidRequest,
    404: errors.NotFound,
    409: errors.Conflict,
}


def socket_path(path: StrPath | None = None) -> str:
    """Where the supervisor is: ``path``, or ENGINE_SOCKET, or the default; "unix://" before it is dropped, as docker
    does.

    Raises InvalidRequest for a path that the kernel cannot take (sun_path of unix(7): 107 bytes and a NUL).
    """
    given = None if path is None else arguments.path("socket", path)
    path = (given or os.environ.get("ENGINE_SOCKET") or defaults.SOCKET).removeprefix("unix://")
    size = len(os.fsencode(path))
    if size > _MAX_SOCKET_PATH:
        raise errors.InvalidRequest(f"socket path is {size} bytes long, the most is {_MAX_SOCKET_PATH}: {path}")
    if not path or "\0" in path:
        raise errors.InvalidRequest(f"not a socket path: {path!r}")
    return path


class Transport:
    """Connections to the supervisor at ``socket``. Raises Unavailable, and what a reply says."""

    def __init__(self, socket: StrPath | None = None, timeout: float | None = 60) -> None:
        if timeout is not None:
            arguments.number("timeout", timeout, 1e-9, 1e9, "a number of seconds above 0, or None")
        self.socket = socket_path(socket)
        self._timeout = timeout
        self._pool = http1.Pool(self.socket)

    def _done(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None = None,
        body: dict[str, object] | None = None,
        patient: bool = False,
    ) -> bool:
        response = self._send(method, path, query, body, patient)
        self._body(response)
        return response.status != 304

    def _fetch(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None = None,
        body: dict[str, object] | None = None,
        patient: bool = False,
    ) -> Any:
        return decoded(self._body(self._send(method, path, query, body, patient)))

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None = None,
        body: dict[str, object] | None = None,
        patient: bool = False,
        upgrade: bool = False,
        limit: float | None = None,
    ) -> http1.Response:
        """A reply with a good status; ``patient`` waits for it as long as it takes, ``limit`` takes the place of the
        client's time, ``upgrade`` asks for a stream both ways.
        """
        limit = None if patient else limit or self._timeout
        try:
            target = path + _encoded(query or {})
            response = self._pool.request(method, target, _serialised(body), timeout=limit, upgrade=upgrade)
        except (OSError, http1.ProtocolError) as failure:
            raise self._explained(failure) from failure
        if response.status >= 400:
            raise _error(response, self._body(response))
        return response

    def _conversation(
        self, path: str, query: Mapping[str, str | None], body: dict[str, Any] | None, given: Input | None
    ) -> http1.Response:
        """A reply that is read while ``given`` is sent."""
        if given is not None:
            from wherry.client.feeding import pieces_of  # noqa: PLC0415 (few calls have input)

            pieces_of(given)  # before anything is started
        response = self._send("POST", path, query, body, patient=True, upgrade=given is not None)
        if given is not None and response.status == 101:
            response.feed(given)
        return response

    def _collected(
        self,
        response: http1.Response,
        what: str,
        on_output: Callable[[int, bytes], object] | None,
        on_start: Callable[[StartedContainer], object] = lambda _: None,
    ) -> RunResult:
        """How ``what`` has ended, with its output unless ``on_output`` takes it; ``on_start`` gets what comes before.

        Raises Unavailable when the stream ends without that.
        """
        written: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        take = on_output or (lambda stream, data: written[stream].append(data))
        has_begun = False
        try:
            for kind, data in self._frames(response):
                if kind != STATUS:
                    take(kind, bytes(data))
                    continue
                status = status_from(decoded(bytes(data)))
                if isinstance(status, RunResult):
                    status.stdout, status.stderr = b"".join(written[STDOUT]), b"".join(written[STDERR])
                    drain(response)
                    return status
                has_begun = True
                if status is not None:
                    on_start(status)
            raise self._unended(response, what)
        except errors.Unavailable as error:
            error.has_begun = has_begun
            raise
        finally:
            response.close()

    def _unended(self, response: http1.Response, what: str) -> errors.Unavailable:
        if response.was_closed:
            return errors.Unavailable(CLOSED)
        return errors.Unavailable(f"the supervisor at {self.socket} did not say how the {what} ended")

    def _body(self, response: http1.Response) -> bytes:
        try:
            return response.read()
        except (OSError, http1.ProtocolError) as failure:
            raise self._explained(failure) from failure

    def _frames(self, response: http1.Response) -> Iterator[tuple[int, memoryview]]:
        try:
            yield from frames(response)
        except http1.ClosedError:
            return
        except (OSError, http1.ProtocolError) as failure:
            raise self._explained(failure) from failure

    def _pieces(self, response: http1.Response) -> Iterator[memoryview]:
        try:
            yield from response
        except http1.ClosedError:
            return
        except (OSError, http1.ProtocolError) as failure:
            raise self._explained(failure) from failure

    def _explained(self, failure: Exception) -> errors.WherryError:
        """One line that says what is wrong and, where it is known, what to do."""
        where = self.socket
        if isinstance(failure, http1.ClosedError):
            return errors.Unavailable(CLOSED)
        if isinstance(failure, http1.TruncatedError):
            return errors.Unavailable(f"the supervisor at {where} went away: {failure}")
        if isinstance(failure, TimeoutError):
            return errors.Unavailable(f"the supervisor at {where} did not answer in time")
        if not isinstance(failure, OSError):
            return errors.InternalError(f"no sensible reply from {where}: {failure}")
        if failure.errno == errno.EACCES:
            return errors.Unavailable(f"permission denied on {where}: be the user who runs the supervisor, or root")
        if failure.errno in {errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR}:
            there = "" if where == defaults.SOCKET else f" --socket {where}"
            return errors.Unavailable(
                f"no supervisor is running at {where}: start one with `engine supervisor ROOTFS{there}`"
            )
        return errors.Unavailable(f"cannot reach the supervisor at {where}: {failure.strerror or failure}")


def drain(response: http1.Response) -> None:
    """Take the end of a stream that has said all, so that its connection can be kept; a broken end changes nothing."""
    try:
        response.read(limit=0)
    except (OSError, http1.ProtocolError):
        response.close()


def _quoted(text: str) -> str:
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in os.fsencode(text))


def quoted_name(name: str) -> str:
    if not isinstance(name, str):
        arguments.refuse("name", name, "a container's name or id")
    # These would make another path of it, quoted or not (RFC 3986, section 5.2.4); no container can have such a name.
    if name in {"", ".", ".."}:
        raise errors.NotFound(f"No such container: {name!r}")
    return _quoted(name)


def path_of(name: str, what: str) -> str:
    return f"/containers/{quoted_name(name)}/{what}"


def _encoded(query: Mapping[str, str | None]) -> str:
    given = [f"{key}={_quoted(value)}" for key, value in query.items() if value is not None]
    return "?" + "&".join(given) if given else ""


def _serialised(body: dict[str, object] | None) -> bytes | None:
    if body is None:
        return None
    try:
        return jsontext.encode(body).encode()
    except UnicodeEncodeError as failure:
        # Bytes of a command line that are not UTF-8 become lone surrogates in Python, and JSON cannot carry them.
        text = failure.object[max(failure.start - 20, 0) : failure.end + 20]
        raise errors.InvalidRequest(f"not UTF-8, which is all the supervisor takes: {text!r}") from None
    except TypeError as failure:
        raise errors.InvalidRequest(f"an option has a value of the wrong type: {failure}") from None


def decoded(body: bytes) -> Any:
    try:
        return jsontext.decode(body)
    except (ValueError, RecursionError) as failure:
        raise errors.InternalError(f"the supervisor's reply is not JSON: {failure}") from None


def _error(response: http1.Response, body: bytes) -> errors.WherryError:
    """The supervisor's error; without our code (another engine, a proxy) by the status."""
    try:
        reply = jsontext.decode(body)
        message = str(reply["message"])
        code = reply.get("code")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return errors.InternalError(f"the supervisor answered {response.status} {response.reason}")
    if isinstance(code, str):
        return errors.from_wire(code, message)
    return _BY_STATUS.get(response.status, errors.InternalError)(message)
