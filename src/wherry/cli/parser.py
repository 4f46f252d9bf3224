"""Command lines: each command declares its options once, in ``Parser``.

A well-formed command line is read by ``Parser`` itself. Whatever it does not understand at once (a wrong value, an
unknown option, --help, rarer spellings such as "-n5") is given to argparse, built from the same declaration by
``full``, which knows all the rules and has the messages. A command line that both understand means the same to both;
a test holds that.

Why twice: importing argparse costs 8 ms (``re``, ``enum``, ``gettext``), where a bare interpreter takes 11 and
``docker ps`` 14 in all.
"""

from __future__ import annotations

import sys

from wherry.cli import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn


class BadValue(Exception):
    """What an option was given is no value of its type; ``str()`` says why."""


class UnusualError(Exception):
    """The command line needs argparse."""


class Namespace:
    """What a command line said, by attributes."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: Any) -> None: ...


class Option:
    """One declared option, or positional argument when its only name has no dash."""

    def __init__(self, names: Sequence[str], group: str, **how: Any) -> None:
        self.names = names
        self.group = group
        self.dest: str = how.get("dest") or names[-1].lstrip("-").replace("-", "_")
        self.takes_value: bool = not how.get("is_flag", False)
        self.count: str = how.get("count", "")
        self.metavar: str | None = how.get("metavar")
        self.type: Callable[[str], Any] = how.get("type") or str
        self.default: Any = how.get("default")
        self.repeats: bool = how.get("repeats", False)
        self.choices: Sequence[str] | None = how.get("choices")
        self.exclusive: bool = how.get("exclusive", False)
        self.help: str = how.get("help", "")
        self.completer: Callable[..., list[str]] | None = how.get("completer")

    def value(self, text: str) -> Any:
        """What ``text`` stands for; raises BadValue.

        An empty text is no option's value: it comes from an empty variable of the caller's, and would silently mean the
        default (to kill: SIGKILL).
        """
        if not text and self.names[0].startswith("-"):
            raise BadValue("the value is empty")
        value = self.type(text)
        if self.choices is not None and value not in self.choices:
            raise BadValue(text)
        return value


class Parser:
    """The declaration of one command.

    ``usage_exit`` is the exit code for a wrong command line: 2, and 125 for start and run as docker's. ``run`` is
    what the command does; ``interpret`` replaces ``parse`` for commands that have their own idea of where options
    stand.
    """

    run: Callable[[Namespace], int]
    interpret: Callable[[Parser, Sequence[str], Namespace], object] | None = None

    def __init__(self, prog: str) -> None:
        self.prog = prog
        self.usage_exit = 2
        self.usage: str | None = None
        self.description = ""
        self.epilog = ""
        self.options: list[Option] = []
        self._group = ""

    def group(self, title: str) -> None:
        """Options declared from here on stand below ``title`` in the help text."""
        self._group = title

    def flag(self, *names: str, help: str, exclusive: bool = False, dest: str = "") -> None:  # noqa: A002 (as argparse)
        """An option without a value. At most one ``exclusive`` option of a command may be given."""
        how = {"is_flag": True, "help": help, "exclusive": exclusive, "default": False, "dest": dest}
        self.options.append(Option(names, self._group, **how))

    def option(self, *names: str, **how: Any) -> None:
        """An option with a value: metavar, help, type, default, choices, dest, repeats (a list), exclusive."""
        self.options.append(Option(names, self._group, **how))

    def positional(self, name: str, **how: Any) -> None:
        """An argument: metavar, help, choices, completer, count ("?" at most one, "+" one or more, "*" any number)."""
        self.options.append(Option([name], "", **how))

    def parse(self, words: Sequence[str], found: Namespace) -> None:
        """Set the attributes of ``found``; ends the program when the command line is wrong or asks for help."""
        try:
            _Reading(self.options).read(words, found)
        except UnusualError:
            from wherry.cli import full  # noqa: PLC0415 (loads argparse)

            full.build(self).parse(words, found)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line and end the program."""
        terminal.write_error(f"{self.prog}: {terminal.escaped(message)}\nSee '{self.prog} --help'.\n")
        sys.exit(self.usage_exit)


class _Reading:
    """One command line being read."""

    def __init__(self, options: Sequence[Option]) -> None:
        self._positionals = [option for option in options if not option.names[0].startswith("-")]
        self._options = [option for option in options if option.names[0].startswith("-")]
        self._by_name = {name: option for option in self._options for name in option.names}
        self._values: dict[str, Any] = {}
        self._words: list[str] = []
        self._exclusive = 0

    def read(self, words: Sequence[str], found: Namespace) -> None:
        waiting = iter(words)
        try:
            for word in waiting:
                if word == "--":
                    self._words += waiting
                elif not word.startswith("-") or word == "-":
                    self._words.append(word)
                else:
                    self._take(word, waiting)
            self._arrange()
        except (BadValue, StopIteration):
            raise UnusualError from None
        for option in self._options:
            if option.dest != "socket":  # given before the command, it stays
                self._values.setdefault(option.dest, [] if option.repeats else option.default)
        vars(found).update(self._values)

    def _take(self, word: str, waiting: Any) -> None:
        name, equals, text = word.partition("=")
        option = self._by_name.get(name)
        if option is None or (equals and not (option.takes_value and name.startswith("--"))):
            raise UnusualError
        self._exclusive += option.exclusive
        if self._exclusive > 1:
            raise UnusualError
        if not option.takes_value:
            self._values[option.dest] = True
            return
        if not equals:
            text = next(waiting)
            if text.startswith("-"):
                raise UnusualError
        value = option.value(text)
        self._values[option.dest] = [*self._values.get(option.dest, []), value] if option.repeats else value

    def _arrange(self) -> None:
        """Give the other words to the positional arguments; only the last of these may take another number than one."""
        words = self._words
        for option in self._positionals:
            if option.count in {"+", "*"}:
                if option.count == "+" and not words:
                    raise UnusualError
                self._values[option.dest], words = [option.value(word) for word in words], []
            elif words:
                self._values[option.dest], words = option.value(words[0]), words[1:]
            elif option.count == "?":
                self._values[option.dest] = option.default
            else:
                raise UnusualError
        if words:
            raise UnusualError
