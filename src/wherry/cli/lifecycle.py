"""``engine stop``, ``restart``, ``pause``, ``unpause``, ``kill``, ``rename``, ``rm`` and ``wait``."""

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


def add_restart(parser: Parser) -> None:
    parser.description = (
        "Stop containers as `engine stop` does, and start them as they were made; those that do not run are started.\n"
        "Several are restarted at the same time. Prints the name of each."
    )
    add_names(parser, many=True)
    parser.option(
        "-t", "--time", metavar="S", type=values.stop_seconds, help="seconds from SIGTERM to SIGKILL, -1: no SIGKILL"
    )
    parser.run = restart


def add_pause(parser: Parser) -> None:
    parser.description = (
        "Stop all processes of containers where they are, until `engine unpause`. Signals reach them then; stop,\n"
        "rm -f and kill (with SIGKILL or their stop signal) let them go on to end them. Prints the name of each."
    )
    add_names(parser, many=True, running=True)
    parser.run = pause


def add_unpause(parser: Parser) -> None:
    parser.description = "Let paused containers go on. Prints the name of each."
    add_names(parser, many=True, running=True)
    parser.run = unpause


def add_rename(parser: Parser) -> None:
    parser.description = "Give a container another name. Its log file keeps the old one."
    add_names(parser, many=False)
    parser.positional("new_name", metavar="NEW-NAME", help="letters, digits, _ . -")
    parser.run = rename


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
    parser.description = (
        "Wait until containers have ended and print the exit code of each (128+N after signal N). With --timeout, a\n"
        "line on stderr says which had not when the time was up, and 124 is the exit code if any had not."
    )
    add_names(parser, many=True)
    parser.option("--timeout", metavar="S", type=values.seconds, help="wait no longer than so many seconds")
    parser.run = wait


def stop(args: Namespace) -> int:
    with Client(args.socket) as client:

        def stop_one(name: str) -> str:
            if not client.stop(name, args.time):
                terminal.complain(f"{name} was not running")
            return name

        return for_each(args.names, stop_one, client, at_once=_AT_ONCE)


def restart(args: Namespace) -> int:
    with Client(args.socket) as client:
        return for_each(args.names, _named(lambda name: client.restart(name, args.time)), client, at_once=_AT_ONCE)


def pause(args: Namespace) -> int:
    with Client(args.socket) as client:
        return for_each(args.names, _named(client.pause), client)


def unpause(args: Namespace) -> int:
    with Client(args.socket) as client:
        return for_each(args.names, _named(client.unpause), client)


def rename(args: Namespace) -> int:
    with Client(args.socket) as client:
        client.rename(args.name, args.new_name)
    return 0


def kill(args: Namespace) -> int:
    with Client(args.socket) as client:
        return for_each(args.names, _named(lambda name: client.kill(name, args.signal)), client)


def remove(args: Namespace) -> int:
    with Client(args.socket) as client:
        return for_each(args.names, _named(lambda name: client.rm(name, force=args.force)), client)


def _named(do: Callable[[str], None]) -> Callable[[str], str]:
    """``do``, with the name as what there is to print."""

    def do_one(name: str) -> str:
        do(name)
        return name

    return do_one


def wait(args: Namespace) -> int:
    late = []
    with Client(args.socket) as client:

        def wait_for(name: str) -> str:
            try:
                return str(client.wait(name, timeout=args.timeout))
            except errors.WaitTimeout:
                late.append(name)
                raise

        # All at once: one may end, or end again, while we wait for another.
        code = for_each(args.names, wait_for, client, at_once=len(args.names))
    return errors.WaitTimeout.exit_code if late else code


def for_each(names: Sequence[str], do: Callable[[str], str], client: Client, at_once: int = 1) -> int:
    """Do it for every name, print what came of each in order, and complain about those that failed. ``client`` is what
    ``do`` uses.
    """
    if at_once == 1 or len(names) == 1:
        failures = [_report(name, do) for name in names]
    else:
        # Imported here: it loads threading and logging, and one name needs neither.
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

        with ThreadPoolExecutor(at_once) as pool:
            tasks = {name: pool.submit(do, name) for name in names}
            try:
                failures = [_report(name, lambda name: tasks[name].result()) for name in names]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                client.close()  # else we would wait for what nobody wants to know any more
                raise
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
