"""What the shim answers in the place of a supervisor: containers that have crossed their hard limits.

An enforcer may kill only the process that crosses; the container's others, and its first process, are for whoever
hears of it. While no supervisor lives that is the shim, which need not know any enforcer for it: it was told which
descriptors poll readable then, and where in which array the word is that is not 0 from then on. It reads no record and
no count: those are the next supervisor's.
"""

from __future__ import annotations

import select
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wherry.shim.main import Slot
    from wherry.shim.protocol import Message

LOOK_SECONDS = 1.0
"""How often it looks although nothing has woken it: a record that found no room wakes nobody."""


class StandIn:
    """At work from ``begin`` to ``end``. Descriptors stay the caller's, and open for as long as it is at work."""

    def __init__(self, poll: select.epoll) -> None:
        self._poll = poll
        self._watched: set[int] = set()

    @property
    def is_needed(self) -> bool:
        return bool(self._watched)

    def begin(self, alarms: Iterable[Message], kept: dict[str, int], slots: Iterable[Slot]) -> None:
        """Register what may wake us, by its edges: nobody reads, so that it stays readable."""
        wakes = {kept[alarm["wake"]] for alarm in alarms if alarm["wake"] in kept}
        signals = {slot.held[slot.signal] for slot in slots if slot.claimed and slot.signal in slot.held}
        for descriptor in wakes | signals:
            self._poll.register(descriptor, select.EPOLLIN | select.EPOLLET)
            self._watched.add(descriptor)

    def end(self) -> None:
        """Before any of these descriptors is closed: epoll would go on with one of which there is a duplicate."""
        while self._watched:
            self._poll.unregister(self._watched.pop())

    def crossed(self, alarms: Iterable[Message], kept: dict[str, int], slots: Iterable[Slot]) -> Iterator[Slot]:
        """The containers that have crossed, also those that have ended by it already."""
        claimed = [slot for slot in slots if slot.claimed]
        for alarm in alarms:
            elements = {slot.element[1]: slot for slot in claimed if slot.element and slot.element[0] == alarm["id"]}
            if elements and alarm["array"] in kept:
                for number in crossed_elements(kept[alarm["array"]], alarm["stride"], alarm["flag"], elements):
                    yield elements[number]
        for slot in claimed:
            if slot.signal in slot.held and _is_readable(slot.held[slot.signal]):
                yield slot


def crossed_elements(descriptor: int, stride: int, flag: int, elements: Iterable[int]) -> list[int]:
    """The elements of a mapped array whose word at ``flag`` is not 0. Raises OSError, ValueError,
    struct.error when these make no sense.
    """
    import mmap  # noqa: PLC0415 (no start needs it: there is none while no supervisor lives)

    size = stride * (max(elements) + 1)
    with mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ) as content:
        return [number for number in elements if struct.unpack_from("=I", content, stride * number + flag)[0]]


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
