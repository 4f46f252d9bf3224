"""What unpacking one archive may use: blocks and entries on the disk, bytes of tar data, and free space that must stay.

What is counted is what was ever made, also if a later member replaces it, so that the time is bounded as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from wherry.storage.tar.archive import ArchiveError, Stream

_BLOCK = 4096  # what one entry or a started block takes on most file systems
_CHECK_BYTES = 8 << 20
_CHECK_ENTRIES = 256
_NAME_OVERHEAD = 16  # of a directory entry, beside the name
_GREATEST_RESERVE = 1 << 30
_RESERVED_PART = 20  # 5 %
_RESERVED_INODES = 10_000


class NoSpaceError(Exception):
    """The file system has too little free space; ``str()`` says how much, and how much is kept free."""


class ArchiveLimits(NamedTuple):
    """Of the store, in bytes; 0 is no limit, but of ``cache`` none.

    ``unpacked`` is the most that one archive may take, ``entries`` how many files, directories and links it may have;
    ``cache`` the most that archives which no container uses may take together; ``reserve`` what must stay free on the
    file system, None for 5 % of it but at most 1 GiB.
    """

    unpacked: int = 32 << 30
    entries: int = 4 << 20
    cache: int = 8 << 30
    reserve: int | None = None


def shown(size: int) -> str:
    """A number of bytes for a person, such as 1.5 GiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


class Space(NamedTuple):
    """Of a file system: bytes and inodes that are free for others than root, and that are to stay free."""

    free: int
    reserve: int
    free_inodes: int
    reserve_inodes: int

    @property
    def lacking(self) -> bool:
        return self.free < self.reserve or self.free_inodes < self.reserve_inodes


def space(status: os.statvfs_result, limits: ArchiveLimits) -> Space:
    """What ``os.statvfs`` found, beside what ``limits`` reserve."""
    size = status.f_blocks * status.f_frsize
    reserve = min(size // _RESERVED_PART, _GREATEST_RESERVE) if limits.reserve is None else limits.reserve
    # btrfs makes inodes as they are needed and says 0 of 0.
    reserve_inodes = min(status.f_files // _RESERVED_PART, _RESERVED_INODES) if reserve else 0
    return Space(status.f_bavail * status.f_frsize, reserve, status.f_favail, reserve_inodes)


class ArchiveBudget:
    """Of one unpacking into the directory that ``root`` is open on. All methods raise ArchiveError over a limit.

    ``make_room()`` frees some space on its file system and says whether it could.
    """

    def __init__(self, root: int, limits: ArchiveLimits, make_room: Callable[[], bool]) -> None:
        self._root = root
        self._limits = limits
        self._make_room = make_room
        self._bytes = 0
        self._entries = 0
        self._names = 0
        self._tar_bytes = 0
        self._next_block = 0  # of the file that is being written: what is before it is counted
        self._checked = (0, 0)

    def entry(self, name_size: int) -> None:
        """One more file, directory, link or other thing; its name, link and attributes have so many bytes.

        Raises NoSpaceError.
        """
        self._entries += 1
        self._next_block = 0
        self._names += name_size + _NAME_OVERHEAD
        if 0 < self._limits.entries < self._entries:
            raise ArchiveError(f"it has more than {self._limits.entries} files, directories and links")
        self._check()

    def data(self, offset: int, size: int) -> None:
        """So many bytes, not a hole, are to be written at an offset of the file that ``entry`` told of last.

        Offsets go up. A directory is as one byte of a file. Raises NoSpaceError.
        """
        first, behind = max(offset // _BLOCK, self._next_block), -(-(offset + size) // _BLOCK)
        if behind > first:
            self._bytes += (behind - first) * _BLOCK
            self._next_block = behind
            self._check()

    def metered(self, stream: Stream) -> Stream:
        """The same tar data, but not for ever: a few bytes of zstd can be terabytes that make no file."""
        return _Metered(stream, self._pay_tar_bytes)

    def _pay_tar_bytes(self, size: int) -> None:
        self._tar_bytes += size
        limits = self._limits
        if limits.unpacked and limits.entries and self._tar_bytes > limits.unpacked + limits.entries * _BLOCK:
            raise ArchiveError(f"its tar data is longer than {shown(self._tar_bytes - size)}")

    def _check(self) -> None:
        used = self._bytes + self._names
        if 0 < self._limits.unpacked < used:
            raise ArchiveError(
                f"unpacked it takes more than {shown(self._limits.unpacked)}, the limit of the supervisor "
                "(--rootfs-limit)"
            )
        if used - self._checked[0] >= _CHECK_BYTES or self._entries - self._checked[1] >= _CHECK_ENTRIES:
            self._checked = (used, self._entries)
            self.check_space()

    def check_space(self) -> None:
        """Raises NoSpaceError when less is free than must stay so, even after making room."""
        while (found := space(os.fstatvfs(self._root), self._limits)).lacking:
            if self._make_room():
                continue
            if found.free < found.reserve:
                raise NoSpaceError(
                    f"only {shown(found.free)} are free on the file system of the state directory, and "
                    f'{shown(found.reserve)} are to stay free (--disk-reserve); "engine prune" may free some'
                )
            raise NoSpaceError(
                f"only {found.free_inodes} inodes are free on the file system of the state directory, and "
                f'{found.reserve_inodes} are to stay free; "engine prune" may free some'
            )


class _Metered:
    def __init__(self, stream: Stream, pay: Callable[[int], None]) -> None:
        self._stream = stream
        self._pay = pay

    def read(self, size: int) -> memoryview:
        piece = self._stream.read(size)
        self._pay(len(piece))
        return piece
