"""What callers of the Python API give, checked before anything is sent.

Every check takes the argument's name and its value, returns the value as it is to be sent, and raises InvalidRequest
that says which argument it was, what was given and what is expected (its fields ``argument`` and ``value``). An unknown
keyword is a TypeError, as with any Python function. None leaves an option out.
"""

from __future__ import annotations

import os

from wherry import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    Check = Callable[[str, Any], Any]

MIB = 1 << 20
MAX_MIB = (1 << 63) // MIB - 1
"""Largest limit that fits the kernel's signed 64-bit byte counts."""

_MOST = (1 << 63) - 1
_DIGITS = frozenset("0123456789")
SOME_CPUS = "a number of CPUs above 0, such as 0.5"
_SHOWN = 60
_POLICIES = ("no", "on-failure", "always", "unless-stopped")
_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def refuse(argument: str, value: object, expected: str) -> NoReturn:
    """Raise what a wrong ``value`` of ``argument`` raises."""
    text = repr(value)
    text = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    kind = "" if value is None or isinstance(value, bool) else f" (of type {type(value).__name__})"
    raise errors.InvalidRequest(f"{argument}: expected {expected}, not {text}{kind}", argument, value)


def keywords(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError for a keyword that ``function`` does not have, with the nearest one it has."""
    names = list(known)
    for name in given:
        if name not in names:
            from difflib import get_close_matches  # noqa: PLC0415 (9 ms, and only for an error)

            near = get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def text(argument: str, value: Any) -> str:
    """A string that is not empty, as ``sendable``."""
    if not isinstance(value, str):
        refuse(argument, value, "a string")
    if not value:
        refuse(argument, value, "a string that is not empty (None leaves it out)")
    return sendable(argument, value)


def sendable(argument: str, value: str) -> str:
    """``value`` if JSON and the kernel can take it."""
    if "\0" in value:
        refuse(argument, value, "text without a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            # Bytes of a command line that are not UTF-8 become lone surrogates in Python, and JSON cannot carry them.
            message = f"{argument}: not UTF-8, which is all the supervisor takes: {value[:_SHOWN]!r}"
            raise errors.InvalidRequest(message, argument, value) from None
    return value


def path(argument: str, value: Any) -> str:
    """A path as string or ``os.PathLike``, whatever it may hold."""
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        refuse(argument, value, "a path as string or os.PathLike")
    return found


def flag(argument: str, value: Any) -> bool:
    if not isinstance(value, bool):
        refuse(argument, value, "True or False")
    return value


def whole(argument: str, value: Any, least: int = -_MOST, most: int = _MOST, what: str = "") -> int:
    """An int, or what stands for one exactly (``__index__``), but no bool; ``what`` is expected."""
    number = value.__index__() if hasattr(value, "__index__") and not isinstance(value, bool) else None
    if number is None or not least <= number <= most:
        span = "" if least == -_MOST else f" from {least} up" if most == _MOST else f" from {least} to {most}"
        refuse(argument, value, what or f"a whole number{span}")
    return int(number)


def mib(argument: str, value: Any) -> int:
    return whole(argument, value, 1, MAX_MIB, f"a whole number of MiB from 1 to {MAX_MIB}")


def number(argument: str, value: Any, least: float, most: float, what: str) -> float:
    """An int or float between two bounds; NaN is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        refuse(argument, value, what)
    return value


def nanoseconds(argument: str, value: Any) -> int:
    """Of a span in seconds."""
    return round(number(argument, value, 1e-3, 1e8, "a number of seconds above 0, or None") * 1e9)


def parse_size(text: str) -> int:
    """Bytes in text as docker takes it: 1073741824, 64m, 64MB, 1.5g, 64MiB, in powers of 1024. Raises ValueError."""
    word = text.lower().removesuffix("b").removesuffix("i")
    unit = word[-1:] if word[-1:] in _UNITS else ""
    digits = word.removesuffix(unit)
    before, point, after = digits.partition(".")
    is_number = len(digits) <= 18 and (before or after) and _DIGITS.issuperset(before + after)
    if not is_number or (text.lower().endswith("ib") and not unit):
        raise ValueError("not a size")
    return int((float(digits) if point else int(digits)) * _UNITS[unit or "b"])


def size(argument: str, value: Any) -> int:
    """Bytes, or text such as "64m"."""
    expected = 'a size: bytes, or text such as "64m" or "1.5g"'
    if isinstance(value, str):
        try:
            number = parse_size(value)
        except ValueError:
            number = -1
        return number if 0 <= number <= _MOST else refuse(argument, value, expected)
    return whole(argument, value, 0, what=expected)


def swap(argument: str, value: Any) -> int:
    """As ``size``, or -1 for any amount."""
    return -1 if value in (-1, "-1") and not isinstance(value, float) else size(argument, value)


def signal(argument: str, value: Any) -> str:
    """A signal's name, or its number."""
    expected = 'a signal: a name such as "TERM", or a number from 1 to 64'
    if isinstance(value, str):
        return text(argument, value) if value else refuse(argument, value, expected)
    return str(whole(argument, value, 1, 64, expected))


def restart(argument: str, value: Any) -> dict[str, Any]:
    """Docker's restart policy: its name, and for on-failure how often at most."""
    try:
        return parse_restart(text(argument, value))
    except ValueError:
        refuse(argument, value, f"{', '.join(_POLICIES)}, or on-failure:N")


def parse_restart(text: str) -> dict[str, Any]:
    """Of "always" or "on-failure:3". Raises ValueError."""
    name, colon, number = text.partition(":")
    is_number = 0 < len(number) <= 9 and _DIGITS.issuperset(number)
    if name not in _POLICIES or (colon and not (name == "on-failure" and is_number)):
        raise ValueError("not a restart policy")
    return {"Name": name, "MaximumRetryCount": int(number or 0)}


def sequence(argument: str, value: Any, of: str = "strings") -> list[Any]:
    """The items of a list, tuple or other iterable, but not of one string or of a mapping."""
    if isinstance(value, (str, bytes, bytearray)):
        kind = "string" if isinstance(value, str) else type(value).__name__
        raise errors.InvalidRequest(f"{argument} is one {kind}; a list of {of} is expected", argument, value)
    if hasattr(value, "items") or isinstance(value, (set, frozenset)) or not hasattr(value, "__iter__"):
        refuse(argument, value, f"a list of {of}")
    return list(value)


def words(argument: str, value: Any) -> list[str]:
    """A list of strings or paths; an error names the place in the list."""
    return [_word(f"{argument}[{place}]", word) for place, word in enumerate(sequence(argument, value))]


def _word(argument: str, value: Any) -> str:
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        refuse(argument, value, "a string (or os.PathLike)")
    return sendable(argument, found)


def command(argument: str, value: Any) -> list[str]:
    found = words(argument, value)
    if not found:
        refuse(argument, value, "a program and its arguments")
    return found


def env(argument: str, value: Any) -> list[str]:
    """ "K=V" strings from a mapping or a list. Numbers are whole ones: what str() makes of other things is a guess."""
    if not hasattr(value, "items"):
        found = words(argument, value)
        for place, variable in enumerate(found):
            if not variable.partition("=")[0]:
                refuse(f"{argument}[{place}]", variable, '"NAME=VALUE"')
        return found
    found = []
    for name, setting in value.items():
        if not isinstance(name, str) or not name or "=" in name:
            refuse(f"{argument} name", name, "a string that is not empty and has no '='")
        found.append(f"{sendable(argument, name)}={_setting(f'{argument}[{name!r}]', setting)}")
    return found


def _setting(argument: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, (str, os.PathLike)):
        refuse(argument, value, "a string, a whole number or a path (leave the variable out to have none)")
    return _word(argument, value)


def texts(argument: str, value: Any) -> dict[str, str]:
    """A mapping of strings to strings, which may be empty."""
    if not hasattr(value, "items"):
        refuse(argument, value, "a mapping of strings to strings")
    found = {}
    for key, each in value.items():
        if not isinstance(key, str) or not key:
            refuse(f"{argument} key", key, "a string that is not empty")
        found[sendable(argument, key)] = _word(f"{argument}[{key!r}]", each)
    return found


def callback(argument: str, value: Any) -> Any:
    """None, or what can be called."""
    if value is not None and not callable(value):
        refuse(argument, value, "a function")
    return value
