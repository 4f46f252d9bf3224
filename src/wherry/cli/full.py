"""argparse, built from the declarations in ``parser``: help texts, error messages, rarer spellings, completion."""

from __future__ import annotations

import argparse
import sys

from wherry.cli import terminal
from wherry.cli.parser import BadValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from wherry.cli.parser import Namespace, Option, Parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(terminal.columns() or 100, 120) - 2)


class FullParser(argparse.ArgumentParser):
    """argparse with one-line messages and the exit code of the declaration."""

    def __init__(self, *, declaration: Parser | None = None, **kwargs: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **kwargs)
        self._declaration = declaration
        if declaration:
            self.usage = declaration.usage
            self.description = declaration.description
            self.epilog = declaration.epilog
            self._declare(declaration.options)

    def _declare(self, options: Sequence[Option]) -> None:
        groups: dict[object, argparse._ActionsContainer] = {"": self}
        for option in options:
            key: object = "exclusive" if option.exclusive else option.group
            if key not in groups:
                groups[key] = (
                    self.add_mutually_exclusive_group() if option.exclusive else self.add_argument_group(option.group)
                )
            action = groups[key].add_argument(*option.names, **_arguments(option))
            action.completer = option.completer  # type: ignore[attr-defined]

    def parse(self, words: Sequence[str], found: Namespace) -> None:
        """Set the attributes of ``found``; ends the program when the command line is wrong or asks for help."""
        # Intermixed, so that options may stand between names as with docker; but that kind drops what follows "--".
        parse = self.parse_args if "--" in words else self.parse_intermixed_args
        parse(words, found)

    def print_help(self, file: object = None) -> None:
        # argparse's own swallows an OSError, and --help > /dev/full would be a success.
        print(self.format_help(), end="")

    def error(self, message: str) -> NoReturn:
        from wherry.cli import suggestions  # noqa: PLC0415 (loads difflib)

        known = (name for name in self._option_string_actions if name.startswith("--"))
        text = terminal.escaped(suggestions.unrecognized(message.removeprefix("argument "), known))
        terminal.write_error(f"{self.prog}: {text}\nSee '{self.prog} --help'.\n")
        sys.exit(self._declaration.usage_exit if self._declaration else 2)


def build(declaration: Parser) -> FullParser:
    return FullParser(declaration=declaration, prog=declaration.prog)


def _arguments(option: Option) -> dict[str, Any]:
    """What ``add_argument`` wants to know of an option."""
    how: dict[str, Any] = {"help": option.help.replace("%", "%%")}
    if option.names[0].startswith("-"):
        how["dest"] = option.dest
    if not option.takes_value:
        return {**how, "action": "store_true"}
    how |= {"type": _typed(option), "choices": option.choices, "metavar": option.metavar}
    if option.count:
        how["nargs"] = option.count
    if option.names[0].startswith("-"):
        # No default for --socket: one after the command would hide what was given before it.
        how["default"] = argparse.SUPPRESS if option.dest == "socket" else [] if option.repeats else option.default
        how["action"] = "append" if option.repeats else "store"
    return how


def _typed(option: Option) -> Callable[[str], Any]:
    def typed(text: str) -> Any:
        try:
            return option.value(text)
        except BadValue as error:
            if option.choices is not None and text:
                return text  # argparse says it better
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed
