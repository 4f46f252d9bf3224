"""Where our options may stand on the command lines of ``start`` and ``run``.

    engine run [OPTIONS] NAME [OPTIONS] ROOTFS [OPTIONS] COMMAND [ARG...] [LONG OPTIONS]

1. Before COMMAND every word that begins with "-" is an option of ours, with the word after it where it takes a value.
2. The words from COMMAND on belong to the command, except for the longest run at the very end that consists only of our
   long options ("--soft-mib 3", "--soft-mib=3", "--rm"). Short ones, and --help, there belong to the command.
3. "--" ends our options: before COMMAND it is dropped and every word after it is taken as it is; after COMMAND it
   belongs to the command, and so does everything behind it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wherry.cli.parser import Option


class Vocabulary:
    """Which words are options: of each, whether it takes a value."""

    def __init__(self, options: Iterable[Option]) -> None:
        self._valued = {name: option.takes_value for option in options for name in option.names}

    def takes_value(self, word: str) -> bool:
        """Whether the value of the option in ``word`` is the next word; False for options that are not ours."""
        if word.startswith("--"):
            return self._valued.get(word, False)
        for position, letter in enumerate(word[1:], start=2):
            if self._valued.get(f"-{letter}", False):
                return position == len(word)
        return False

    def trailing(self, words: Sequence[str], start: int) -> int | None:
        """Where the long option that begins at ``start`` ends; None when there is no whole one."""
        name, equals, _ = words[start].partition("=")
        if not name.startswith("--") or name not in self._valued:
            return None
        if not self._valued[name]:
            return None if equals else start + 1
        if equals:
            return start + 1
        has_value = start + 1 < len(words) and not words[start + 1].startswith("--")
        return start + 2 if has_value else None


def split(words: Sequence[str], vocabulary: Vocabulary) -> tuple[list[str], list[str]]:
    """The words that are options, and the others in order: NAME, ROOTFS, COMMAND, ARG..."""
    options: list[str] = []
    others: list[str] = []
    position = 0
    while position < len(words) and len(others) < 2:
        word = words[position]
        if word == "--":
            return options, [*others, *words[position + 1 :]]
        if not _is_option(word):
            others.append(word)
            position += 1
            continue
        end = position + 1 + vocabulary.takes_value(word)
        options += words[position:end]
        position = end
    while position < len(words) and _is_option(words[position]):
        if words[position] == "--":
            return options, [*others, *words[position + 1 :]]
        end = position + 1 + vocabulary.takes_value(words[position])
        options += words[position:end]
        position = end
    command = words[position:]
    run = _trailing_run(command, vocabulary)
    return [*options, *command[run:]], [*others, *command[:run]]


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _trailing_run(command: Sequence[str], vocabulary: Vocabulary) -> int:
    """Where the run of our long options at the end begins; COMMAND itself is never part of it."""
    if "--" in command:
        return len(command)
    begins = {len(command)}
    for start in range(len(command) - 1, 0, -1):
        if vocabulary.trailing(command, start) in begins:
            begins.add(start)
    return min(begins)
