"""The Python API: containers of the supervisor behind one UNIX socket.

    client = Client()                                  # ENGINE_SOCKET, or /run/wherry/engine.sock
    started = client.start("job", "rootfs", ["/bin/sleep", "60"], hard_mib=64)
    for stream, data in client.logs("job", follow=True):
        ...

Every method raises the errors of ``wherry.errors`` as the supervisor sent them (NotFound, NameInUse, CommandNotFound
...), Unavailable when no supervisor answers or it goes away in the middle, and InternalError for a reply that makes
no sense.

Threads may share a Client: each call in flight has a connection of its own, and idle connections are kept and reused. A
LogStream belongs to one thread at a time. After fork() both processes can go on using it.
"""

from __future__ import annotations

import errno
import os
import time

from wherry import defaults, errors, http1
from wherry.wire import arguments, jsontext, queries
from wherry.wire.config import MAX_MIB, absolute, changes_of, config_of
from wherry.wire.disk import DiskCalls
from wherry.wire.replies import (
    MAKES_SENSE,
    Container,
    RunResult,
    StartedContainer,
    json_object,
    started_container,
    status_from,
)
from wherry.wire.stream import STATUS, STDERR, STDOUT, LogStream, frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Literal, Self, Unpack

    from wherry.wire.callbacks import Subscription
    from wherry.wire.config import Changes, Options, StrPath
    from wherry.wire.events import Event, EventStream

    OnEvent = Callable[[Event], object]

__all__ = [
    "MAX_MIB",
    "STDERR",
    "STDOUT",
    "Client",
    "Container",
    "LogStream",
    "RunResult",
    "StartedContainer",
    "absolute",
    "socket_path",
]

_UNRESERVED = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._~")
_MAX_SOCKET_PATH = 107
_LAST_EVENT_SECONDS = 5
_NAMES_AT_ONCE = 64
"""So that a request's first line stays below the 16 KiB that the supervisor reads."""
_CLOSED = "the client was closed while it waited for the supervisor"
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


class Client(DiskCalls):
    """The supervisor at ``socket`` (default: ENGINE_SOCKET, then /run/wherry/engine.sock).

    ``timeout`` is how many seconds the supervisor may take to answer; calls that wait for a container or may unpack an
    archive (run, start, stop, wait, following logs) have no limit, None means none for the others either. Nothing is
    connected before the first call.
    """

    def __init__(self, socket: StrPath | None = None, timeout: float | None = 60) -> None:
        if timeout is not None:
            arguments.number("timeout", timeout, 1e-9, 1e9, "a number of seconds above 0, or None")
        self.socket = socket_path(socket)
        self._timeout = timeout
        self._pool = http1.Pool(self.socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, from any thread or signal handler; the client stays usable.

        Streams (logs, events, subscriptions) end as if they had been closed themselves; other calls under way, run and
        wait among them, raise Unavailable. Containers go on.
        """
        self._pool.close()

    def start(
        self,
        name: str | None,
        rootfs: StrPath | None = None,
        command: Sequence[StrPath] | None = None,
        *,
        replace: bool = False,
        on_soft_limit: OnEvent | None = None,
        **options: Unpack[Options],
    ) -> StartedContainer:
        """Start a container and return once its command has been executed; without ``name`` the supervisor makes one.

        With ``name`` alone (or an id) a container that is there and does not run is started again, as it was made;
        one that runs is left alone, and ``was_running`` says so. With ``replace`` a container that has the name is
        stopped and removed before; when the new one cannot be started then, the error says that the old one is gone.

        ``on_soft_limit(event)`` is called, from a thread of its own, each time the container's memory crosses its soft
        limit. Other options are those of ``container_config``. Raises StartFailed, CommandNotFound, NotExecutable,
        NameInUse, RootfsInUse, InvalidRequest, and NotFound for a name alone; nothing is left behind then.
        """
        arguments.callback("on_soft_limit", on_soft_limit)
        begin = time.time_ns()
        if rootfs is None and command is None:
            query = queries.start(name, replace, options)
            reply = self._fetch("POST", "/wherry/start", query, patient=True)
        else:
            config = config_of("start", rootfs, command, options)
            query = queries.run(name, stream=False, replace=replace)
            reply = self._fetch("POST", "/wherry/run", query, config, patient=True)
        with MAKES_SENSE:
            started = started_container(reply)
        if on_soft_limit is not None:
            self.subscribe(started.id, {"soft-limit": on_soft_limit}, since_ns=begin)
        return started

    def run(
        self,
        name: str | None,
        rootfs: StrPath,
        command: Sequence[StrPath],
        *,
        replace: bool = False,
        on_output: Callable[[int, bytes], object] | None = None,
        on_start: Callable[[StartedContainer], object] | None = None,
        on_soft_limit: OnEvent | None = None,
        **options: Unpack[Options],
    ) -> RunResult:
        """Start a container, wait until it has ended, and return how it ended with all that it wrote.

        Every byte comes here: when the caller is slower than the container, and the log's files hold no more, the
        container waits. With ``log_mode`` "non-blocking" it never does, and ``lost_bytes`` of the result says how much
        gave way. With ``on_output(stream, data)`` output is handed over as it comes (1 stdout, 2 stderr) and not
        collected; ``on_start`` is called once the command has been executed. ``on_soft_limit(event)`` is called when
        memory crosses the soft limit, from a thread of its own, and for the last time before ``run`` returns. An
        exception from the first two ends the call, not the container. ``replace`` is as in ``start``. Raises what
        ``start`` raises, and Unavailable when the supervisor goes away meanwhile.
        """
        config = config_of("run", rootfs, command, options)
        for argument, call in (("on_output", on_output), ("on_start", on_start), ("on_soft_limit", on_soft_limit)):
            arguments.callback(argument, call)
        begin = time.time_ns()
        query = queries.run(name, stream=True, replace=replace)
        subscription: Subscription | None = None
        response = self._send("POST", "/wherry/run", query, config, patient=True)
        written: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        take = on_output or (lambda stream, data: written[stream].append(data))
        try:
            for kind, data in self._frames(response):
                if kind != STATUS:
                    take(kind, bytes(data))
                    continue
                status = status_from(_decoded(bytes(data)))
                if isinstance(status, RunResult):
                    status.stdout, status.stderr = b"".join(written[STDOUT]), b"".join(written[STDERR])
                    _drain(response)
                    if subscription is not None:
                        subscription.wait(_LAST_EVENT_SECONDS)
                    return status
                if status and on_soft_limit is not None:
                    subscription = self.subscribe(status.id, {"soft-limit": on_soft_limit}, since_ns=begin)
                if status and on_start:
                    on_start(status)
        finally:
            response.close()
            if subscription is not None:
                subscription.close()
        if response.was_closed:
            raise errors.Unavailable(_CLOSED)
        raise errors.Unavailable(f"the supervisor at {self.socket} did not say how the container ended")

    def ps(self, running: bool = False) -> list[Container]:
        """The tracked containers, ended ones too, newest first; ``running`` leaves out the others."""
        reply = self._fetch("GET", "/containers/json", {"all": queries.boolean("running", running, no="1", yes="0")})
        with MAKES_SENSE:
            return [Container(entry) for entry in reply]

    def inspect(self, name: str) -> dict[str, Any]:
        """Everything known of one container, as Docker's inspect with our ``Wherry`` object."""
        return json_object(self._fetch("GET", _of(name, "json")))

    def logs(  # noqa: PLR0913 (docker's has as many)
        self,
        name: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        timestamps: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        after: str | None = None,
    ) -> LogStream:
        """What the container wrote, as (stream, data) in the order it was captured.

        ``follow`` waits for more until the container has ended. ``tail`` counts lines over the chosen streams (None:
        all), ``since_ns`` and ``until_ns`` are wall clock nanoseconds since the epoch, ``timestamps`` puts the time
        before each line. ``after`` is the ``cursor`` of an earlier stream: this one goes on behind it. It never makes
        the container wait; what was rotated away before it was read counts in ``lost_bytes`` of the stream.
        The call raises NotFound, and InvalidRequest for another container's cursor; iterating may raise Unavailable.
        """
        query = queries.logs(follow, tail, since_ns, until_ns, timestamps, stdout, stderr, after)
        response = self._send("GET", _of(name, "logs"), query, patient=follow)
        return LogStream(self._frames(response), response.close, counts=not timestamps, after=after or "")

    def stats(self, name: str) -> dict[str, Any]:
        """What the container uses at this moment, as one object of Docker's stats, with our ``Wherry`` object.

        CPU times are totals in nanoseconds: two calls make a share. Raises NotFound.
        """
        return json_object(self._fetch("GET", _of(name, "stats"), {"stream": "0", "one-shot": "1"}))

    def stats_of(self, names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """As ``stats``, of many containers by one request: all that run, or ``names``. Raises NotFound."""
        found, asked = [], arguments.words("names", names)
        for begin in range(0, max(len(asked), 1), _NAMES_AT_ONCE):
            some = ",".join(_quoted_name(name) for name in asked[begin : begin + _NAMES_AT_ONCE])
            reply = self._fetch("GET", "/wherry/stats", {"names": some or None})
            with MAKES_SENSE:
                found += [json_object(entry) for entry in reply]
        return found

    def events(
        self,
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
        filters: Mapping[str, str | Sequence[str]] | None = None,
    ) -> EventStream:
        """What happens to containers from now on, as it happens: ``for event in client.events(): ...``.

        ``since_ns`` begins with what has happened since then, as far as the supervisor remembers (the last 8192
        events, those of its predecessors of up to 7 days ago among them); ``until_ns`` ends the stream at that time,
        else it ends with the supervisor. Both are nanoseconds since the epoch. ``filters`` are docker's: container,
        event, label, image, type, each with a value
        or several. Raises InvalidRequest; iterating may raise Unavailable.
        """
        from wherry.wire.events import EventStream  # noqa: PLC0415 (few calls need it)

        query = queries.events(since_ns, until_ns, filters)
        response = self._send("GET", "/events", query, patient=True)
        return EventStream(self._pieces(response), response.close)

    def subscribe(self, name: str, handlers: Mapping[str, OnEvent], *, since_ns: int | None = None) -> Subscription:
        """Have a function called for each event of a container, by kind ("soft-limit", "die" ...), until it has ended.

        Calls come from a thread of the subscription's. ``since_ns`` as in ``events``.
        """
        from wherry.wire.callbacks import Subscription  # noqa: PLC0415 (loads threading)

        for kind, handler in handlers.items():
            arguments.callback(f"handlers[{kind!r}]", handler)
        return Subscription(self.events(since_ns=since_ns, filters={"container": name}), handlers)

    def stop(self, name: str, seconds: float | None = None) -> bool:
        """Ask the container to end (SIGTERM), end it after ``seconds`` (SIGKILL; -1: never), return when it has ended.

        None is the container's own time, or 10 seconds when it has none: then one that has made no arrangement for the
        signal is killed at once. False means that it was not running. Raises NotFound, and NotKilled when a process has
        not ended 10 seconds after SIGKILL.
        """
        return self._done("POST", _of(name, "stop"), queries.stop(seconds), patient=True)

    def kill(self, name: str, signal: str | int = "KILL") -> None:
        """Send a signal, by name or number, to the container's first process.

        Raises NotFound, and Conflict when it is not running.
        """
        self._done("POST", _of(name, "kill"), queries.kill(signal))

    def update(self, name: str, **changes: Unpack[Changes]) -> None:
        """Change what a container may use, at once if it runs, else from its next start on.

        Options are those of ``container_config``, where None leaves a thing as it is, ``cpus`` 0 and ``pids_limit`` -1
        take the limit away. A new nice value is given to every process of the container, also to one that has changed
        its own. ``soft_mib`` and ``hard_mib`` need a container that was started with such a limit. Raises NotFound,
        InvalidRequest, NotSupported, and Conflict when the container is just ending.
        """
        self._done("POST", _of(name, "update"), body=changes_of("update", changes))

    def rm(self, name: str, force: bool = False) -> None:
        """Forget an ended container and delete its files; ``force`` kills a running one.

        Raises NotFound, Conflict, and NotKilled as ``stop``.
        """
        query = {"force": queries.boolean("force", force)}
        self._done("DELETE", f"/containers/{_quoted_name(name)}", query, patient=True)

    def wait(self, name: str, condition: Literal["not-running", "next-exit", "removed"] = "not-running") -> int:
        """Wait for a container and return its exit code (128+N after signal N). Raises NotFound.

        How the last 10,000 removed containers ended is remembered for 7 days, also by the next supervisor:
        "not-running" and "removed" give that at once, by id, unique beginning of an id, or name (of a name the
        container that lives, else the one removed last).
        """
        reply = self._fetch("POST", _of(name, "wait"), queries.wait(condition), patient=True)
        with MAKES_SENSE:
            return int(reply["StatusCode"])

    def info(self) -> dict[str, Any]:
        """The supervisor and its machine, as Docker's info with our ``Wherry`` object."""
        return json_object(self._fetch("GET", "/info"))

    def version(self) -> dict[str, Any]:
        """The supervisor's version, as Docker's version."""
        return json_object(self._fetch("GET", "/version"))

    def ping(self) -> str:
        """The name and version of whoever answers on the socket ("wherry/0.1.0"); raises Unavailable."""
        response = self._send("GET", "/_ping")
        self._body(response)
        return response.headers.get("server", "")

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
        return _decoded(self._body(self._send(method, path, query, body, patient)))

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None = None,
        body: dict[str, object] | None = None,
        patient: bool = False,
    ) -> http1.Response:
        """A reply with a good status; ``patient`` waits for it as long as it takes."""
        limit = None if patient else self._timeout
        try:
            response = self._pool.request(method, path + _encoded(query or {}), _serialised(body), timeout=limit)
        except (OSError, http1.ProtocolError) as failure:
            raise self._explained(failure) from failure
        if response.status >= 400:
            raise _error(response, self._body(response))
        return response

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
            return errors.Unavailable(_CLOSED)
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


def _drain(response: http1.Response) -> None:
    """Take the end of a stream that has said all, so that its connection can be kept; a broken end changes nothing."""
    try:
        response.read(limit=0)
    except (OSError, http1.ProtocolError):
        response.close()


def _quoted(text: str) -> str:
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in os.fsencode(text))


def _quoted_name(name: str) -> str:
    if not isinstance(name, str):
        arguments.refuse("name", name, "a container's name or id")
    # These would make another path of it, quoted or not (RFC 3986, section 5.2.4); no container can have such a name.
    if name in {"", ".", ".."}:
        raise errors.NotFound(f"No such container: {name!r}")
    return _quoted(name)


def _of(name: str, what: str) -> str:
    return f"/containers/{_quoted_name(name)}/{what}"


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


def _decoded(body: bytes) -> Any:
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
