"""The NAME argument of most commands, and how a shell completes it."""

from __future__ import annotations

from wherry import errors
from wherry.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.parser import Namespace, Parser

_COMPLETION_TIMEOUT = 0.5


def add_names(parser: Parser, *, many: bool, running: bool = False) -> None:
    """Add NAME (``args.name``) or NAME... (``args.names``); only running containers are offered with ``running``."""
    completer = complete_running if running else complete_all
    name, count = ("names", "+") if many else ("name", "")
    parser.positional(name, metavar="NAME", count=count, help="name, id or start of an id", completer=completer)


def complete_all(parsed_args: Namespace, **_: object) -> list[str]:
    return _names(parsed_args, running=False)


def complete_running(parsed_args: Namespace, **_: object) -> list[str]:
    return _names(parsed_args, running=True)


def _names(parsed_args: Namespace, *, running: bool) -> list[str]:
    """No names without a supervisor that answers at once: the user is in the middle of a line."""
    socket = getattr(parsed_args, "socket", None)
    try:
        with Client(socket, timeout=_COMPLETION_TIMEOUT) as client:
            return [container.name for container in client.ps(running=running)]
    except errors.WherryError:
        return []
