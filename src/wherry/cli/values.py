"""Types of option values; their errors name the value."""

from __future__ import annotations

import os

from wherry.cli.parser import BadValue
from wherry.client import MAX_MIB
from wherry.client.arguments import parse_restart, parse_size

_DIGITS = frozenset("0123456789")


def _whole(text: str) -> int | None:
    """A whole number; not what int() takes besides: blanks, underscores, digits of other scripts."""
    sign, digits = (text[0], text[1:]) if text[:1] in {"-", "+"} else ("", text)
    if not digits or len(digits) > 18 or not _DIGITS.issuperset(digits):
        return None
    return int(sign + digits)


def _decimal(text: str) -> float | None:
    whole, _, fraction = text.partition(".")
    if len(text) > 18 or not (whole or fraction) or not _DIGITS.issuperset(whole + fraction):
        return None
    return float(text)


def mib(text: str) -> int:
    """A memory limit in MiB."""
    number = _whole(text)
    if number is None or not 1 <= number <= MAX_MIB:
        raise BadValue(f"{text!r} is not a whole number of MiB above 0")
    return number


def size(text: str) -> int:
    """A number of bytes as docker takes it: 1073741824, 64m, 64MB, 1.5g, 64MiB."""
    try:
        if (number := parse_size(text)) > 0:
            return number
    except ValueError:
        pass
    raise BadValue(f"{text!r} is not a size above 0, such as 64m or 1g")


def swap(text: str) -> int:
    """As ``size``, or -1."""
    return -1 if text == "-1" else size(text)


def size_or_zero(text: str) -> int:
    """As ``size``, or 0."""
    return 0 if text == "0" else size(text)


def nice(text: str) -> int:
    """A nice value: -20 (most CPU) to 19 (least)."""
    return _between(text, -20, 19)


def cpus(text: str) -> float:
    """A number of CPUs above 0."""
    number = _decimal(text)
    if number is None or number < 0.001:
        raise BadValue(f"{text!r} is not a decimal number of CPUs above 0 (smallest: 0.001)")
    return number


def cpus_or_zero(text: str) -> float:
    """As ``cpus``, or 0."""
    return 0.0 if text == "0" else cpus(text)


def shares(text: str) -> int:
    """CPU shares: 2 to 262144."""
    return _between(text, 2, 262144)


def io_weight(text: str) -> int:
    """An I/O weight as docker's blkio weight: 10 to 1000."""
    return _between(text, 10, 1000)


def _between(text: str, least: int, most: int) -> int:
    number = _whole(text)
    if number is None or not least <= number <= most:
        raise BadValue(f"{text!r} is not a whole number from {least} to {most}")
    return number


def pids(text: str) -> int:
    """A number of processes; 0 and -1 are unlimited, as docker has it."""
    number = _whole(text)
    if number is None or number < -1:
        raise BadValue(f"{text!r} is not a whole number above 0 (or -1 for no limit)")
    return number


def count(text: str) -> int:
    """A whole number, 0 or more."""
    number = _whole(text)
    if number is None or number < 0:
        raise BadValue(f"{text!r} is not a whole number from 0 up")
    return number


def seconds(text: str) -> float:
    """A span in seconds, 0 or more."""
    number = _decimal(text)
    if number is None or number >= 1e9:
        raise BadValue(f"{text!r} is not a number of seconds from 0 up")
    return number


def restart(text: str) -> str:
    """A restart policy."""
    try:
        parse_restart(text)
    except ValueError:
        raise BadValue(f"{text!r} is not no, on-failure[:N], always or unless-stopped") from None
    return text


def seconds_above_zero(text: str) -> float:
    """A span in seconds above 0."""
    number = _decimal(text)
    if not number or number >= 1e8:
        raise BadValue(f"{text!r} is not a number of seconds above 0")
    return number


def ulimit(text: str) -> tuple[str, tuple[int, int]]:
    """NAME=SOFT[:HARD]; -1 is no limit."""
    name, _, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    numbers = _whole(soft), _whole(hard if colon else soft)
    if not name or None in numbers or min(number or 0 for number in numbers) < -1:
        raise BadValue(f"{text!r} is not NAME=SOFT[:HARD], such as nofile=1024:4096 (-1: no limit)")
    return name, (numbers[0] or 0, numbers[1] or 0)


def variable(text: str) -> str:
    """NAME=VALUE; NAME alone gets the caller's value, and stays NAME where the caller has none."""
    name, equals, _ = text.partition("=")
    if not name:
        raise BadValue(f"{text!r} has no name before '='")
    return text if equals or name not in os.environ else f"{name}={os.environ[name]}"


def setting(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise BadValue(f"{text!r} is not NAME=VALUE")
    return name, value


def oom_score_adj(text: str) -> int:
    """-1000 (never) to 1000 (first)."""
    return _between(text, -1000, 1000)


def whole_stop_seconds(text: str) -> int:
    """A span in whole seconds; -1 for ever."""
    number = _whole(text)
    if number is None or not -1 <= number < 1e9:
        raise BadValue(f"{text!r} is not a whole number of seconds from 0 up, or -1")
    return number


def stop_seconds(text: str) -> float:
    """A span in seconds; -1 for ever."""
    return -1.0 if text == "-1" else seconds(text)


def tail(text: str) -> int | None:
    """A number of lines, or "all" (None)."""
    if text == "all":
        return None
    number = _whole(text)
    if number is None or number < 0:
        raise BadValue(f"{text!r} is neither a whole number of lines nor 'all'")
    return number
