"""The filters of ``docker ps``: values of one key are alternatives, keys (and the values of "label") must all match."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from wherry.api.docker.rootfs_images import is_named
from wherry.api.docker.views import status_code
from wherry.errors import InvalidRequest, NotSupported, quoted
from wherry.supervisor.containers.record import Record

Match = Callable[[Record], bool]
_DOCKER_STATES = frozenset({"created", "restarting", "running", "removing", "paused", "exited", "dead"})
_LITERAL = re.compile(r"\^?/?[a-zA-Z0-9_-]*\$?")
_RISKY = re.compile(r"\)\s*[*+?{]|\\[1-9]|\(\?")
_FLAGS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_MAX_PATTERN = 256
_MAX_QUANTIFIERS = 3
_MAX_PATTERNS = 4
"""Patterns of one filter that are no plain text: each may take milliseconds for one name."""


class Filters:
    """What a list request asks for.

    ``every_state`` tells whether containers that do not run are wanted (docker: a filter by status or exit code says
    so). ``find`` turns a name or id into a record, and raises NotFound.
    """

    def __init__(self, text: str, find: Callable[[str], Record]) -> None:
        self._find = find
        self._tests: list[Match] = []
        self.every_state = False
        for key, values in decode_filters(text).items():
            maker = _MAKERS.get(key)
            if maker is None:
                raise _unknown(key)
            self.every_state = self.every_state or key in ("status", "exited")
            if values:
                self._tests.append(maker(values, self._find))

    def match(self, record: Record) -> bool:
        return all(test(record) for test in self._tests)


def _unknown(key: str) -> InvalidRequest:
    if key in ("expose", "health", "is-task", "isolation", "publish"):
        return NotSupported(f"filter {quoted(key)} is not supported")
    return InvalidRequest(f"invalid filter {quoted(key)}")


def decode_filters(text: str) -> dict[str, list[str]]:
    """Both shapes: {"key": {"value": true}} (docker) and {"key": ["value"]} (docker-py)."""
    if not text:
        return {}
    try:
        raw: Any = msgspec.json.decode(text)
        decoded = msgspec.convert(raw, dict[str, dict[str, bool] | list[str]])
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeError) as error:
        raise InvalidRequest(f"invalid filters: {error}") from None
    return {
        key: values if isinstance(values, list) else [value for value, wanted in values.items() if wanted]
        for key, values in decoded.items()
    }


def known_filters(text: str, *names: str) -> dict[str, list[str]]:
    """As ``decode_filters``, with no others than these."""
    filters = decode_filters(text)
    for key in filters:
        if key not in names:
            raise InvalidRequest(f"invalid filter {quoted(key)}")
    return filters


def wanted_flag(filters: dict[str, list[str]], name: str) -> bool | None:
    """What a filter says that is true or false; None without it.

    Raises:
        InvalidRequest: it says neither, or both.
    """
    values = filters.get(name)
    if not values:
        return None
    found = {_FLAGS.get(value.lower()) for value in values}
    if len(found) > 1 or None in found:
        raise InvalidRequest(f"invalid filter '{name}={quoted(values[0])}': neither true nor false")
    return found == {True}


def _by_name(values: list[str], _find: Callable[[str], Record]) -> Match:
    patterns = sum(_LITERAL.fullmatch(value) is None for value in values)
    if patterns > _MAX_PATTERNS:
        raise InvalidRequest(f"invalid filter 'name': {patterns} patterns, and the most is {_MAX_PATTERNS}")
    tests = [_name_test(value) for value in values]
    return lambda record: any(test(record.name) for test in tests)


def _name_test(pattern: str) -> Callable[[str], bool]:
    """Docker searches the pattern in the name with and without its leading slash."""
    if _LITERAL.fullmatch(pattern):
        return _literal_test(pattern)
    # re backtracks: a pattern like (a+)+$ would stop the supervisor for everybody
    if len(pattern) > _MAX_PATTERN or _RISKY.search(pattern) or len(re.findall(r"[*+?{]", pattern)) > _MAX_QUANTIFIERS:
        raise InvalidRequest(f"invalid filter 'name={quoted(pattern)}': the pattern is too complex")
    try:
        search = re.compile(pattern).search
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"invalid filter 'name={quoted(pattern)}': {error}") from None
    return lambda name: bool(search(name) or search("/" + name))


def _literal_test(pattern: str) -> Callable[[str], bool]:
    start, end = pattern.startswith("^"), pattern.endswith("$")
    text = pattern.removeprefix("^").removesuffix("$")
    if start and end:
        return lambda name: text.removeprefix("/") == name
    if start:
        return lambda name: name.startswith(text) or ("/" + name).startswith(text)
    if end:
        return lambda name: ("/" + name).endswith(text)
    return lambda name: text in "/" + name


def _by_id(values: list[str], _find: Callable[[str], Record]) -> Match:
    prefixes = tuple(values)
    return lambda record: record.id.startswith(prefixes)


def _by_status(values: list[str], _find: Callable[[str], Record]) -> Match:
    unknown = [value for value in values if value not in _DOCKER_STATES]
    if unknown:
        raise InvalidRequest(f"invalid filter 'status={quoted(unknown[0])}'")
    return lambda record: record.state in values


def _by_exited(values: list[str], _find: Callable[[str], Record]) -> Match:
    if not all(re.fullmatch(r"-?[0-9]{1,9}", value) for value in values):
        raise InvalidRequest(f"invalid filter 'exited={quoted(values[0])}'")
    codes = {int(value) for value in values}
    return lambda record: record.has_ended and status_code(record) in codes


def _by_label(values: list[str], _find: Callable[[str], Record]) -> Match:
    return label_test(values)


def label_test(values: list[str]) -> Match:
    """Whether a record has all these labels, each "KEY" or "KEY=VALUE"."""
    wanted = [value.partition("=") for value in values]

    def match(record: Record) -> bool:
        labels = record.request.labels
        return all(key in labels and (not equals or labels[key] == value) for key, equals, value in wanted)

    return match


def _by_ancestor(values: list[str], _find: Callable[[str], Record]) -> Match:
    return lambda record: any(is_named(record.request.rootfs, value) for value in values)


def _by_volume(values: list[str], _find: Callable[[str], Record]) -> Match:
    wanted = set(values)
    return lambda record: any(wanted & {volume.source, volume.destination} for volume in record.request.volumes)


def _by_network(values: list[str], _find: Callable[[str], Record]) -> Match:
    return lambda record: record.request.network in values


def _before(values: list[str], find: Callable[[str], Record]) -> Match:
    latest = min(find(value).created_ns for value in values)
    return lambda record: record.created_ns < latest


def _since(values: list[str], find: Callable[[str], Record]) -> Match:
    earliest = max(find(value).created_ns for value in values)
    return lambda record: record.created_ns > earliest


_MAKERS: dict[str, Callable[[list[str], Callable[[str], Record]], Match]] = {
    "ancestor": _by_ancestor,
    "before": _before,
    "exited": _by_exited,
    "id": _by_id,
    "label": _by_label,
    "name": _by_name,
    "network": _by_network,
    "since": _since,
    "status": _by_status,
    "volume": _by_volume,
}
