"""``engine events``."""

from __future__ import annotations

import time

from wherry.cli import filters, formats, terminal, times
from wherry.cli.parser import BadValue
from wherry.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.cli.parser import Namespace, Parser
    from wherry.client.events import Event

DESCRIPTION = """Show what happens to containers, one line an event, until interrupted.

A TIME is a duration before now (10m, 1h30m), RFC 3339 (2026-01-31T10:00:00Z), a local date (2026-01-31,
2026-01-31T10:00), or seconds since the epoch. The supervisor remembers the last 8192 events, those of
its predecessors of up to 7 days ago among them.
"""

EPILOG = """
Events: create, start, kill, pause, unpause, rename, restart, update, soft-limit, soft-limit-cleared,
memory-pressure, hard-limit, oom, oom-child, die, stop, destroy, log-gap, log-error, log-recovered; missed (of
no container) when this command read too slowly.
--filter K=V        container=NAME|ID, event=EVENT, label=KEY[=VALUE], image=ROOTFS, type=container
"""
KEYS = """                    keys: kind, id, name, wall_ns (since the epoch), monotonic_ns, attributes
                    fields: {fields}
"""


def _attributes(event: Event) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(event.attributes.items()))


FIELDS: dict[str, Callable[[Event], str]] = {
    "Time": lambda event: times.utc(event.wall_ns),
    "TimeNano": lambda event: str(event.wall_ns),
    "Monotonic": lambda event: str(event.monotonic_ns),
    "Action": lambda event: event.kind,
    "ID": lambda event: event.id,
    "Name": lambda event: event.name,
    "Reason": lambda event: event.attributes.get("reason", ""),
    "Attributes": _attributes,
    "Type": lambda event: "container" if event.id else "daemon",
    "Event": lambda event: event.kind,
    "Status": lambda event: event.kind,
}


def add_events(parser: Parser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = f"{EPILOG}{formats.ABOUT}\n{KEYS.format(fields=' '.join(f'.{name}' for name in FIELDS))}"
    parser.option("--since", metavar="TIME", type=_time, help="begin with what has happened since TIME")
    parser.option("--until", metavar="TIME", type=_time, help="end at TIME")
    parser.option("-f", "--filter", metavar="K=V", repeats=True, type=filters.pair, help="only some events, see below")
    parser.option(
        "--format", metavar="json|TEMPLATE", type=formats.checked(["json"], FIELDS), default="", help="see below"
    )
    parser.run = show


def _time(text: str) -> int:
    try:
        return times.parse(text, time.time_ns())
    except (ValueError, OverflowError):
        raise BadValue(f"{text!r} is no duration, RFC 3339 time, date or UNIX time") from None


def show(args: Namespace) -> int:
    with (
        Client(args.socket) as client,
        client.events(since_ns=args.since, until_ns=args.until, filters=filters.grouped(args.filter)) as events,
    ):
        for event in events:
            print(_line(event, args.format), end="", flush=True)
    return 0


def _line(event: Event, form: str | None) -> str:
    if form == "json":
        return formats.rendered(form, [event.as_dict()])
    if form:
        from wherry.cli import template  # noqa: PLC0415

        return template.render(form.removeprefix("table "), [event], FIELDS, {})
    subject = f"container {event.kind} {event.id}" if event.id else f"daemon {event.kind}"
    return terminal.escaped(f"{times.utc(event.wall_ns)} {subject} ({_attributes(event)})") + "\n"
