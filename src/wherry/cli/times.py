"""Points in time for the command line, without ``datetime`` (20 ms to import where ``time`` is there already).

Inside they are whole nanoseconds since the epoch; a float would lose the last three digits.
"""

from __future__ import annotations

import time

SECOND = 1_000_000_000
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_DATE = r"(\d{4})-(\d\d)-(\d\d)"
_CLOCK = r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9})\d*)?)?"
_DURATION = r"(\d+)(?:\.(\d{1,9})\d*)?(ns|us|µs|ms|s|m|h)"


def parse(text: str, now_ns: int) -> int:
    """Nanoseconds since the epoch of a time as docker's --since takes it.

    ``text`` is a duration before now ("10m", "1h30m", "1.5s"), RFC 3339 ("2026-01-31T10:00:00.5Z"), the same without a
    zone or with the date only (in the user's zone), or seconds since the epoch ("1769853600.5"). Raises ValueError.
    """
    import re  # noqa: PLC0415

    if re.fullmatch(rf"(?:{_DURATION})+", text, re.ASCII):
        return now_ns - sum(_scaled(*part) for part in re.findall(_DURATION, text, re.ASCII))
    if match := re.fullmatch(r"(\d{1,11})(?:\.(\d{1,9})\d*)?", text, re.ASCII):
        return _scaled(match[1], match[2] or "", "s")
    return from_date(text)


def _scaled(whole: str, fraction: str, unit: str) -> int:
    scale = _UNITS[unit]
    return int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)


def from_date(text: str) -> int:
    """Nanoseconds since the epoch of a date, or of a date with a time and perhaps a zone. Raises ValueError."""
    import re  # noqa: PLC0415

    match = re.fullmatch(rf"{_DATE}(?:[Tt ]{_CLOCK}([Zz]|[+-]\d\d:\d\d)?)?", text, re.ASCII)
    if not match:
        raise ValueError("not a time")
    year, month, day, hour, minute, second = (int(match[group] or 0) for group in range(1, 7))
    if not (1 <= month <= 12 and 1 <= day <= _days_in(year, month) and hour < 24 and minute < 60 and second < 61):
        raise ValueError("no such day or time of day")
    if match[8]:
        seconds = _days_since_epoch(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - _offset(match[8])
    else:
        seconds = int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))
    return seconds * SECOND + int((match[7] or "0").ljust(9, "0"))


def _offset(zone: str) -> int:
    if zone in "Zz":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError("no such zone")
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)


def _days_in(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in {4, 6, 9, 11} else 31


def _days_since_epoch(year: int, month: int, day: int) -> int:
    # Counted in years that begin in March, so that the leap day is the last one of its year.
    year, month = (year - 1, month + 9) if month <= 2 else (year, month - 3)
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1 - 719468


def utc(wall_ns: int) -> str:
    """RFC 3339 in UTC, with all nine digits, of nanoseconds since the epoch."""
    seconds, fraction = divmod(wall_ns, SECOND)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:09}Z"


def ago(utc: str, now_ns: int) -> str:
    """How long ago a time from the API was ("5 minutes ago"), in its largest unit."""
    moment = _seconds_of(utc)
    if moment is None:
        return utc
    seconds = max(now_ns // SECOND - moment, 0)
    for size, unit in ((365 * 86400, "year"), (7 * 86400, "week"), (86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size or (seconds >= size and size < 7 * 86400):
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return f"{seconds} second{'s' if seconds != 1 else ''} ago"


def local(utc: str) -> str:
    """A time from the API ("2026-01-31T10:00:00.123456789Z") in the user's zone, to the second.

    A text that is no such time is returned as it is. No ``re`` here: ``engine ps`` does without.
    """
    seconds = _seconds_of(utc)
    try:
        return utc if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return utc


def _seconds_of(utc: str) -> int | None:
    """Since the epoch; None for a text that is no such time."""
    try:
        if len(utc) < 20 or utc[10] != "T" or not utc.endswith("Z"):
            return None
        days = _days_since_epoch(int(utc[:4]), int(utc[5:7]), int(utc[8:10]))
        return days * 86400 + int(utc[11:13]) * 3600 + int(utc[14:16]) * 60 + int(utc[17:19])
    except ValueError:
        return None
