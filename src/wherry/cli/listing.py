"""``engine ps``."""

from __future__ import annotations

from time import time_ns as now

from wherry.cli import filters, terminal, times
from wherry.cli.parser import BadValue
from wherry.client import Client, Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wherry.cli.parser import Namespace, Parser

DESCRIPTION = """List all tracked containers, ended ones too, newest first.

Memory limits are in MiB. On a terminal the table is made to fit: commands are cut, then
columns are left out (NICE, SOFT MIB, HARD MIB, STARTED, ID, PID). --no-trunc shows all of it, and times of your
time zone; what is not written to a terminal is never cut.
"""

FORMATS = """
--filter K=V        name=PATTERN, id=PREFIX, status=created|running|paused|restarting|exited, exited=CODE,
                    label=KEY[=VALUE], ancestor=ROOTFS, volume=PATH, network=none|host, before=NAME, since=NAME;
                    values of one key are alternatives (all labels must fit), keys must all fit
--format table      columns (default)
--format json       one JSON object a line with these keys, which stay; sizes in bytes, times RFC 3339 in UTC, null
                    for what there is not: {keys}
--format TEMPLATE   one line for each container; "table TEMPLATE" puts a header above. Fields:
                    {fields}
                    {{{{json .}}}} and {{{{json .Field}}}} give JSON, \\t and \\n a tab and a new line; {{{{if}}}},
                    {{{{range}}}}, {{{{printf}}}} and docker's other functions: engine inspect --help
                    engine ps --format '{{{{.Name}}}}\\t{{{{.State}}}}'
"""

_MIB = 1 << 20
_SHORT_ID = 12


def _mib(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / _MIB:.1f}".removesuffix(".0")


_WORDS = {
    "hard_limit": "hard limit",
    "oom": "out of memory",
    "limit_lost": "memory limit lost",
    "timed_out": "timed out",
}
"""Reasons that leave nothing to say of the exit code: it is 137."""


def _state(container: Container) -> str:
    """The state with why and how it ended, and a mark when its log cannot be written.

    "exited (7)", "restarting (1)", "exited (stopped, 137)", "exited (signal SIGKILL)", "running (being killed)",
    "running (log error)".
    """
    return _state_alone(container) + (" (log error)" if container.log_error else "")


def _state_alone(container: Container) -> str:
    if container.state not in {"exited", "restarting"}:
        return container.state + (" (being killed)" if container.being_killed else "")
    if container.reason == "signaled" and container.signal:
        return f"{container.state} (signal {_signal_name(container.signal)})"
    if container.reason in _WORDS:
        return f"{container.state} ({_WORDS[container.reason]})"
    code = container.exit_code
    if code is None and container.signal:
        code = 128 + container.signal
    words = [] if container.reason in {"exited", ""} else [container.reason.replace("_", " ")]
    if code is not None:
        words.append(str(code))
    return f"{container.state} ({', '.join(words)})" if words else container.state


def _signal_name(number: int) -> str:
    # Imported here: only a container ended by a signal needs the names.
    import signal  # noqa: PLC0415

    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _command(container: Container) -> str:
    return " ".join(map(_word, container.command))


def _word(word: str) -> str:
    """A word of a command as a shell would need it, as far as that shows where words end."""
    plain = word and not any(char in " \t\n'\"\\$`;&|<>*?()" for char in word)
    return word if plain else "'" + word.replace("'", "'\\''") + "'"


def _ago(rfc3339: str | None) -> str:
    return times.ago(rfc3339, now()) if rfc3339 else "-"


def _time(rfc3339: str | None) -> str:
    return times.local(rfc3339) if rfc3339 else "-"


FIELDS: dict[str, Callable[[Container], str]] = {
    "Name": lambda container: container.name,
    "ID": lambda container: container.id[:_SHORT_ID],
    "FullID": lambda container: container.id,
    "State": _state,
    "Reason": lambda container: container.reason,
    "ExitCode": lambda container: "-" if container.exit_code is None else str(container.exit_code),
    "Pid": lambda container: str(container.pid or "-"),
    "Created": lambda container: _time(container.created),
    "Started": lambda container: _time(container.started),
    "Finished": lambda container: _time(container.finished),
    "Soft": lambda container: _mib(container.soft_bytes),
    "Hard": lambda container: _mib(container.hard_bytes),
    "Nice": lambda container: str(container.nice),
    "Rootfs": lambda container: container.rootfs,
    "LogPath": lambda container: container.log_path,
    "LogError": lambda container: container.log_error or "-",
    "Command": _command,
    "Names": lambda container: container.name,
    "Status": _state,
    "Image": lambda container: container.rootfs,
    "RunningFor": lambda container: _ago(container.created),
    "StartedAgo": lambda container: _ago(container.started),
}
"""Fields of a template; Names, Status, Image and RunningFor are docker's names."""

_HEADERS = {"Soft": "SOFT MIB", "Hard": "HARD MIB", "RunningFor": "CREATED", "StartedAgo": "STARTED"}
_TABLE = ("Name", "ID", "State", "Pid", "StartedAgo", "Soft", "Hard", "Nice", "Command")
_SPARE = {"Nice": "0", "Soft": "-", "Hard": "-", "StartedAgo": "-", "ID": "", "Pid": "-"}
"""Columns that give way on a narrow terminal, in that order, and what they hold when they say nothing."""


def add_ps(parser: Parser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = FORMATS.format(keys=_wrapped(Container.__slots__), fields=_wrapped([f".{name}" for name in FIELDS]))
    parser.flag("-a", "--all", help="accepted and changes nothing: all are listed")
    parser.flag("--running", help="only containers that run")
    about = "only containers that KEY=VALUE fits, see below"
    parser.option("-f", "--filter", metavar="K=V", repeats=True, type=filters.pair, help=about)
    parser.option("-n", "--last", metavar="N", type=_count, help="only the N newest")
    parser.flag("-l", "--latest", help="only the newest")
    parser.flag("--no-trunc", help="whole ids and commands, all columns")
    parser.flag("-q", "--quiet", exclusive=True, help="only ids")
    about = "table, json or a template, see below"
    parser.option("--format", metavar="FORMAT", type=_format, default="table", exclusive=True, help=about)
    parser.run = show


def _wrapped(words: Sequence[str]) -> str:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > 90:
            lines.append("")
        lines[-1] += f"{word} "
    return ("\n" + " " * 20).join(line.rstrip() for line in lines)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise BadValue(f"{text!r} is not a number of containers from 1 up")
    return int(text)


def _format(text: str) -> str:
    """The type of --format: a wrong template ends the program before anybody is asked."""
    if text not in {"table", "json"}:
        from wherry.cli import template  # noqa: PLC0415 (loads re and json)

        template.parse(text, FIELDS)
    return text


def show(args: Namespace) -> int:
    limit = 1 if args.latest else args.last
    with Client(args.socket) as client:
        containers = client.ps(running=args.running, filters=filters.grouped(args.filter) or None, limit=limit)
    print(_rendered(args, containers), end="")
    return 0


def _rendered(args: Namespace, containers: list[Container]) -> str:
    if args.quiet:
        length = None if args.no_trunc else _SHORT_ID
        return "".join(terminal.escaped(each.id[:length]) + "\n" for each in containers)
    if args.format == "table":
        return _table(containers, whole=args.no_trunc)
    from wherry.cli import template  # noqa: PLC0415

    if args.format == "json":
        return "".join(template.safe_json(each.as_dict()) + "\n" for each in containers)
    return template.render(args.format, containers, FIELDS, _HEADERS)


def _table(containers: list[Container], *, whole: bool) -> str:
    header = [_HEADERS.get(name, name.upper()) for name in _TABLE]
    rows = [header, *([terminal.escaped(FIELDS[name](container)) for name in _TABLE] for container in containers)]
    width = terminal.columns()
    if whole:
        for row, container in zip(rows[1:], containers, strict=True):
            row[_TABLE.index("ID")] = terminal.escaped(container.id)
            row[_TABLE.index("StartedAgo")] = terminal.escaped(_time(container.started))
    elif width is not None:
        from wherry.cli import fitting  # noqa: PLC0415 (only for somebody who looks)

        spare = [_TABLE.index(name) for name in _SPARE]
        rows = fitting.fit(rows, width, spare, {_TABLE.index(name): text for name, text in _SPARE.items()})
    return terminal.table(rows)
