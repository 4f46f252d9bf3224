"""What somebody may have meant: only for errors, because difflib loads re and collections."""

from __future__ import annotations

from difflib import get_close_matches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to put behind an error, "" when nothing of what is ``known`` is like ``word``."""
    # Without the dashes of options, which would make any two of them alike.
    names = {name.lstrip("-"): name for name in known}
    near = [names[name] for name in get_close_matches(word.lstrip("-"), list(names), 2)]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def unrecognized(message: str, options: Iterable[str]) -> str:
    """argparse's "unrecognized arguments: ..." with the nearest option for the first that looks like one."""
    _, found, words = message.partition("unrecognized arguments: ")
    wrong = [word.partition("=")[0] for word in words.split() if word.startswith("-")] if found else []
    return message + did_you_mean(wrong[0], options) if wrong else message
