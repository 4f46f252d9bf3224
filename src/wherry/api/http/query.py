"""The query string of a request, read strictly: twice the same parameter, or a number that is none, is an error."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from wherry.errors import InvalidRequest, NotSupported, quoted

_MAX_FIELDS = 64
_REPEATED = frozenset({"type"})
"""Parameters that may be given more than once."""
_FALSE = frozenset({"", "0", "no", "false", "none"})
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_SECONDS = re.compile(r"-?[0-9]{1,10}(\.[0-9]{1,9})?")


class Query:
    """Parameters by name; the accessors raise InvalidRequest naming the parameter."""

    __slots__ = ("_more", "_values")

    def __init__(self, text: str) -> None:
        self._values: dict[str, str] = {}
        self._more: list[tuple[str, str]] = []
        for name, value in _split(text) if text else ():
            if name in self._values and name not in _REPEATED:
                raise InvalidRequest(f"query parameter {quoted(name)} is given more than once")
            if "\0" in value:
                raise InvalidRequest(f"query parameter {quoted(name)} contains a NUL byte")
            if name in self._values:
                self._more.append((name, value))
            else:
                self._values[name] = value

    def only(self, *names: str) -> Query:
        """This query, if it asks for nothing but ``names``: what would change behaviour is refused, not ignored."""
        for name, value in self._values.items():
            if name not in names and value.strip().lower() not in _FALSE:
                raise NotSupported(f"query parameter {quoted(name)} is not supported")
        return self

    def text(self, name: str, default: str = "") -> str:
        return self._values.get(name, default)

    def several(self, name: str) -> list[str]:
        """All values of a parameter that may be given more than once."""
        first = self._values.get(name)
        return ([first] if first else []) + [value for other, value in self._more if other == name and value]

    def flag(self, name: str) -> bool:
        """Docker's booleans: everything but "", 0, no, false and none is true."""
        return self._values.get(name, "").strip().lower() not in _FALSE

    def integer(self, name: str) -> int | None:
        value = self._values.get(name, "")
        if not value:
            return None
        if not _INTEGER.fullmatch(value):
            raise InvalidRequest(f"query parameter {quoted(name)}: {quoted(value)} is not a whole number")
        return int(value)

    def seconds(self, name: str) -> float | None:
        value = self._values.get(name, "")
        return float(self._seconds(name, value)) if value else None

    def nanoseconds(self, name: str) -> int | None:
        """A UNIX time "SECONDS[.NANOSECONDS]", exact to the nanosecond; 0 and nothing mean None."""
        value = self._seconds(name, self._values.get(name, "") or "0")
        seconds, _, fraction = value.lstrip("-").partition(".")
        total = int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0"))
        return (-total if value.startswith("-") else total) or None

    def _seconds(self, name: str, value: str) -> str:
        if not _SECONDS.fullmatch(value):
            raise InvalidRequest(f"query parameter {quoted(name)}: {quoted(value)} is not a number of seconds")
        return value


def _split(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except UnicodeDecodeError:
        raise InvalidRequest("the query string is not valid UTF-8") from None
    except ValueError:
        raise InvalidRequest(f"the query string has more than {_MAX_FIELDS} parameters") from None
