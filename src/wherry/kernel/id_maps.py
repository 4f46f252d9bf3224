"""Which ids of the host stand behind the ids of a user namespace: user_namespaces(7), mount_setattr(2)."""

from __future__ import annotations

import errno
import itertools
import os
import select
from collections.abc import Iterable
from typing import NamedTuple

from wherry.kernel import libc

_MOUNT_ATTR_IDMAP = 0x00100000  # include/uapi/linux/mount.h
EXTENTS_MAX = 340
"""Lines that the kernel takes (UID_GID_MAP_MAX_EXTENTS)."""
ID_MAX = 2**32 - 2
"""2**32 - 1 is no id: it means "leave it as it is" to chown(2)."""


class Extent(NamedTuple):
    """``size`` ids from ``inside`` on are those from ``outside`` on."""

    inside: int
    outside: int
    size: int


class IdMap(NamedTuple):
    """As in /proc/PID/uid_map and gid_map. Ids that no extent has are nobody's inside."""

    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]

    @classmethod
    def of(cls, uids: Iterable[Iterable[int]], gids: Iterable[Iterable[int]]) -> IdMap:
        """From lists of three numbers."""
        return cls(tuple(Extent(*each) for each in uids), tuple(Extent(*each) for each in gids))


def outside(extents: tuple[Extent, ...], number: int) -> int | None:
    """What an id inside is on the host, None for one that is not mapped."""
    for each in extents:
        if each.inside <= number < each.inside + each.size:
            return each.outside + number - each.inside
    return None


def widest(extents: tuple[Extent, ...]) -> tuple[int, int]:
    """The ids inside from and to which a range has everybody: the kernel keeps it as one of the host's ids, so those
    that are the lowest and the highest there. It refuses one whose first id is above the last; where these two are so,
    it is the extent with the highest ids.
    """
    lowest = min(extents, key=lambda each: each.outside)
    highest = max(extents, key=lambda each: each.outside)
    if lowest.inside > highest.inside:
        lowest = highest = max(extents)
    return lowest.inside, highest.inside + highest.size - 1


def described(extents: tuple[Extent, ...]) -> str:
    """The ids that there are inside: ``0-65535``."""
    return ",".join(f"{each.inside}-{each.inside + each.size - 1}" for each in extents)


def overlaps(one: tuple[Extent, ...], other: tuple[Extent, ...]) -> bool:
    """Whether some id of the host is in both."""
    return any(
        each.outside < another.outside + another.size and another.outside < each.outside + each.size
        for each in one
        for another in other
    )


def fault_of(extents: tuple[Extent, ...]) -> str:
    """What the kernel would refuse of these lines without saying why; "" for nothing."""
    if not 0 < len(extents) <= EXTENTS_MAX:
        return f"{len(extents)} lines: there must be 1 to {EXTENTS_MAX}"
    for each in extents:
        if each.size < 1 or min(each.inside, each.outside) < 0:
            return f"{each.inside}:{each.outside}:{each.size}: a size is 1 or more, and no id is negative"
        if max(each.inside, each.outside) + each.size - 1 > ID_MAX:
            return f"{each.inside}:{each.outside}:{each.size}: the largest id is {ID_MAX}"
    for start in (0, 1):
        ordered = sorted(extents, key=lambda each: each[start])
        for each, after in itertools.pairwise(ordered):
            if each[start] + each.size > after[start]:
                return f"id {after[start]} stands in two lines"
    return ""


def write(pid: int, id_map: IdMap) -> None:
    """Give the user namespace of a process its ids, which can be done once. Raises OSError naming the file."""
    for name, extents in (("uid_map", id_map.uids), ("gid_map", id_map.gids)):
        path = f"/proc/{pid}/{name}"
        text = "".join(f"{each.inside} {each.outside} {each.size}\n" for each in extents)
        # In one write(2): the kernel takes no second one.
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        except OSError as error:
            raise libc.call_error(error.errno or 0, "write", path) from None
        finally:
            os.close(descriptor)


def namespace_of(pid: int, pidfd: int) -> int:
    """A descriptor of the user namespace of a process that somebody else may be about to reap.

    Raises ProcessLookupError when it has ended.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    if ended.poll(0):  # the number may have been another's by then
        os.close(descriptor)
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return descriptor


def map_mount(tree: int, namespace: int, recursive: bool = False) -> None:
    """Show the files of a detached mount with the ids that they have inside a user namespace as those on disk, and
    store what is made there likewise: mount_setattr(2), "ID-mapped mounts".

    Raises OSError: EINVAL where the file system cannot do it, EPERM when the mount has been mapped already.
    """
    libc.mount_setattr(tree, b"", libc.at_flags(recursive), _MOUNT_ATTR_IDMAP, 0, 0, namespace)
