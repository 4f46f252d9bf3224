"""``engine help``."""

from __future__ import annotations

from wherry.cli import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.parser import Namespace, Parser


def add_help(parser: Parser) -> None:
    parser.description = "Show what the engine can do, or what one of its commands can: the same as COMMAND --help."
    parser.positional("command", metavar="COMMAND", count="?", completer=_complete, help="a command")
    parser.run = show


def _complete(**_: object) -> list[str]:
    return list(main.COMMANDS)


def show(args: Namespace) -> int:
    from wherry.cli import full  # noqa: PLC0415 (loads argparse)

    if args.command is None:
        full.build(main.top_level()).print_help()
        return 0
    if args.command not in main.COMMANDS:
        main.top_level().error(main.unknown(args.command))
    full.build(main.declared(args.command)).print_help()
    return 0
