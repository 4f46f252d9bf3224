"""Times as Docker's clients read them."""

from __future__ import annotations

ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time, which Docker sends for "never"."""

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY
_MONTH = 30 * _DAY
_YEAR = 365 * _DAY


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
