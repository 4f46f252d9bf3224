"""Docker's ulimits and OOM score adjustment: what may be asked for."""

from __future__ import annotations

import resource
from collections.abc import Iterable

import msgspec

from wherry.errors import InvalidRequest, quoted

UNLIMITED = -1
_MOST = 2**63 - 1
# Docker's names (docker/go-units, ulimit.go), without "locks", which Linux has not had since 2.4.25.
NAMES = frozenset("core cpu data fsize memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split())


class Ulimit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of setrlimit(2), by docker's name ("nofile"); -1 is none."""

    name: str
    soft: int
    hard: int

    @property
    def type(self) -> str:
        return f"RLIMIT_{self.name.upper()}"


def check(ulimits: Iterable[Ulimit], oom_score_adj: int) -> None:
    """Raises InvalidRequest."""
    seen = set()
    for limit in ulimits:
        if limit.name not in NAMES or not hasattr(resource, limit.type):
            raise InvalidRequest(f"invalid ulimit: {quoted(limit.name)} is not one of {', '.join(sorted(NAMES))}")
        if limit.name in seen:
            raise InvalidRequest(f"invalid ulimit: {limit.name} is given twice")
        seen.add(limit.name)
        for value in (limit.soft, limit.hard):
            if not UNLIMITED <= value <= _MOST:
                raise InvalidRequest(f"invalid ulimit: {limit.name}: {value} is not between -1 (no limit) and {_MOST}")
        if _size(limit.soft) > _size(limit.hard):
            raise InvalidRequest(f"invalid ulimit: {limit.name}: soft {limit.soft} is above hard {limit.hard}")
    if not -1000 <= oom_score_adj <= 1000:
        raise InvalidRequest(f"invalid OOM score adjustment: {oom_score_adj} is not between -1000 and 1000")


def _size(value: int) -> int:
    return _MOST if value == UNLIMITED else value
