"""Times as Docker's clients read them."""

from __future__ import annotations

import datetime
import re
import time

ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time, which Docker sends for "never"."""

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY
_MONTH = 30 * _DAY
_YEAR = 365 * _DAY
_UNITS = {"ms": 0.001, "s": 1, "m": _MINUTE, "h": _HOUR}
_PART = r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)"


def moment(text: str) -> int:
    """Nanoseconds since the epoch of a time as docker's filter "until" has it.

    A duration before now ("10m", "1h30m"), RFC 3339, a local date with or without a time, or seconds since the epoch.
    Raises ValueError, OverflowError.
    """
    if re.fullmatch(rf"(?:{_PART})+", text, re.ASCII):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text, re.ASCII))
        return time.time_ns() - int(seconds * 1e9)
    if match := re.fullmatch(r"(\d{1,11})(?:\.(\d{1,9}))?", text, re.ASCII):
        return int(match[1]) * 10**9 + int((match[2] or "0").ljust(9, "0"))
    if not re.fullmatch(r"\d{4}-\d\d-\d\d([T ].{1,40})?", text, re.ASCII):  # fromisoformat() takes more than that
        raise ValueError("not a time")
    return int(datetime.datetime.fromisoformat(text).timestamp() * 1e9)


def human_duration(seconds: float) -> str:
    """A length of time in the words of ``docker ps`` ("5 minutes", "About an hour")."""
    if seconds < 1:
        return "Less than a second"
    if seconds < _MINUTE:
        return "1 second" if seconds < 2 else f"{int(seconds)} seconds"
    if seconds < _HOUR:
        return "About a minute" if seconds < 2 * _MINUTE else f"{int(seconds // _MINUTE)} minutes"
    hours = int(seconds / _HOUR + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    return _human_days(seconds)


def _human_days(seconds: float) -> str:
    for unit, word, limit in ((_DAY, "days", 2 * _WEEK), (_WEEK, "weeks", 2 * _MONTH), (_MONTH, "months", 2 * _YEAR)):
        if seconds < limit:
            return f"{int(seconds // unit)} {word}"
    return f"{int(seconds // _YEAR)} years"
