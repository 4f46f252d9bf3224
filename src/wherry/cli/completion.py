"""``engine completion`` and the answers to a shell that completes a command line, both by argcomplete."""

from __future__ import annotations

from wherry.cli import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from wherry.cli.parser import Namespace, Parser

SHELLS = ["bash", "zsh", "fish"]


def add_completion(parser: Parser) -> None:
    parser.description = (
        "Print the script that makes a shell complete commands, options and container names:\n"
        '  bash   eval "$(engine completion bash)"           in ~/.bashrc\n'
        '  zsh    eval "$(engine completion zsh)"            in ~/.zshrc, after compinit\n'
        "  fish   engine completion fish | source            in ~/.config/fish/config.fish"
    )
    parser.positional("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    parser.run = script


def script(args: Namespace) -> int:
    try:
        from argcomplete.shell_integration import shellcode  # noqa: PLC0415
    except ImportError:
        terminal.complain("completion needs the Python package argcomplete")
        return 1
    print(shellcode(["engine"], shell=args.shell))
    return 0


def answer(commands: Mapping[str, tuple[Parser, str]]) -> None:
    """Answer the shell that set _ARGCOMPLETE, and end the process. ``commands``: name -> declaration, description."""
    import argcomplete  # noqa: PLC0415

    from wherry.cli.full import FullParser  # noqa: PLC0415

    tree = FullParser(prog="engine")
    tree.add_argument("--socket", default=None)
    branches = tree.add_subparsers()
    for name, (declaration, about) in commands.items():
        branches.add_parser(name, declaration=declaration, help=about)
    argcomplete.autocomplete(tree)
