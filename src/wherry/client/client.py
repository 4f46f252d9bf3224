"""``Client``: what a caller can ask the supervisor for."""

from __future__ import annotations

import time

from wherry import errors
from wherry.client import arguments, queries
from wherry.client.config import changes_of, config_of
from wherry.client.disk import DiskCalls
from wherry.client.replies import (
    MAKES_SENSE,
    Container,
    ProcessTable,
    RunResult,
    StartedContainer,
    json_object,
    started_container,
)
from wherry.client.stream import LogStream
from wherry.client.transport import decoded, path_of, quoted_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Literal, Self, Unpack

    from wherry.client.callbacks import Subscription
    from wherry.client.config import Changes, ExecOptions, Options, StrPath
    from wherry.client.events import Event, EventStream
    from wherry.client.feeding import Input
    from wherry.client.replies import StartedExec

    OnEvent = Callable[[Event], object]

_LAST_EVENT_SECONDS = 5
_NAMES_AT_ONCE = 64
"""So that a request's first line stays below the 16 KiB that the supervisor reads."""


class Client(DiskCalls):
    """The supervisor at ``socket`` (default: ENGINE_SOCKET, then /run/wherry/engine.sock).

    ``timeout`` is how many seconds the supervisor may take to answer; calls that wait for a container or may unpack an
    archive (run, start, stop, wait, following logs) have no limit, None means none for the others either. Nothing is
    connected before the first call.
    """

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
        limit. Other options are those of ``client.config``. Raises StartFailed, CommandNotFound, NotExecutable,
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
        input: Input | None = None,  # noqa: A002 (as subprocess)
        **options: Unpack[Options],
    ) -> RunResult:
        """Start a container, wait until it has ended, and return how it ended with all that it wrote.

        Every byte comes here: when the caller is slower than the container, and the log's files hold no more, the
        container waits. With ``log_mode`` "non-blocking" it never does, and ``lost_bytes`` of the result says how much
        gave way. With ``on_output(stream, data)`` output is handed over as it comes (1 stdout, 2 stderr) and not
        collected; ``on_start`` is called once the command has been executed. ``on_soft_limit(event)`` is called when
        memory crosses the soft limit, from a thread of its own, and for the last time before ``run`` returns. An
        exception from the first two ends the call, not the container. ``input`` (bytes, a string, or an iterable of
        bytes such as an open file) is its standard input, sent while output is read and then closed; a command that
        does not read it all is no error. ``replace`` is as in ``start``. Raises what ``start`` raises, and Unavailable
        when the supervisor goes away meanwhile.
        """
        config = config_of("run", rootfs, command, options)
        if input is not None:
            config |= {"OpenStdin": True, "StdinOnce": True}
        for argument, call in (("on_output", on_output), ("on_start", on_start), ("on_soft_limit", on_soft_limit)):
            arguments.callback(argument, call)
        begin = time.time_ns()
        query = queries.run(name, stream=True, replace=replace, has_input=input is not None)
        subscription: Subscription | None = None
        response = self._conversation("/wherry/run", query, config, input)

        def begun(started: StartedContainer) -> None:
            nonlocal subscription
            if on_soft_limit is not None:
                subscription = self.subscribe(started.id, {"soft-limit": on_soft_limit}, since_ns=begin)
            if on_start:
                on_start(started)

        try:
            result = self._collected(response, "container", on_output, begun)
            if subscription is not None:
                subscription.wait(_LAST_EVENT_SECONDS)
            return result
        finally:
            if subscription is not None:
                subscription.close()

    def attach(
        self,
        name: str,
        *,
        input: Input | None = None,  # noqa: A002
        on_output: Callable[[int, bytes], object] | None = None,
    ) -> RunResult:
        """Follow a container that runs to its end: what it writes from now on, and how it ended.

        As ``run``, every byte comes here. ``input`` goes to its standard input if it was made with one (``stdin``),
        which stays open then; the one of a container of ``run`` ends with the first client that feeds it. Raises
        NotFound, Conflict when it does not run, and Unavailable.
        """
        arguments.callback("on_output", on_output)
        response = self._conversation(path_of(name, "attach"), queries.attach(input is not None), None, input)
        return self._collected(response, "container", on_output)

    def exec(
        self,
        name: str,
        command: Sequence[StrPath],
        *,
        on_output: Callable[[int, bytes], object] | None = None,
        input: Input | None = None,  # noqa: A002
        **options: Unpack[ExecOptions],
    ) -> RunResult:
        """Execute a command in a container that runs, wait until it has ended, and return how, with what it wrote.

        ``env`` is put over the container's; ``working_dir`` and ``user`` are the container's own by default;
        ``privileged`` gives all capabilities; ``timeout`` ends, after that many seconds, all that it has started: then
        ``reason`` is "timed_out". ``on_output`` and ``input`` are as in ``run``; without ``input`` it is /dev/null.
        Raises NotFound, Conflict when the container does not run, CommandNotFound, NotExecutable, StartFailed,
        InvalidRequest (an unknown user, a missing directory), and Unavailable when the supervisor goes away meanwhile:
        the command goes on then, and its input ends.
        """
        from wherry.client import execs  # noqa: PLC0415 (few calls need it)

        arguments.callback("on_output", on_output)
        return execs.run(self, queries.container(name), execs.body_of("exec", command, options), on_output, input)

    def start_exec(self, name: str, command: Sequence[StrPath], **options: Unpack[ExecOptions]) -> StartedExec:
        """As ``exec``, but return once the command has been executed; what it writes is lost. ``inspect_exec`` tells
        what becomes of it.
        """
        from wherry.client import execs  # noqa: PLC0415 (as above)

        return execs.start(self, queries.container(name), execs.body_of("start_exec", command, options))

    def inspect_exec(self, exec_id: str) -> dict[str, Any]:
        """What is known of an exec, as Docker's inspect of it with our ``Wherry`` object. Raises NotFound."""
        return json_object(self._fetch("GET", f"/exec/{quoted_name(exec_id)}/json"))

    def ps(
        self,
        running: bool = False,
        *,
        filters: Mapping[str, str | Sequence[str]] | None = None,
        limit: int | None = None,
    ) -> list[Container]:
        """The tracked containers, ended ones too, newest first; ``running`` leaves out the others, ``limit`` all but
        the newest. ``filters`` are docker's: ``{"label": "app=web", "status": ["exited", "created"]}``.

        Raises InvalidRequest for a filter that there is not.
        """
        reply = self._fetch("GET", "/containers/json", queries.ps(running, filters, limit))
        with MAKES_SENSE:
            return [Container(entry) for entry in reply]

    def inspect(self, name: str) -> dict[str, Any]:
        """Everything known of one container, as Docker's inspect with our ``Wherry`` object."""
        return json_object(self._fetch("GET", path_of(name, "json")))

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
        response = self._send("GET", path_of(name, "logs"), query, patient=follow)
        return LogStream(self._frames(response), response.close, counts=not timestamps, after=after or "")

    def stats(self, name: str) -> dict[str, Any]:
        """What the container uses at this moment, as one object of Docker's stats, with our ``Wherry`` object.

        CPU times are totals in nanoseconds: two calls make a share. Raises NotFound.
        """
        return json_object(self._fetch("GET", path_of(name, "stats"), {"stream": "0", "one-shot": "1"}))

    def stats_of(self, names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """As ``stats``, of many containers by one request: all that run, or ``names``. Raises NotFound."""
        found, asked = [], arguments.words("names", names)
        for begin in range(0, max(len(asked), 1), _NAMES_AT_ONCE):
            some = ",".join(quoted_name(name) for name in asked[begin : begin + _NAMES_AT_ONCE])
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
        from wherry.client.events import EventStream  # noqa: PLC0415 (few calls need it)

        query = queries.events(since_ns, until_ns, filters)
        response = self._send("GET", "/events", query, patient=True)
        return EventStream(self._pieces(response), response.close)

    def subscribe(self, name: str, handlers: Mapping[str, OnEvent], *, since_ns: int | None = None) -> Subscription:
        """Have a function called for each event of a container, by kind ("soft-limit", "die" ...), until it has ended.

        Calls come from a thread of the subscription's. ``since_ns`` as in ``events``.
        """
        from wherry.client.callbacks import Subscription  # noqa: PLC0415 (loads threading)

        for kind, handler in handlers.items():
            arguments.callback(f"handlers[{kind!r}]", handler)
        return Subscription(self.events(since_ns=since_ns, filters={"container": name}), handlers)

    def stop(self, name: str, seconds: float | None = None) -> bool:
        """Ask the container to end (SIGTERM), end it after ``seconds`` (SIGKILL; -1: never), return when it has ended.

        None is the container's own time, or 10 seconds when it has none: then one that has made no arrangement for the
        signal is killed at once. False means that it was not running. Raises NotFound, and NotKilled when a process has
        not ended 10 seconds after SIGKILL.
        """
        return self._done("POST", path_of(name, "stop"), queries.stop(seconds), patient=True)

    def kill(self, name: str, signal: str | int = "KILL") -> None:
        """Send a signal, by name or number, to the container's first process.

        Raises NotFound, and Conflict when it is not running.
        """
        self._done("POST", path_of(name, "kill"), queries.kill(signal))

    def restart(self, name: str, seconds: float | None = None) -> None:
        """``stop`` it if it runs, and start it as it was made; one that removes itself when it has ended stays.

        Raises what ``stop`` and ``start`` do; Conflict for one that is just being removed.
        """
        self._done("POST", path_of(name, "restart"), queries.stop(seconds), patient=True)

    def pause(self, name: str) -> None:
        """Stop all processes of a container where they are; returns when they have. Its end, by ``stop``, ``kill`` or
        ``rm``, lets them go on; other signals reach them when they do.

        Raises NotFound, Conflict when it does not run or is paused, NotSupported without a freezer for control groups.
        """
        self._done("POST", path_of(name, "pause"))

    def unpause(self, name: str) -> None:
        """Let a paused container go on. Raises NotFound, and Conflict when it is not paused."""
        self._done("POST", path_of(name, "unpause"))

    def rename(self, name: str, new_name: str) -> None:
        """Give a container another name, whatever its state. Its log stays where it is.

        Raises NotFound, InvalidRequest for a name that cannot be one or is its own, NameInUse.
        """
        self._done("POST", path_of(name, "rename"), queries.rename(new_name))

    def top(self, name: str, options: str = "") -> ProcessTable:
        """The processes of a container, with the host's pids, as the host's ``ps`` lists them with these options ("":
        -ef), which must show the column PID.

        Raises NotFound, Conflict when it does not run, InvalidRequest for options that ps refuses.
        """
        reply = self._fetch("GET", path_of(name, "top"), queries.top(options))
        with MAKES_SENSE:
            return ProcessTable(reply["Titles"], reply["Processes"])

    def update(self, name: str, **changes: Unpack[Changes]) -> None:
        """Change what a container may use, at once if it runs, else from its next start on.

        Options are those of ``client.config``, where None leaves a thing as it is, ``cpus`` 0 and ``pids_limit`` -1
        take the limit away. A new nice value is given to every process of the container, also to one that has changed
        its own. ``soft_mib`` and ``hard_mib`` need a container that was started with such a limit. Raises NotFound,
        InvalidRequest, NotSupported, and Conflict when the container is just ending.
        """
        self._done("POST", path_of(name, "update"), body=changes_of("update", changes))

    def rm(self, name: str, force: bool = False) -> None:
        """Forget an ended container and delete its files; ``force`` kills a running one.

        Raises NotFound, Conflict, and NotKilled as ``stop``.
        """
        query = {"force": queries.boolean("force", force)}
        self._done("DELETE", f"/containers/{quoted_name(name)}", query, patient=True)

    def wait(
        self,
        name: str,
        condition: Literal["not-running", "next-exit", "removed"] = "not-running",
        timeout: float | None = None,
    ) -> int:
        """Wait for a container and return its exit code (128+N after signal N). Raises NotFound, and WaitTimeout when
        that takes longer than ``timeout`` seconds, whereupon the container goes on; 0 asks once.

        How the last 10,000 removed containers ended is remembered for 7 days, also by the next supervisor:
        "not-running" and "removed" give that at once, by id, unique beginning of an id, or name (of a name the
        container that lives, else the one removed last).
        """
        limit = queries.timeout(timeout)
        until = None if limit is None else time.monotonic() + limit
        try:
            # The head of the reply comes before the end.
            response = self._send("POST", path_of(name, "wait"), queries.wait(condition), limit=limit)
            response.set_timeout(None if until is None else max(until - time.monotonic(), 0.001))
            reply = decoded(self._body(response))
        except errors.Unavailable as error:
            if timeout is not None and isinstance(error.__cause__, TimeoutError):
                raise errors.WaitTimeout(f"{name} has not ended within {timeout:g} s") from None
            raise
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
