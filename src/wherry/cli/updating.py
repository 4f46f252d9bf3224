"""``engine update``."""

from __future__ import annotations

from wherry.cli import values
from wherry.cli.lifecycle import for_each
from wherry.cli.names import add_names
from wherry.client import Client
from wherry.client.config import CHANGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.parser import Namespace, Parser


def add_update(parser: Parser) -> None:
    parser.description = (
        "Change what containers may use, at once if they run, else from their next start on. Prints the name of each;\n"
        "1 is the exit code if one could not be changed."
    )
    add_names(parser, many=True)
    parser.option("--soft-mib", metavar="N", type=values.mib, help="a new soft limit in place of the one it has")
    parser.option("--hard-mib", metavar="N", type=values.mib, help="a new hard limit in place of the one it has")
    parser.option("--soft-limit", metavar="SIZE", type=values.size, help="--soft-mib as a size, such as 1.5g")
    parser.option("--hard-limit", metavar="SIZE", type=values.size, help="--hard-mib as a size")
    parser.option("--nice", metavar="N", type=values.nice, help="of the container: -20 (most) to 19 (least)")
    parser.option("--cpus", metavar="N", type=values.cpus_or_zero, help="most CPU time, in CPUs (0: no limit)")
    parser.option(
        "-c", "--cpu-shares", metavar="N", type=values.shares, help="weight against others, in place of --nice"
    )
    parser.option("--cpuset-cpus", metavar="LIST", help="the CPUs it runs on, such as 0-3,7")
    parser.option("--io-weight", metavar="N", type=values.io_weight, help="share of a disk's time: 10 to 1000")
    parser.option("--pids-limit", metavar="N", type=values.pids, help="most processes (-1: no limit)")
    about_restart = "when it is started again: no, on-failure[:N], always, unless-stopped"
    parser.option("--restart", metavar="POLICY", type=values.restart, help=about_restart)
    parser.run = update


def update(args: Namespace) -> int:
    given = vars(args)
    changes: Any = {name: given[name] for name in CHANGES}
    with Client(args.socket) as client:

        def update_one(name: str) -> str:
            client.update(name, **changes)
            return name

        return for_each(args.names, update_one, client)
