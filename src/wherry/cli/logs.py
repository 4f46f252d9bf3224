"""``engine logs``: a container's output, byte for byte, each stream to the stream of the same name."""

from __future__ import annotations

import time

from wherry.cli import terminal, times, values
from wherry.cli.names import add_names
from wherry.cli.parser import BadValue
from wherry.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.parser import Namespace, Parser


def add_logs(parser: Parser) -> None:
    parser.description = (
        "Write what a container has written: its stdout to stdout and its stderr to stderr, unchanged.\n"
        "A TIME is a duration before now (10m, 1h30m), RFC 3339 (2026-01-31T10:00:00Z), a local date (2026-01-31,\n"
        "2026-01-31T10:00), or seconds since the epoch."
    )
    add_names(parser, many=False)
    parser.flag("-f", "--follow", help="wait for more until the container has ended")
    parser.option("-n", "--tail", metavar="N", type=values.tail, help="only the last N lines (default: all)")
    parser.flag("-t", "--timestamps", help="put the time (UTC) before each line")
    parser.option("--since", metavar="TIME", type=moment, help="only what was written from TIME on")
    parser.option("--until", metavar="TIME", type=moment, help="only what was written before TIME")
    parser.option("--stream", metavar="out|err", choices=["out", "err"], help="only one of the streams")
    parser.run = show


def moment(text: str) -> int:
    """Nanoseconds since the epoch."""
    try:
        return times.parse(text, time.time_ns())
    except (ValueError, OverflowError):
        raise BadValue(f"{text!r} is no duration, RFC 3339 time, date or UNIX time") from None


def show(args: Namespace) -> int:
    with (
        Client(args.socket) as client,
        client.logs(
            args.name,
            follow=args.follow,
            tail=args.tail,
            since_ns=args.since,
            until_ns=args.until,
            timestamps=args.timestamps,
            stdout=args.stream != "err",
            stderr=args.stream != "out",
        ) as stream,
    ):
        for fd, data in stream.views():
            terminal.write_all(fd, data)
    return 0
