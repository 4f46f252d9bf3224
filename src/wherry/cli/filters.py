"""--filter KEY=VALUE, given any number of times."""

from __future__ import annotations

from wherry.cli.parser import BadValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def pair(text: str) -> tuple[str, str]:
    """The type of the option. Raises BadValue."""
    key, _, value = text.partition("=")
    if not key or not value:
        raise BadValue(f"{text!r} is not KEY=VALUE")
    return key, value


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Values by key, in their order."""
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found
