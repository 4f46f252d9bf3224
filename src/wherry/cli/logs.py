"""``engine logs``: a container's output, byte for byte, each stream to the stream of the same name."""

from __future__ import annotations

import os
import time

from wherry import errors
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
        "2026-01-31T10:00), or seconds since the epoch.\n"
        "With -f no container ever waits for you: when its log is rotated away before it could be passed on, a\n"
        "message says how much is missing, and the exit code is 1 in the end."
    )
    add_names(parser, many=False)
    parser.flag("-f", "--follow", help="wait for more until the container has ended")
    parser.option("-n", "--tail", metavar="N", type=values.tail, help="only the last N lines (default: all)")
    parser.flag("-t", "--timestamps", help="put the time (UTC) before each line")
    parser.option("--since", metavar="TIME", type=moment, help="only what was written from TIME on")
    parser.option("--until", metavar="TIME", type=moment, help="only what was written before TIME")
    about_cursor = "begin behind what FILE says, if it is there, and note in it in the end how far this came"
    parser.option("--cursor-file", metavar="FILE", exclusive=True, help=about_cursor)
    parser.option("--after", metavar="CURSOR", exclusive=True, help="begin behind a cursor that --cursor has given")
    parser.flag("--cursor", help='write "cursor: CURSOR" to stderr in the end, with how far this came')
    parser.option("--stream", metavar="out|err", choices=["out", "err"], help="only one of the streams")
    parser.run = show


def moment(text: str) -> int:
    """Nanoseconds since the epoch."""
    try:
        return times.parse(text, time.time_ns())
    except (ValueError, OverflowError):
        raise BadValue(f"{text!r} is no duration, RFC 3339 time, date or UNIX time") from None


def show(args: Namespace) -> int:
    cursor = args.after or _read_cursor(args.cursor_file)
    try:
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
                after=cursor,
            ) as stream,
        ):
            told = 0
            for fd, data in stream.views():
                if stream.lost_bytes > told:
                    told = _tell(args.name, stream.lost_bytes, told)
                terminal.write_all(fd, data)
                cursor = stream.cursor
            if stream.lost_bytes > told:
                told = _tell(args.name, stream.lost_bytes, told)
            cursor = stream.cursor
    finally:
        _write_cursor(args.cursor_file, cursor)
        if args.cursor and cursor:
            terminal.write_error(f"cursor: {terminal.escaped(cursor)}\n")
    return 1 if told else 0


def _tell(name: str, lost: int, told: int) -> int:
    terminal.complain(f"{lost - told} bytes of the log of {name} were rotated away before they were read")
    return lost


def _read_cursor(path: str | None) -> str:
    if path is None:
        return ""
    try:
        with open(path) as file:
            return file.read(200).strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InvalidRequest(f"cannot read the cursor in {path}: {error}") from None


def _write_cursor(path: str | None, cursor: str) -> None:
    """Whole or not at all: a new file takes the place of the old one."""
    if path is None or not cursor:
        return
    try:
        with open(f"{path}.new", "w") as file:
            file.write(f"{cursor}\n")
        os.replace(f"{path}.new", path)
    except OSError as error:
        raise errors.InvalidRequest(f"cannot note the cursor in {path}: {error.strerror}") from None
