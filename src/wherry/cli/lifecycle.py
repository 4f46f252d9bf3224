"""``engine stop``, ``kill``, ``rm`` and ``wait``."""

from __future__ import annotations

from wherry import errors
from wherry.cli import terminal, values
from wherry.cli.names import add_names
from wherry.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wherry.cli.parser import Namespace, Parser

_AT_ONCE = 16


def add_stop(parser: Parser) -> None:
    parser.description = (
        "Ask containers to end (SIGTERM), end them after a while (SIGKILL), and wait until they have. Several are\n"
        "stopped at the same time. Prints the name of each, and says on stderr of which it was not running; 1 is the\n"
        "exit code if one could not be stopped.\n\n"
        "Without --time (and without a StopTimeout from an API client) it is 10 s, and one whose first process has\n"
        "made no arrangement for the signal, which the kernel then drops, is killed at once: with --time never before\n"
        "that time. An error says what is left when a process has not ended 10 s after SIGKILL."
    )
    add_names(parser, many=True, running=True)
    parser.option(
        "-t", "--time", metavar="S", type=values.stop_seconds, help="seconds from SIGTERM to SIGKILL, -1: no SIGKILL"
    )
    parser.run = stop


def add_kill(parser: Parser) -> None:
    parser.description = "Send a signal to the first process of containers. Prints the name of each."
    add_names(parser, many=True, running=True)
    parser.option("-s", "--signal", metavar="SIG", default="KILL", help="name or number (default: KILL)")
    parser.run = kill


def add_rm(parser: Parser) -> None:
    parser.description = "Remove containers that have ended: record, log and writable layer. Prints the name of each."
    add_names(parser, many=True)
    parser.flag("-f", "--force", help="kill it first if it is running")
    parser.run = remove


def add_wait(parser: Parser) -> None:
    parser.description = "Wait until containers have ended and print the exit code of each (128+N after signal N)."
    add_names(parser, many=True)
    parser.run = wait


def stop(args: Namespace) -> int:
    with Client(args.socket) as client:

        def stop_one(name: str) -> str:
            if not client.stop(name, args.time):
                terminal.complain(f"{name} was not running")
            return name

        return for_each(args.names, stop_one, at_once=_AT_ONCE)


def kill(args: Namespace) -> int:
    with Client(args.socket) as client:

        def kill_one(name: str) -> str:
            client.kill(name, args.signal)
            return name

        return for_each(args.names, kill_one)


def remove(args: Namespace) -> int:
    with Client(args.socket) as client:

        def remove_one(name: str) -> str:
            client.rm(name, force=args.force)
            return name

        return for_each(args.names, remove_one)


def wait(args: Namespace) -> int:
    with Client(args.socket) as client:
        return for_each(args.names, lambda name: str(client.wait(name)))


def for_each(names: Sequence[str], do: Callable[[str], str], at_once: int = 1) -> int:
    """Do it for every name, print what came of each in order, and complain about those that failed."""
    if at_once == 1 or len(names) == 1:
        failures = [_report(name, do) for name in names]
    else:
        # Imported here: it loads threading and logging, and one name needs neither.
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

        with ThreadPoolExecutor(at_once) as pool:
            tasks = {name: pool.submit(do, name) for name in names}
            failures = [_report(name, lambda name: tasks[name].result()) for name in names]
    return 1 if any(failures) else 0


def _report(name: str, do: Callable[[str], str]) -> bool:
    """Whether it failed. Without a supervisor there is nothing to go on with: that is left to the caller."""
    try:
        print(terminal.escaped(do(name)), flush=True)
    except errors.Unavailable:
        raise
    except errors.WherryError as error:
        terminal.complain(error)
        return True
    return False
