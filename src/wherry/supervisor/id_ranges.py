"""Which ids of the host the containers of a supervisor have: ranges that no two of them share.

What is in use stands in the records, so that a supervisor that is killed loses nothing, and one that takes over gives
nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from wherry.errors import Conflict, InvalidRequest, NotSupported
from wherry.kernel.id_maps import ID_MAX, IdMap, overlaps
from wherry.supervisor.containers import userns
from wherry.supervisor.containers.record import Record
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.containers.userns import RANGE_SIZE, IdRange

_USERS = ("wherry", "containers")
"""Whose ids in /etc/subuid and /etc/subgid are taken: ours, else those that podman takes."""


_RANGED = (userns.AUTO, userns.KEEP_ID)
"""What gives a container a range that is its alone."""


class Userns(NamedTuple):
    """Of a supervisor: what containers get that ask for nothing, as ``CreateRequest.userns``; and the ids to take in
    place of those of /etc, "UID:GID:SIZE", "" for none.
    """

    default: str = userns.HOST
    range: str = ""


class IdRanges:
    """``configured`` is as ``Userns.range``; ``records`` gives those of all containers."""

    def __init__(
        self, configured: str, records: Callable[[], Iterable[Record]], directory: Path = Path("/etc")
    ) -> None:
        self._configured = userns.fixed_map(configured) if configured else None
        if self._configured is not None and self._configured.uids[0].size < RANGE_SIZE:
            raise InvalidRequest(f"range of ids {configured!r}: a container takes {RANGE_SIZE} of them")
        self._records = records
        self._directory = directory
        self._reserved: list[IdRange] = []

    def choose(self, request: CreateRequest) -> IdMap | None:
        """For a start of now; None for the host's own. Raises Conflict: all are in use, or ids that were named are
        somebody's alone; NotSupported: there are none.
        """
        if request.userns == userns.HOST:
            return None
        named = userns.named_ids(request.userns, request.user)
        if named is not None:
            self._check_nobodys(named, request)
            self._reserved = [each for each in self._reserved if not _overlap(named, userns.auto_map(each))]
        if request.userns not in _RANGED:
            return named
        return _shaped(request, self._reserved.pop(0) if self._reserved else self._next(named))

    def _check_nobodys(self, named: IdMap, request: CreateRequest) -> None:
        """Two that keep the ids of one user may share those, not what is anybody's alone."""
        for record in self._records():
            if record.id_map is None or record.request.userns not in _RANGED:
                continue
            theirs = userns.range_of(record.id_map) if request.userns == userns.KEEP_ID else record.id_map
            if _overlap(named, theirs):
                asked = f"{request.userns} {request.user}" if request.userns == userns.KEEP_ID else request.userns
                raise Conflict(f"ids of --userns {asked} are those of container {record.name}")

    def reserve(self, request: CreateRequest, count: int) -> list[IdMap | None]:
        """What containers like this one will have that are started next, as far as there are ranges."""
        named = None if request.userns == userns.HOST else userns.named_ids(request.userns, request.user)
        if request.userns not in _RANGED:
            self._reserved = []
            return [named] * count
        if named is not None:
            self._reserved = [each for each in self._reserved if not _overlap(named, userns.auto_map(each))]
        missing = count - len(self._reserved)
        if missing > 0:
            self._reserved += islice(self._free(named), missing)
        return [_shaped(request, each) for each in self._reserved[:count]]

    def _next(self, named: IdMap | None) -> IdRange:
        for found in self._free(named):
            return found
        if not any(self._all()):
            raise NotSupported(
                f"no ids for --userns auto: neither --userns-range nor a line of {' or '.join(_USERS)} with "
                f"{RANGE_SIZE} of them in both /etc/subuid and /etc/subgid"
            )
        raise Conflict(f"no ids left for --userns auto: all {sum(1 for _ in self._all())} ranges are in use")

    def _free(self, named: IdMap | None) -> Iterator[IdRange]:
        """Ranges that nobody has, and that have none of the ids that were named."""
        taken = [] if named is None else [named]
        taken += [record.id_map for record in self._records() if record.id_map is not None]
        taken += [userns.auto_map(each) for each in self._reserved]
        # Most are whole ranges: comparing each with all would take a thousand containers' square.
        whole = {IdRange(id_map.uids[0].outside, id_map.gids[0].outside) for id_map in taken}
        for each in self._all():
            if each in whole:
                continue
            id_map = userns.auto_map(each)
            if not any(_overlap(id_map, other) for other in taken):
                yield each

    def _all(self) -> Iterator[IdRange]:
        if self._configured is not None:
            (uids,), (gids,) = self._configured
            yield from map(IdRange, _starts(uids.outside, uids.size), _starts(gids.outside, gids.size))
            return
        for user in _USERS:
            uids_of, gids_of = (subordinate(self._directory / name, user) for name in ("subuid", "subgid"))
            if uids_of and gids_of:
                starts = ([start for line in lines for start in _starts(*line)] for lines in (uids_of, gids_of))
                yield from (IdRange(*pair) for pair in zip(*starts, strict=False))
                return


def _shaped(request: CreateRequest, chosen: IdRange) -> IdMap:
    if request.userns == userns.KEEP_ID:
        return userns.keeping_map(chosen, *userns.kept_ids(request.user))
    return userns.auto_map(chosen)


def _overlap(one: IdMap, other: IdMap) -> bool:
    return overlaps(one.uids, other.uids) or overlaps(one.gids, other.gids)


def _starts(first: int, size: int) -> range:
    return range(first, first + size - RANGE_SIZE + 1, RANGE_SIZE)


def subordinate(path: Path, user: str) -> list[tuple[int, int]]:
    """(first, number) of each line of a user in a file as of subuid(5); lines of another form are nobody's."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        name, _, rest = line.strip().partition(":")
        first, _, number = rest.partition(":")
        if name == user and _is_number(first) and _is_number(number) and 0 < int(first) <= ID_MAX - int(number) + 1:
            found.append((int(first), int(number)))
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10
