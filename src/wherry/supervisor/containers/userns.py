"""``--userns``: what may be asked for, and the ids that it comes to. Which range a container gets is decided when it is
started: ``supervisor.id_ranges``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from wherry.errors import InvalidRequest, quoted
from wherry.kernel import id_maps
from wherry.kernel.id_maps import Extent, IdMap

HOST = "host"
AUTO = "auto"
KEEP_ID = "keep-id"
RANGE_SIZE = 65536
"""How many ids a container has that does not say which: all that Debian's policy knows, with nobody's (65534)."""
_FIXED = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):([0-9]{1,10})")
_NUMBERS = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")


class IdRange(NamedTuple):
    """RANGE_SIZE users from ``uid`` and as many groups from ``gid`` on, of the host."""

    uid: int
    gid: int


def check(userns: str, user: str, network: str) -> None:
    """Raises InvalidRequest."""
    if userns == HOST:
        return
    if network == "host":
        raise InvalidRequest(
            "a container with a user namespace cannot share the host's network, which belongs to the host's: "
            "give --userns host"
        )
    if userns == KEEP_ID:
        kept_ids(user)
    elif userns != AUTO:
        fixed_map(userns)


def fixed_map(text: str) -> IdMap:
    """``UID:GID:SIZE``: root inside is UID and GID of the host, there are SIZE ids of each. Raises InvalidRequest."""
    match = _FIXED.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"invalid user namespace: {quoted(text)} is not host, auto, keep-id or UID:GID:SIZE")
    uid, gid, size = (int(part) for part in match.groups())
    id_map = IdMap((Extent(0, uid, size),), (Extent(0, gid, size),))
    for extents in id_map:
        if fault := id_maps.fault_of(extents):
            raise InvalidRequest(f"invalid user namespace: {fault}")
        if extents[0].outside == 0:
            raise InvalidRequest(f"invalid user namespace: {quoted(text)}: root inside would be the host's root")
    return id_map


def auto_map(chosen: IdRange) -> IdMap:
    return IdMap((Extent(0, chosen.uid, RANGE_SIZE),), (Extent(0, chosen.gid, RANGE_SIZE),))


def kept_ids(user: str) -> tuple[int, int]:
    """Whom ``--user`` names, by numbers: names are the root file system's, and it is not mounted before there are ids.
    Raises InvalidRequest.
    """
    match = _NUMBERS.fullmatch(user)
    if match is None:
        raise InvalidRequest(
            f"--userns keep-id keeps the ids of the container's user, as numbers: --user UID:GID, not {quoted(user)}"
        )
    uid, gid = int(match[1]), int(match[2])
    if uid == 0 or gid == 0:
        raise InvalidRequest("--userns keep-id: user and group 0 would be the host's root")
    if max(uid, gid) > id_maps.ID_MAX:
        raise InvalidRequest(f"--userns keep-id: the largest id is {id_maps.ID_MAX}")
    return uid, gid


def named_ids(userns: str, user: str) -> IdMap | None:
    """The ids of the host that are asked for by number; None where any will do. Raises InvalidRequest."""
    if userns == AUTO:
        return None
    if userns != KEEP_ID:
        return fixed_map(userns)
    uid, gid = kept_ids(user)
    return IdMap((Extent(uid, uid, 1),), (Extent(gid, gid, 1),))


def range_of(id_map: IdMap) -> IdMap:
    """What ``auto_map`` and ``keeping_map`` took of the range that was chosen."""
    return IdMap(*(tuple(each for each in part if each.inside != each.outside) for part in id_map))


def keeping_map(chosen: IdRange, uid: int, gid: int) -> IdMap:
    """As ``auto_map``, but for one user and one group, who are the same inside and outside."""
    return IdMap(_keeping(chosen.uid, uid), _keeping(chosen.gid, gid))


def _keeping(start: int, kept: int) -> tuple[Extent, ...]:
    if kept >= RANGE_SIZE:
        return (Extent(0, start, RANGE_SIZE), Extent(kept, kept, 1))
    parts = (Extent(0, start, kept), Extent(kept, kept, 1), Extent(kept + 1, start + kept + 1, RANGE_SIZE - kept - 1))
    return tuple(part for part in parts if part.size)
