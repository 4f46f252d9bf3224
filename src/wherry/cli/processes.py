"""``engine top``."""

from __future__ import annotations

from wherry.cli import terminal
from wherry.cli.names import add_names
from wherry.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.cli.parser import Namespace, Parser


def add_top(parser: Parser) -> None:
    parser.usage = "%(prog)s [-h] NAME [PS-OPTION ...]"
    parser.description = (
        "List the processes of a container with the host's ps, and so with the host's pids. All words after NAME are\n"
        "options of ps (default: -ef); they must show the column PID."
    )
    add_names(parser, many=False, running=True)
    parser.positional("options", metavar="PS-OPTION", count="*", help="an option of ps, such as aux or -opid,comm")
    parser.run = top
    parser.interpret = parse


def parse(parser: Parser, words: Sequence[str], found: Namespace) -> None:
    """What follows NAME is ps's, dashes and all."""
    place = 0
    while place < len(words) and words[place].startswith("-"):
        place += 2 if words[place] == "--socket" else 1
    parser.parse(words[: place + 1], found)
    found.options = list(words[place + 1 :])


def top(args: Namespace) -> int:
    with Client(args.socket) as client:
        table = client.top(args.name, " ".join(args.options))
    rows = [[terminal.escaped(cell) for cell in row] for row in (table.titles, *table.rows)]
    print(terminal.table(rows), end="")
    return 0
