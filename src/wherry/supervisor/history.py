"""A bounded history in which nobody's part pushes out the others': items by number, each of one owner.

As long as no owner has more than ``share`` items, the oldest goes when there is no more room. An owner above its share
loses its own oldest first, and of several the one with the most.
"""

from __future__ import annotations

import bisect
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class History(Generic[T]):
    """``capacity`` items are kept."""

    def __init__(self, capacity: int, share: int) -> None:
        self._capacity = capacity
        self._share = share
        self._items: dict[int, T] = {}
        self._numbers: list[int] = []
        """Of the items that are kept, in their order."""
        self._owned: dict[str, deque[int]] = {}
        self._owner: dict[int, str] = {}
        self._ranks: dict[int, dict[str, None]] = {}
        """How many items -> the owners that have so many: counts change by one, so the most is found at once."""
        self._most = 0
        self.next = 0
        """How many items there have ever been, and the number of the next one."""

    def add(self, owner: str, item: T) -> None:
        if len(self._numbers) == self._capacity:
            self._drop()
        self._items[self.next] = item
        self._owner[self.next] = owner
        self._numbers.append(self.next)
        self._owned.setdefault(owner, deque()).append(self.next)
        self._rank(owner, len(self._owned[owner]) - 1, len(self._owned[owner]))
        self.next += 1

    def after(self, position: int) -> tuple[int, T] | None:
        """The first item whose number is ``position`` or higher, with its number."""
        place = bisect.bisect_left(self._numbers, position)
        if place == len(self._numbers):
            return None
        number = self._numbers[place]
        return number, self._items[number]

    def items(self) -> list[T]:
        """Oldest first."""
        return list(self._items.values())

    def _drop(self) -> None:
        number = self._numbers[0]
        if self._most > self._share:
            number = self._owned[next(iter(self._ranks[self._most]))][0]
        owner = self._owner.pop(number)
        del self._items[number]
        del self._numbers[bisect.bisect_left(self._numbers, number)]
        numbers = self._owned[owner]
        numbers.popleft()
        self._rank(owner, len(numbers) + 1, len(numbers))
        if not numbers:
            del self._owned[owner]

    def _rank(self, owner: str, before: int, now: int) -> None:
        if before:
            owners = self._ranks[before]
            del owners[owner]
            if not owners:
                del self._ranks[before]
        if now:
            self._ranks.setdefault(now, {})[owner] = None
        self._most = max(self._most, now)
        if self._most not in self._ranks and self._most:
            self._most -= 1
