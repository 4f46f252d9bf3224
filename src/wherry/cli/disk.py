"""``engine df`` and ``engine prune``: what takes disk space, and giving some back."""

from __future__ import annotations

import sys

from wherry import errors
from wherry.cli import formats, sizes, terminal, times
from wherry.cli.logs import moment
from wherry.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.parser import Namespace, Parser

_SHORT_ID = 12


def add_df(parser: Parser) -> None:
    parser.description = (
        "Show what takes disk space in the state directory: unpacked archives, containers' layers and logs.\n"
        'RECLAIMABLE is what "engine prune" would free.'
    )
    parser.flag("-v", "--verbose", help="list each archive and each container")
    parser.epilog = formats.ABOUT
    formats.add(parser, "table")
    parser.run = df


def add_prune(parser: Parser) -> None:
    parser.description = (
        "Remove the containers that do not run, with their layers and logs, and the unpacked archives that no\n"
        "container uses then: one that an ended container uses stays as long as that. The archive files themselves\n"
        "are not touched. Asks first, on a terminal; elsewhere --force is needed."
    )
    parser.flag("--containers", help="only containers")
    parser.flag("--rootfs", help="only unpacked archives")
    parser.option("--until", metavar="TIME", type=moment, help="only what was created, or last used, before TIME (24h)")
    about = "only containers with this label, and no archives; several: with all of them"
    parser.option("--label", metavar="KEY[=VALUE]", repeats=True, help=about)
    parser.flag("-f", "--force", help="do not ask")
    parser.run = prune


def df(args: Namespace) -> int:
    with Client(args.socket) as client:
        found = client.df()
    if args.format != "table":
        print(formats.rendered(args.format, [found]), end="")
        return 0
    ours = found["Wherry"]
    print(terminal.table([["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], *_summary(ours)]))
    print(
        f"Free on the file system: {sizes.shown(ours['FreeBytes'])}; {sizes.shown(ours['ReserveBytes'])} are kept free."
    )
    if args.verbose:
        print("\n" + _verbose(ours), end="")
    return 0


def _summary(ours: dict[str, Any]) -> list[list[str]]:
    archives = [(each["Bytes"], each["Users"] > 0) for each in ours["Archives"]]
    containers = [(each, each["State"] == "running") for each in ours["Containers"]]
    return [
        _row("Unpacked archives", archives),
        _row("Layers", [(each["LayerBytes"], runs) for each, runs in containers]),
        _row("Logs", [(each["LogBytes"], runs) for each, runs in containers]),
    ]


def _row(title: str, taken: list[tuple[int, bool]]) -> list[str]:
    whole, idle = sum(each for each, _ in taken), sum(each for each, is_active in taken if not is_active)
    share = f" ({idle * 100 // whole}%)" if whole else ""
    active = sum(is_active for _, is_active in taken)
    return [title, str(len(taken)), str(active), sizes.shown(whole), sizes.shown(idle) + share]


def _verbose(ours: dict[str, Any]) -> str:
    archives = [
        [
            each["Id"].removeprefix("sha256:")[:_SHORT_ID],
            sizes.shown(each["Bytes"]),
            str(each["Entries"]),
            str(each["Users"]),
            times.local(each["UsedAt"]),
            terminal.escaped(each["Source"] or "-"),
        ]
        for each in ours["Archives"]
    ]
    containers = [
        [terminal.escaped(each["Name"]), each["State"], sizes.shown(each["LayerBytes"]), sizes.shown(each["LogBytes"])]
        for each in ours["Containers"]
    ]
    return (
        terminal.table([["ARCHIVE", "SIZE", "FILES", "USERS", "LAST USED", "UNPACKED FROM"], *archives])
        + "\n"
        + terminal.table([["CONTAINER", "STATE", "LAYER", "LOG"], *containers])
    )


def prune(args: Namespace) -> int:
    both = args.containers == args.rootfs
    containers, rootfs = both or args.containers, both or args.rootfs
    with Client(args.socket) as client:
        if not args.force and not _agreed(client, containers, rootfs, narrowed=bool(args.until or args.label)):
            return 1
        done = client.prune(containers=containers, rootfs=rootfs, until_ns=args.until, labels=args.label)
    for title, found in (("Removed containers:", done.containers), ("Removed unpacked archives:", done.archives)):
        if found:
            print("\n".join([title, *map(terminal.escaped, found), ""]))
    print(f"Total reclaimed space: {sizes.shown(done.bytes)}")
    return 0


def _agreed(client: Client, containers: bool, rootfs: bool, *, narrowed: bool) -> bool:
    """Whether the user says yes, having been told what would go. Raises InvalidRequest where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise errors.InvalidRequest("stdin is no terminal to ask on: say --force")
    ours = client.df()["Wherry"]
    ended = [each for each in ours["Containers"] if each["State"] != "running"]
    unused = [each for each in ours["Archives"] if not each["Users"]]
    most = "at most " if narrowed else ""
    print("This will remove")
    if containers:
        taken = sum(each["LayerBytes"] + each["LogBytes"] for each in ended)
        print(f"  - {most}{len(ended)} containers that do not run, with layers and logs ({sizes.shown(taken)})")
    if rootfs:
        more = ", and those that only these containers use" if containers else ""
        print(f"  - {most}{len(unused)} unpacked archives ({sizes.shown(sum(each['Bytes'] for each in unused))}){more}")
    try:
        return input("Continue? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False
