"""JSON by the C half of the standard library's ``json``.

The Python half imports ``re`` and through it ``enum`` and ``functools``: 7 ms, half of what ``engine ps`` takes in all.
"""

from __future__ import annotations

from _json import encode_basestring, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Never

_BLANK = " \t\n\r"


class _Context:
    """What ``make_scanner`` reads from a ``json.JSONDecoder``."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> Never:
        raise ValueError(f"{name} is not JSON")


_scan = make_scanner(_Context)  # type: ignore[arg-type]


def decode(data: bytes) -> Any:
    """The value of one JSON text in UTF-8. Raises ValueError, RecursionError for one that is nested too deeply."""
    text = data.decode().strip(_BLANK)
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError(f"not JSON: {text[:40]!r}") from None
    if end != len(text):
        raise ValueError(f"more than one JSON value: {text[end : end + 40]!r}")
    return value


def encode(value: object) -> str:
    """JSON of None, booleans, whole numbers, strings, and lists and string-keyed dicts of them. Raises TypeError."""
    if isinstance(value, str):
        return encode_basestring(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, list):
        return f"[{','.join(map(encode, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{encode_basestring(key)}:{encode(each)}" for key, each in value.items()) + "}"
    raise TypeError(f"{value!r} is a {type(value).__name__}")
