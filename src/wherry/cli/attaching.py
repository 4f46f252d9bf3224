"""``engine attach``."""

from __future__ import annotations

from wherry import errors
from wherry.cli import starting, terminal
from wherry.cli.names import add_names
from wherry.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.parser import Namespace, Parser

DESCRIPTION = """Pass on what a running container writes from now on, and exit with its exit code when it ends.

A container that was started with -i reads attach's standard input meanwhile. The end of that input is not the end of
the container's, which others may feed; but one of "run -i" ends with whoever fed it first. SIGINT and SIGTERM end
attach and not the container, and so does it when nobody reads its output any more (125).
Exit codes besides the container's own: 125 it cannot be followed to its end, or output is missing; 1 there is no such
container, it does not run, or no supervisor is running.
"""


def add_attach(parser: Parser) -> None:
    parser.description = DESCRIPTION
    add_names(parser, many=False, running=True)
    parser.flag("--no-stdin", help="give it no input")
    parser.run = attach


def attach(args: Namespace) -> int:
    with Client(args.socket) as client:
        takes_input = client.inspect(args.name)["Config"]["OpenStdin"]
        given = None
        if takes_input and not args.no_stdin:
            from wherry.client.feeding import Descriptor  # noqa: PLC0415 (only with input)

            given = Descriptor(0)
        try:
            result = client.attach(args.name, input=given, on_output=terminal.write_all)
        except errors.Unavailable as error:
            return starting.lost(args.name, error)
        except OSError as error:
            return terminal.complain_of_output(error, args.name)
    return starting.ended(args.name, result)
