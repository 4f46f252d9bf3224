"""The functions of templates: Go's, and those that docker adds."""

from __future__ import annotations

import json
import re

from wherry import errors
from wherry.cli import terminal
from wherry.cli.template_parsing import Trusted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MOST = 1 << 20
"""Characters that a template may make."""
_WIDEST = 1000
_VERB = re.compile(r"%(?P<flags>[-+ 0#]*)(?P<width>[0-9]{0,4})(?P<precision>\.[0-9]{0,3})?(?P<verb>[a-zA-Z%])")
_NUMERIC = {"d": int, "x": int, "X": int, "o": int, "f": float, "e": float, "g": float}


def wrong(message: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(f"template: {message}")


def safe_json(value: object, indent: int | None = None) -> str:
    """JSON in printable ASCII: of the control characters json leaves only DEL as it is."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def text_of(value: Any) -> str:
    """As Go prints it: [a b], map[k:v], true, <no value>."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case None:
            return "<no value>"
        case dict():
            return f"map[{' '.join(f'{key}:{text_of(value[key])}' for key in sorted(value))}]"
        case list() | tuple():
            return f"[{' '.join(map(text_of, value))}]"
        case float():
            return f"{value:g}"
    return str(value)


def safe(value: Any) -> Trusted:
    """For the terminal: what is not the user's own is escaped."""
    return value if isinstance(value, Trusted) else Trusted(terminal.escaped(text_of(value)))


def _join(values: Any, separator: str = "") -> Trusted:
    if not isinstance(values, list | tuple):
        raise wrong(f"join needs a list, not {text_of(values)[:60]!r}")
    if len(safe(separator)) * len(values) > MOST:
        raise wrong(f"it makes more than {MOST} characters")
    return Trusted(safe(separator).join(map(safe, values)))


def _truncate(value: Any, most: Any) -> str:
    if isinstance(value, int):  # docker's order is text, number; in a pipeline the text comes last
        value, most = most, value
    if not isinstance(most, int) or most < 0:
        raise wrong(f"truncate needs a number of characters, not {text_of(most)[:60]!r}")
    return text_of(value)[:most]


def _printf(form: Any, *values: Any) -> Trusted:
    left = list(values)

    def put(match: re.Match[str]) -> str:
        verb = match["verb"]
        if verb == "%":
            return "%"
        width = int(match["width"] or 0)
        if not left:
            raise wrong(f"printf: nothing is left for {match[0]!r}")
        if width > _WIDEST:
            raise wrong(f"printf: {match[0]!r} is wider than {_WIDEST}")
        return _put(left.pop(0), verb, match)

    text = _VERB.sub(put, safe(form))  # which may be a container's as well
    if left:
        raise wrong(f"printf has {len(left)} arguments too many for {str(form)[:60]!r}")
    return Trusted(text)


def _put(value: Any, verb: str, match: re.Match[str]) -> str:
    flags, precision = match["flags"].replace("#", ""), match["precision"] or ""
    width = match["width"]
    if verb in _NUMERIC and isinstance(value, int | float) and not isinstance(value, bool):
        digits = precision if verb in "feg" else ""
        return str(f"%{flags}{width}{digits}{verb}" % _NUMERIC[verb](value))
    if verb not in "svqt":
        raise wrong(f"printf: {match[0]!r} does not fit {text_of(value)[:60]!r}")
    text = safe_json(text_of(value)) if verb == "q" else safe(value)
    left = "-" if "-" in flags else ""
    return f"%{left}{width}{precision}s" % text


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list | tuple | str) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        else:
            raise wrong(f"index {text_of(key)[:60]!r} is not in {text_of(value)[:60]!r}")
    return value


def _length(value: Any) -> int:
    if not isinstance(value, list | tuple | dict | str):
        raise wrong(f"len needs a list, a map or text, not {text_of(value)[:60]!r}")
    return len(value)


def _compared(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(first: Any, second: Any) -> bool:
        try:
            return test(first, second)
        except TypeError:
            raise wrong(f"{text_of(first)[:60]!r} and {text_of(second)[:60]!r} cannot be compared") from None

    return compare


def _split(value: Any, separator: Any) -> list[str]:
    return text_of(value).split(str(separator) or None)


def _padded(value: Any, before: Any, after: Any) -> str:
    if not (isinstance(before, int) and isinstance(after, int) and 0 <= before <= _WIDEST and 0 <= after <= _WIDEST):
        raise wrong(f"pad needs two numbers of spaces, each at most {_WIDEST}")
    text = text_of(value)
    return " " * before + text + " " * after if text else text


def _all(*values: Any) -> Any:
    return next((value for value in values if not value), values[-1])


def _any(*values: Any) -> Any:
    return next((value for value in values if value), values[-1])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": lambda value: Trusted(safe_json(value)),
    "join": _join,
    "upper": lambda value: text_of(value).upper(),
    "lower": lambda value: text_of(value).lower(),
    "title": lambda value: text_of(value)[:1].upper() + text_of(value)[1:],
    "truncate": _truncate,
    "printf": _printf,
    "println": lambda *values: Trusted(" ".join(map(safe, values)) + "\n"),
    "split": _split,
    "pad": _padded,
    "index": _index,
    "len": _length,
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "lt": _compared(lambda first, second: first < second),
    "le": _compared(lambda first, second: first <= second),
    "gt": _compared(lambda first, second: first > second),
    "ge": _compared(lambda first, second: first >= second),
    "and": _all,
    "or": _any,
    "not": lambda value: not value,
}
