"""Query parameters of requests from the arguments of ``Client``'s methods, checked."""

from __future__ import annotations

from wherry import errors
from wherry.client import arguments, jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Query = dict[str, str | None]

_CONDITIONS = ("not-running", "next-exit", "removed")
_LIVE = ("running", "paused", "restarting")
_A_TIME = "a whole number of nanoseconds since the epoch, as time.time_ns() gives"


def run(given: str | None, *, stream: bool, replace: bool, has_input: bool = False) -> Query:
    """Of ``Client.run``, and of ``Client.start`` for a new container."""
    query: Query = {"name": name(given), "stream": "1" if stream else "0"}
    if arguments.flag("replace", replace):
        if given is None:
            arguments.refuse("name", None, "the name of the container to replace")
        query["replace"] = "1"
    if has_input:
        query["stdin"] = "1"
    return query


def attach(has_input: bool) -> Query:
    streams = {"stdout": "1", "stderr": "1", "stdin": "1" if has_input else "0"}
    return {"stream": "1", "status": "1", **streams}


def start(given: str | None, replace: bool, options: Mapping[str, object]) -> Query:
    """Of ``Client.start`` for a container that exists, which takes no options."""
    found = name(given)
    if found is None:
        arguments.refuse("name", None, "the name or id of a container, as there is no rootfs")
    for option in ["replace"] if arguments.flag("replace", replace) else options:
        text = f"{option} needs rootfs and command: a name alone starts a container as it was made"
        raise errors.InvalidRequest(text, option, options.get(option, replace))
    return {"name": found}


def logs(
    follow: bool,
    tail: int | None,
    since_ns: int | None,
    until_ns: int | None,
    timestamps: bool,
    stdout: bool,
    stderr: bool,
    after: str | None,
) -> Query:
    """Of ``Client.logs``."""
    flags = {"stdout": stdout, "stderr": stderr, "follow": follow, "timestamps": timestamps}
    return {
        **{name: boolean(name, value) for name, value in flags.items()},
        "tail": "all"
        if tail is None
        else str(arguments.whole("tail", tail, 0, what="a whole number of lines from 0 up, or None")),
        "since": unix_time("since_ns", since_ns),
        "until": unix_time("until_ns", until_ns),
        "status": "1",
        "after": None if after in (None, "") else arguments.text("after", after),
    }


def ps(running: bool, filters: Mapping[str, str | Sequence[str]] | None, limit: int | None) -> Query:
    """Of ``Client.ps``."""
    lists = {} if filters is None else _filters(filters)
    query: Query = {"all": boolean("running", running, no="1", yes="0")}
    if running and "status" in lists:
        arguments.refuse("filters", filters, "filters without status when running is True")
    if limit is not None:
        query["limit"] = str(arguments.whole("limit", limit, 1, what="a whole number of containers from 1 up, or None"))
        if running:  # a limit of docker's is one of containers in any state
            lists["status"] = list(_LIVE)
    return {**query, "filters": jsontext.encode(lists) if lists else None}


def events(since_ns: int | None, until_ns: int | None, filters: Mapping[str, str | Sequence[str]] | None) -> Query:
    """Of ``Client.events``."""
    lists = {} if filters is None else _filters(filters)
    return {
        "since": unix_time("since_ns", since_ns),
        "until": unix_time("until_ns", until_ns),
        "filters": jsontext.encode(lists) if lists else None,
    }


def prune(until_ns: int | None, labels: str | Sequence[str]) -> Query:
    """Of ``Client.prune``."""
    filters = {"label": labels} if labels else {}
    until = unix_time("until_ns", until_ns)
    if until is not None:
        filters["until"] = until
    return {"filters": jsontext.encode(_filters(filters)) if filters else None}


def _filters(filters: Mapping[str, str | Sequence[str]]) -> dict[str, list[str]]:
    if not hasattr(filters, "items"):
        arguments.refuse("filters", filters, "a mapping such as {'container': 'web', 'event': ['die', 'oom']}")
    lists: dict[str, list[str]] = {}
    for key, given in filters.items():
        name = f"filters[{key!r}]"
        values = [given] if isinstance(given, str) else arguments.words(name, given)
        lists[arguments.text("filters key", key)] = [arguments.text(name, value) for value in values]
    return lists


def stop(seconds: float | None) -> Query:
    """Of ``Client.stop``."""
    if seconds is None or seconds == -1:
        return {"t": None if seconds is None else "-1"}
    given = arguments.number("seconds", seconds, 0, 1e9, "a number of seconds to wait, from 0 up, or -1")
    return {"t": f"{given:.9f}".rstrip("0").rstrip(".")}


def rename(new_name: str) -> Query:
    """Of ``Client.rename``."""
    return {"name": arguments.text("new_name", new_name)}


def top(options: str) -> Query:
    """Of ``Client.top``."""
    return {"ps_args": None if options == "" else arguments.text("options", options)}


def timeout(seconds: float | None) -> float | None:
    """Of ``Client.wait``."""
    if seconds is None:
        return None
    # 0 would have the socket not wait at all, also for what has been sent.
    return max(arguments.number("timeout", seconds, 0, 1e9, "a number of seconds from 0 up, or None"), 0.05)


def kill(signal: str | int) -> Query:
    """Of ``Client.kill``."""
    return {"signal": arguments.signal("signal", signal)}


def wait(condition: str) -> Query:
    """Of ``Client.wait``."""
    if condition not in _CONDITIONS:
        arguments.refuse("condition", condition, f"one of {', '.join(map(repr, _CONDITIONS))}")
    return {"condition": condition}


def name(given: str | None) -> str | None:
    """A new container's name: None lets the supervisor make one.

    The API takes an empty name as none, as docker does; a caller's empty variable must not become a made-up name.
    """
    if given == "":
        raise errors.InvalidRequest("the container's name is empty (None lets the supervisor make one)", "name", given)
    return None if given is None else arguments.text("name", given)


def boolean(argument: str, value: bool, yes: str = "1", no: str = "0") -> str:
    return yes if arguments.flag(argument, value) else no


def unix_time(argument: str, ns: int | None) -> str | None:
    """Docker's "SECONDS.NANOSECONDS"."""
    if ns is None:
        return None
    # 0 would mean no limit to the API, and it has no times before 1970.
    seconds, rest = divmod(max(arguments.whole(argument, ns, what=_A_TIME), 1), 1_000_000_000)
    return f"{seconds}.{rest:09}"
