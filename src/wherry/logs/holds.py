"""Readers that are owed every byte of a log, and for whom it therefore keeps files beyond its limit.

Who watches a container's output (run, attach) sees it through the log's files. Rotation would delete what such a reader
has not come to. So it has a hold: files from its position on stay. That is bounded, by files_beyond(); then the log is
*held back*: the consumer writes no further, the buffer and the pipes fill, and the container waits in write(2), as it
would for the reader of a shell's pipe. In non-blocking mode, where a container never waits, the oldest held file goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wherry.logs.options import MIB, LogOptions
from wherry.logs.segments import Rotated

HELD_BYTES = 64 * MIB
"""How much rotated files may take beyond the log's limit for readers that have not come to them.

As much as a file has if nothing else is asked for: enough for a reader that pauses now and then (rotation at 1 MiB lets
a container write 1 MiB in a millisecond), and far less than a disk that a container might fill through a reader that
never reads.
"""
HELD_FILES = 64
"""The same as a number of files: a reader has two descriptors for each that is ahead of it."""
ENDING_BYTES = 32 * MIB
"""By how much a file may outgrow its size when its container has ended: more than buffer and pipes can hold."""


class HeldBack(Exception):
    """A reader has to get on before the log can be written any further."""


def files_beyond(options: LogOptions) -> int:
    """How many files beyond its limit a log keeps for such readers: at least one, or each rotation would wait."""
    return max(1, min(HELD_FILES, HELD_BYTES // options.max_bytes)) if options.max_bytes else 0


class Hold:
    """One reader's: nothing from ``position`` on is deleted. release() it, or the container may wait for ever."""

    def __init__(self, position: int, change: Callable[[Hold, int | None], None]) -> None:
        self.position = position
        self._change = change

    def move_to(self, position: int) -> None:
        """The reader has, or has open, all before ``position``. Of no effect once released."""
        if position != self.position:
            self._change(self, position)

    def release(self) -> None:
        """The reader has gone. May be called again."""
        self._change(self, None)


class Holds:
    """All holds on one log. No method locks: the log does."""

    def __init__(self, options: LogOptions) -> None:
        self._beyond = files_beyond(options)
        self._drops = options.mode == "non-blocking"
        self._max_files = options.max_files
        self._open: set[Hold] = set()

    def add(self, hold: Hold) -> None:
        self._open.add(hold)

    def change(self, hold: Hold, position: int | None) -> bool:
        """Whether that may let files go."""
        if hold not in self._open:
            return False
        before = self._floor()
        if position is None:
            self._open.discard(hold)
        else:
            hold.position = position
        return self._floor() > before

    def allow_rotation(self, older: Sequence[Rotated], end: int) -> bool:
        """Whether the newest file, which ends at ``end``, may step aside too."""
        surplus = [*(file.end for file in older), end][: self._surplus(len(older) + 1)]
        floor = self._floor()
        return self._drops or sum(each > floor for each in surplus) <= self._beyond

    def count_to_delete(self, older: Sequence[Rotated]) -> int:
        """How many of the older files, from the oldest on, have to go now."""
        surplus = self._surplus(len(older))
        floor = self._floor()
        unheld = sum(file.end <= floor for file in older[:surplus])
        return max(unheld, surplus - self._beyond) if self._drops else unheld

    def _surplus(self, older: int) -> int:
        return max(0, older + 1 - self._max_files)

    def _floor(self) -> float:
        return min((hold.position for hold in self._open), default=float("inf"))
