"""``engine experiment``; what it does is ``wherry.experiments``."""

from __future__ import annotations

from wherry.cli import terminal, values
from wherry.cli.parser import BadValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.parser import Namespace, Parser


def add_experiment(parser: Parser) -> None:
    parser.description = (
        "Controlled experiments on the scheduler and on memory limits: `list` names them, `run NAME...` runs them and\n"
        "writes a report (HTML, plots, the raw data as JSON). Ctrl-C ends one; what was measured until then is kept."
    )
    parser.positional("action", metavar="list|run", choices=["list", "run"], help="what to do")
    parser.positional("names", metavar="NAME", count="*", completer=_complete, help="experiments to run")
    parser.option("--cpu", metavar="N", type=values.count, default=0, help="CPU to pin to (default: 0)")
    parser.option("--seconds", metavar="S", type=values.seconds, help="length of one measured window")
    parser.option("--repeat", metavar="R", type=values.count, default=3, help="windows or runs of each (default: 3)")
    parser.option("--nices", metavar="N,N...", type=nices, help="nice values to compare")
    about_rootfs = "root file system with the workloads (default: the supervisor's)"
    parser.option("--rootfs", metavar="ROOTFS", help=about_rootfs)
    parser.option("--out", metavar="DIR", help="where to write (default: experiment-TIME-NAME)")
    parser.flag("--json", help="print the raw data, and nothing else, on stdout")
    parser.run = experiment


def nices(text: str) -> tuple[int, ...]:
    """Nice values with commas between them."""
    try:
        return tuple(values.nice(part) for part in text.split(","))
    except BadValue:
        raise BadValue(f"{text!r} is not a list of nice values such as 0,5,10") from None


def experiment(args: Namespace) -> int:
    from wherry.cli import experiment_run  # noqa: PLC0415
    from wherry.experiments.model import BadSettingsError  # noqa: PLC0415

    if args.action == "list":
        return experiment_run.show_list()
    request = experiment_run.Request(
        names=args.names,
        socket=args.socket,
        rootfs=args.rootfs,
        cpu=args.cpu,
        seconds=args.seconds,
        repeat=args.repeat,
        nices=args.nices,
        out=args.out,
        as_json=args.json,
    )
    try:
        return experiment_run.run(request)
    except BadSettingsError as error:
        terminal.complain(error)
        return 2


def _complete(**_: object) -> list[str]:
    from wherry.experiments.catalogue import EXPERIMENTS  # noqa: PLC0415

    return list(EXPERIMENTS)
