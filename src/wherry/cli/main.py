"""Entry point of ``engine``: find the command, build its parser and no other, run it, map errors to exit codes."""

from __future__ import annotations

import os
import sys

from wherry import __version__, defaults, errors
from wherry.cli import terminal
from wherry.cli.parser import Namespace, Parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "supervisor": ("supervise", "run the supervisor in the foreground"),
    "start": ("starting", "start a container"),
    "run": ("starting", "start a container, pass on its output and wait for it"),
    "attach": ("attaching", "pass on what a running container writes, and give it input"),
    "ps": ("listing", "list containers"),
    "logs": ("logs", "show what a container has written"),
    "stats": ("stats", "show what containers use"),
    "top": ("processes", "list the processes of a container"),
    "stop": ("lifecycle", "stop containers"),
    "restart": ("lifecycle", "stop and start containers"),
    "pause": ("lifecycle", "stop all processes of containers where they are"),
    "unpause": ("lifecycle", "let paused containers go on"),
    "kill": ("lifecycle", "send a signal to containers"),
    "rename": ("lifecycle", "give a container another name"),
    "rm": ("lifecycle", "remove containers"),
    "prune": ("disk", "remove ended containers and unpacked archives that no container uses"),
    "update": ("updating", "change what containers may use"),
    "inspect": ("reports", "show everything known of containers"),
    "events": ("events", "show what happens to containers"),
    "wait": ("lifecycle", "wait until containers have ended"),
    "experiment": ("experiment", "run scheduler and memory experiments"),
    "df": ("disk", "show what takes disk space"),
    "info": ("reports", "show the supervisor and its machine"),
    "doctor": ("doctor", "check what this host has of what the engine needs"),
    "version": ("reports", "show versions"),
    "completion": ("completion", "print the completion script for a shell"),
    "help": ("help", "show what the engine, or a command, can do"),
}
"""Command -> module with ``add_COMMAND(parser)``, and what ``engine --help`` says of it."""

_PIPE_CLOSED = 128 + 13
_INTERRUPTED = 128 + 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return the exit code."""
    terminal.prepare()
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except errors.WherryError as error:
        terminal.complain(error)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        terminal.discard_output()
        return _PIPE_CLOSED
    except OSError as error:
        terminal.discard_output()
        terminal.complain(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error)
        return 1
    return code


def _run(words: list[str]) -> int:
    if "_ARGCOMPLETE" in os.environ:
        from wherry.cli import completion  # noqa: PLC0415 (argcomplete costs 15 ms)

        completion.answer({name: (declared(name), about) for name, (_, about) in COMMANDS.items()})
    try:
        parser, found = _parsed(words)
        return parser.run(found)
    except SystemExit as end:
        # The way out after --help and after a wrong command line; what was printed must still be flushed.
        return end.code if isinstance(end.code, int) else 0


def _parsed(words: list[str]) -> tuple[Parser, Namespace]:
    position = _command_at(words)
    found = Namespace()
    found.socket = None
    top = top_level()
    top.parse(words[:position], found)
    if position == len(words):
        if found.version:
            print(f"wherry {__version__}")
            sys.exit(0)
        top.error("a command is missing")
    command = words[position]
    if command not in COMMANDS:
        top.error(unknown(command))
    parser = declared(command)
    (parser.interpret or Parser.parse)(parser, words[position + 1 :], found)
    return parser, found


def _command_at(words: Sequence[str]) -> int:
    """Where the command stands: the first word that is neither an option nor the value of --socket."""
    position = 0
    while position < len(words) and words[position].startswith("-"):
        position += 2 if words[position] == "--socket" else 1
    return min(position, len(words))


def unknown(command: str) -> str:
    """What is wrong with a command that there is not, with the nearest that there is."""
    from wherry.cli.suggestions import did_you_mean  # noqa: PLC0415 (loads difflib)

    return f"unknown command {command!r}{did_you_mean(command, COMMANDS)}"


def top_level() -> Parser:
    """What may stand before the command. The commands are text here: their parsers would have to be loaded."""
    commands = "".join(f"  {name:12}{about}\n" for name, (_, about) in COMMANDS.items())
    parser = Parser("engine")
    parser.usage = "%(prog)s [--socket S] COMMAND ..."
    parser.description = "Start isolated processes, and learn truthfully why they ended."
    parser.epilog = f"commands:\n{commands}\n'engine COMMAND --help' says more."
    parser.flag("-v", "--version", help="show the version of this client")
    _add_socket(parser)
    return parser


def declared(command: str) -> Parser:
    parser = Parser(f"engine {command}")
    module = __import__(f"wherry.cli.{COMMANDS[command][0]}", fromlist=["add"])
    getattr(module, f"add_{command}")(parser)
    parser.group("")
    _add_socket(parser)
    return parser


def _add_socket(parser: Parser) -> None:
    text = f"the supervisor's socket (default: ENGINE_SOCKET, or {defaults.SOCKET})"
    parser.option("--socket", metavar="S", help=text)


if __name__ == "__main__":
    sys.exit(main())
