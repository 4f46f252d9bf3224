"""``engine stats``."""

from __future__ import annotations

import contextlib
import time

from wherry.cli import formats, screen, sizes, terminal
from wherry.cli.names import complete_running
from wherry.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry.cli.parser import Namespace, Parser

    Sample = dict[str, dict[str, Any]]

DESCRIPTION = """Show what containers use, all that run or those named: once a second until interrupted.

CPU is a share of one CPU. Memory is what the limit that kills is held against: with a hard limit what its enforcer
counts (engine info: kmod and bpf sum VmRSS), else what is charged to the control group, without page cache that could
go at once.
LOG IN is what has been captured, HELD what is in the buffer, MOST its high-water mark, LOST what gave way; FULL says
how often and how long the buffer was full. On a terminal the table is drawn anew in its place; what is not written to a
terminal gets one header, and a line a container each second.
"""

_INTERVAL_SECONDS = 1.0


def add_stats(parser: Parser) -> None:
    parser.description = DESCRIPTION
    about = "name, id or start of an id (default: all that run)"
    parser.positional("names", metavar="NAME", count="*", help=about, completer=complete_running)
    parser.flag("--no-stream", help="once, after a second")
    parser.epilog = f"{formats.ABOUT}\n{' ' * 20}fields: {' '.join(f'.{name}' for name in FIELDS)}"
    formats.add(parser, "table", fields=FIELDS)
    parser.run = show


def show(args: Namespace) -> int:
    with Client(args.socket) as client, contextlib.ExitStack() as undo:
        draw = _draw_lines
        before = _sample(client, args.names)
        if args.format != "json" and not args.no_stream and screen.available():
            draw = undo.enter_context(screen.Screen()).draw
        is_first = True
        while True:
            time.sleep(_INTERVAL_SECONDS)
            now = _sample(client, args.names)
            has_header = is_first or draw is not _draw_lines  # a pipe gets one, then lines
            draw(_rendered(args.format, before, now, has_header))
            if args.no_stream:
                return 0
            before, is_first = now, False


def _draw_lines(text: str) -> None:
    print(text, end="", flush=True)


def _sample(client: Client, names: list[str]) -> Sample:
    found = client.stats_of(names)
    return dict(zip(names or [each["name"].lstrip("/") for each in found], found, strict=True))


def _rendered(form: str, before: Sample, now: Sample, has_header: bool) -> str:
    if form == "json":
        return formats.rendered(form, now.values())
    used = [_Used(name, before.get(name, each), each) for name, each in now.items()]
    if form != "table":
        from wherry.cli import template  # noqa: PLC0415

        lines = template.render(form, used, FIELDS, _HEADERS)
        is_table = form.startswith("table ")
    else:
        shown = [[terminal.escaped(FIELDS[field](each)) for field in _HEADERS] for each in used]
        lines, is_table = terminal.table([[*_HEADERS.values()], *shown]), True
    return lines if has_header or not is_table else lines.partition("\n")[2]


class _Used:
    """What one container uses between two samples."""

    def __init__(self, name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
        self.name = name
        self.before = before
        self.now = now

    def as_dict(self) -> dict[str, Any]:
        return self.now

    @property
    def log(self) -> dict[str, Any]:
        found: dict[str, Any] = self.now["Wherry"]["Log"]
        return found


def _memory(used: _Used) -> tuple[int, int] | None:
    """What is held against the limit, and the limit."""
    memory = used.now["memory_stats"]
    if not memory:
        return None
    return memory["usage"] - memory.get("stats", {}).get("inactive_file", 0), memory["limit"]


def _memory_usage(used: _Used) -> str:
    found = _memory(used)
    return f"{sizes.shown(found[0])} / {sizes.shown(found[1])}" if found else "-"


def _memory_share(used: _Used) -> str:
    found = _memory(used)
    return f"{found[0] / found[1]:.1%}" if found and found[1] else "-"


FIELDS: dict[str, Callable[[_Used], str]] = {
    "Name": lambda used: used.name,
    "ID": lambda used: used.now["id"],
    "CPUPerc": lambda used: f"{_cpu_share(used.before, used.now):.1%}",
    "MemUsage": _memory_usage,
    "MemPerc": _memory_share,
    "PIDs": lambda used: str(used.now["pids_stats"].get("current", "-")),
    "LogIn": lambda used: sizes.shown(used.log["BytesIn"]),
    "LogHeld": lambda used: sizes.shown(used.log["BytesHeld"]),
    "LogMost": lambda used: sizes.shown(used.log["HighWater"]),
    "LogLost": lambda used: sizes.shown(used.log["BytesLost"]),
    "LogFull": lambda used: f"{used.log['TimesFull']}, {used.log['FullSeconds']:.1f} s",
    "Container": lambda used: used.name,
}
"""Fields of a template; those that are docker's have its names."""
_HEADERS = {
    "Name": "NAME",
    "CPUPerc": "CPU",
    "MemUsage": "MEMORY / LIMIT",
    "PIDs": "PIDS",
    "LogIn": "LOG IN",
    "LogHeld": "HELD",
    "LogMost": "MOST",
    "LogLost": "LOST",
    "LogFull": "FULL",
}


def _cpu_share(before: dict[str, Any], now: dict[str, Any]) -> float:
    """Of one CPU: the host's times add up those of all."""
    first, second = before["cpu_stats"], now["cpu_stats"]
    whole = second["system_cpu_usage"] - first["system_cpu_usage"]
    own: int = second["cpu_usage"]["total_usage"] - first["cpu_usage"]["total_usage"]
    return max(0.0, own / whole * second["online_cpus"]) if whole > 0 else 0.0
