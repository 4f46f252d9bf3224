"""``engine stats``."""

from __future__ import annotations

import contextlib
import time

from wherry.cli import screen, sizes, template, terminal
from wherry.cli.names import complete_running
from wherry.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
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

_HEADER = ["NAME", "CPU", "MEMORY / LIMIT", "PIDS", "LOG IN", "HELD", "MOST", "LOST", "FULL"]
_INTERVAL_SECONDS = 1.0


def add_stats(parser: Parser) -> None:
    parser.description = DESCRIPTION
    about = "name, id or start of an id (default: all that run)"
    parser.positional("names", metavar="NAME", count="*", help=about, completer=complete_running)
    parser.flag("--no-stream", help="once, after a second")
    about = "json: a line each, as docker's API has it"
    parser.option("--format", metavar="table|json", choices=["table", "json"], default="table", help=about)
    parser.run = show


def show(args: Namespace) -> int:
    with Client(args.socket) as client, contextlib.ExitStack() as undo:
        draw = _draw_lines
        before = _sample(client, args.names)
        if args.format == "table" and not args.no_stream and screen.available():
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
        return "".join(template.safe_json(each) + "\n" for each in now.values())
    rows = [_row(name, before.get(name, each), each) for name, each in now.items()]
    lines = terminal.table([_HEADER, *rows])
    return lines if has_header else lines.partition("\n")[2]


def _row(name: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    memory, log = now["memory_stats"], now["Wherry"]["Log"]
    used = memory.get("usage", 0) - memory.get("stats", {}).get("inactive_file", 0)
    return [
        terminal.escaped(name),
        f"{_cpu_share(before, now):.1%}",
        f"{sizes.shown(used)} / {sizes.shown(memory['limit'])}" if memory else "-",
        str(now["pids_stats"].get("current", "-")),
        sizes.shown(log["BytesIn"]),
        sizes.shown(log["BytesHeld"]),
        sizes.shown(log["HighWater"]),
        sizes.shown(log["BytesLost"]),
        f"{log['TimesFull']}, {log['FullSeconds']:.1f} s",
    ]


def _cpu_share(before: dict[str, Any], now: dict[str, Any]) -> float:
    """Of one CPU: the host's times add up those of all."""
    first, second = before["cpu_stats"], now["cpu_stats"]
    whole = second["system_cpu_usage"] - first["system_cpu_usage"]
    own: int = second["cpu_usage"]["total_usage"] - first["cpu_usage"]["total_usage"]
    return max(0.0, own / whole * second["online_cpus"]) if whole > 0 else 0.0
