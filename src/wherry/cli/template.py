"""The part of Go's templates that people give to ``docker ps --format``: ``{{.Name}}`` and ``{{json .Name}}``."""

from __future__ import annotations

import json
import re

from wherry.cli import terminal
from wherry.cli.parser import BadValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any, Protocol, TypeVar

    class Shown(Protocol):
        """What a template shows: a container, an event."""

        def as_dict(self) -> dict[str, Any]: ...

    T = TypeVar("T", bound=Shown)
    Fields = Mapping[str, Callable[[T], str]]

_TABLE = "table "
_INSIDE = re.compile(r"(json\s+)?\.(\w*)", re.ASCII)


class Field:
    """One action of a template; an empty ``field`` is the whole thing."""

    __slots__ = ("as_json", "field")

    def __init__(self, field: str, as_json: bool) -> None:
        self.field = field
        self.as_json = as_json


Part = str | Field


def parse(text: str, fields: Collection[str]) -> list[Part]:
    """The literal and the variable parts of a template, without a "table " before it.

    Raises BadValue: an unknown field, an action we do not have, a brace that is not closed.
    """
    text = text.removeprefix(_TABLE)
    parts: list[Part] = []
    position = 0
    while (begin := text.find("{{", position)) >= 0 and (end := text.find("}}", begin + 2)) >= 0:
        parts += _literal(text[position:begin])
        parts.append(_field(text[begin + 2 : end].strip(), fields))
        position = end + 2
    return parts + _literal(text[position:])


def _literal(text: str) -> list[Part]:
    for brace in ("{{", "}}"):
        if brace in text:
            raise BadValue(f"{brace!r} has no counterpart in {text!r}")
    return [text.replace("\\t", "\t").replace("\\n", "\n")] if text else []


def _field(inside: str, fields: Collection[str]) -> Field:
    match = _INSIDE.fullmatch(inside)
    if not match:
        raise BadValue(f"'{{{{{inside}}}}}' is neither {{{{.Field}}}} nor {{{{json .Field}}}}")
    if not match[2] and not match[1]:
        raise BadValue("'{{.}}' is the whole of it: use {{json .}}")
    if match[2] and match[2] not in fields:
        raise BadValue(f"no field .{match[2]}; there are {', '.join(f'.{name}' for name in fields)}")
    return Field(match[2], as_json=bool(match[1]))


def render(text: str, shown: Sequence[T], fields: Fields[T], headers: Mapping[str, str]) -> str:
    """One line for each of ``shown``, safe for a terminal.

    With "table " before the template there is a header, and tab-separated cells stand in columns, as docker's do.
    """
    parts = parse(text, fields)
    lines = ["".join(part if isinstance(part, str) else _value(part, each, fields) for part in parts) for each in shown]
    if not text.startswith(_TABLE):
        return "".join(f"{line}\n" for line in lines)
    header = "".join(part if isinstance(part, str) else headers.get(part.field, part.field.upper()) for part in parts)
    rows = [line.split("\t") for line in (header, *lines)]
    most = max(map(len, rows))
    return terminal.table([row + [""] * (most - len(row)) for row in rows])


def _value(part: Field, shown: T, fields: Fields[T]) -> str:
    if not part.field:
        return safe_json(shown.as_dict())
    text = fields[part.field](shown)
    return safe_json(text) if part.as_json else terminal.escaped(text)


def safe_json(value: object, indent: int | None = None) -> str:
    """JSON in printable ASCII: of the control characters json leaves only DEL as it is."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")
