"""``engine exec``."""

from __future__ import annotations

from wherry import errors
from wherry.cli import terminal, values
from wherry.cli.names import complete_running
from wherry.cli.placement import Vocabulary
from wherry.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.cli.parser import Namespace, Parser

EXEC = """Execute a command in a container that runs, pass on its output, and exit with its exit code.

The command is one more process of the container: in its namespaces, limits, capabilities and filter. It ends when the
container ends. Options stand before NAME; everything behind NAME is the command. Interrupted, or without a reader of
its output, exec ends and the command goes on, as with docker. Its output is not in the container's log.
With -i it reads exec's standard input, to its end or the end of exec; without, it reads /dev/null.
Exit codes besides the command's own (128+N after signal N): 125 it could not be executed, or followed to its end, or
the command line is wrong; 126 COMMAND cannot be executed; 127 COMMAND was not found; 137 after --timeout; 1 no
supervisor is running.
"""


def add_exec(parser: Parser) -> None:
    parser.usage_exit = errors.WherryError.exit_code
    parser.usage = "%(prog)s [OPTIONS] NAME COMMAND [ARG...]"
    parser.description = EXEC
    parser.positional("name", metavar="NAME", count="?", help="name, id or start of an id", completer=complete_running)
    parser.positional("command", metavar="COMMAND", count="?", help="program in the container")
    parser.positional("arguments", metavar="ARG", count="*", help="arguments of COMMAND")
    parser.flag("-d", "--detach", help="print its id as soon as it runs; its output is lost")
    about_env = "set a variable beside the container's; without =V your own value"
    parser.option("-e", "--env", metavar="K[=V]", repeats=True, type=values.variable, help=about_env)
    parser.option("-w", "--workdir", metavar="DIR", dest="working_dir", help="working directory (default: its own)")
    parser.option("-u", "--user", metavar="USER[:GROUP]", help="name or number, from its /etc/passwd")
    parser.flag("--privileged", help="with all capabilities (the seccomp filter stays)")
    about_timeout = "seconds after which all that it has started is killed"
    parser.option("--timeout", metavar="S", type=values.seconds_above_zero, help=about_timeout)
    parser.flag("-i", "--interactive", help="give it your standard input, to its end")
    parser.flag("-t", "--tty", help="not supported yet")
    parser.run = execute
    parser.interpret = parse


def parse(parser: Parser, words: Sequence[str], found: Namespace) -> None:
    vocabulary = Vocabulary(parser.options)
    position = 0
    while position < len(words) and words[position].startswith("-") and words[position] not in {"-", "--"}:
        position += 1 + vocabulary.takes_value(words[position])
    others = list(words[position:])
    if others[:1] == ["--"]:
        others = others[1:]
    parser.parse(words[:position], found)
    missing = ("NAME", "COMMAND")[len(others) :]
    if missing:
        parser.error(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing")
    found.name, found.command, *found.arguments = others
    for word in ("name", "command"):
        if not getattr(found, word):
            parser.error(f"{word.upper()} is empty")
    if found.tty:
        parser.error("a terminal (-t) is not supported yet")
    if found.interactive and found.detach:
        parser.error("-i and -d exclude each other: nobody would feed it")


def execute(args: Namespace) -> int:
    command = [args.command, *args.arguments]
    options = {"env": args.env, "working_dir": args.working_dir, "user": args.user, "timeout": args.timeout}
    options |= {"privileged": args.privileged}
    try:
        with Client(args.socket) as client:
            if args.detach:
                print(client.start_exec(args.name, command, **options).id)
                return 0
            given = None
            if args.interactive:
                from wherry.client.feeding import Descriptor  # noqa: PLC0415 (only with -i)

                given = Descriptor(0)
            result = client.exec(args.name, command, on_output=terminal.write_all, input=given, **options)
    except errors.WherryError as error:
        if isinstance(error, errors.Unavailable) and error.has_begun:  # 1 would look like the command's own exit code
            terminal.complain(f"{error}; the command in {args.name} may still be running")
            return 125
        terminal.complain(error)
        return error.exit_code
    except OSError as error:
        return terminal.complain_of_output(error, f"the command in {args.name}")
    if result.reason == "timed_out" or result.error:
        terminal.complain(f"{args.name}: {result.error or f'the command was killed after {args.timeout:g} s'}")
    return result.exit_code
