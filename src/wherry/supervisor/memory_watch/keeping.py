"""Where limits live on when this supervisor has gone: with the shim, and by pins where those are wanted."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from collections.abc import Mapping, Sequence

from wherry.errors import InternalError, InvalidRequest
from wherry.kernel.libc import describe
from wherry.memory import Alarm
from wherry.memory.pins import Pins, Unpinnable
from wherry.shim.standin import crossed_elements
from wherry.supervisor.memory_watch.memory import MemoryWatch
from wherry.supervisor.processes.shimlink import HeldSlot
from wherry.supervisor.processes.shims import Shims

_log = logging.getLogger(__name__)
_OLD_SECONDS = 3.0
"""How long the old books are looked at after the shim was told to let go, which it does in milliseconds."""
BPFFS = "/sys/fs/bpf"
"""Where a bpffs usually is (file-hierarchy(7), systemd), and where pins of an earlier supervisor are looked for."""


class Old:
    """The arrays in which an earlier supervisor's enforcer notes crossings, and which ours may not understand: its
    programs are at work until the shim lets go of them, and may end a process of a container that we have armed anew.
    """

    def __init__(self, alarms: Sequence[Alarm], kept: Mapping[str, int], held: Sequence[HeldSlot]) -> None:
        self._elements = {slot.name: slot.element for slot in held if slot.element is not None}
        self._arrays = {each.id: (os.dup(kept[each.array]), each) for each in alarms if each.array in kept}

    def has_crossed(self, slot: str) -> bool:
        """Whether the container in this slot of the shim has crossed its hard limit by the old books."""
        array, number = self._elements.get(slot, ("", 0))
        if array not in self._arrays:
            return False
        descriptor, alarm = self._arrays[array]
        try:
            return bool(crossed_elements(descriptor, alarm.stride, alarm.flag, [number]))
        except (OSError, ValueError, struct.error):  # a size that makes no sense: they are not to be understood at all
            return False

    def close(self) -> None:
        for descriptor, _alarm in self._arrays.values():
            os.close(descriptor)
        self._arrays.clear()


class Keeping:
    """``bpffs`` is where limits are to be pinned, None for nowhere; ``instance`` is the state directory's name there.

    Raises InvalidRequest when nothing can be pinned there.
    """

    def __init__(self, shims: Shims, memory: MemoryWatch, bpffs: str | None, instance: str) -> None:
        if bpffs is not None:
            try:
                Pins.check(bpffs)
            except Unpinnable as error:
                raise InvalidRequest(f"--pin-enforcer: {error}") from None
        self._shims = shims
        self._memory = memory
        self._is_wanted = bpffs is not None
        self._pins = Pins(bpffs or BPFFS, instance)
        self._old = Old([], {}, [])

    def inherited(self, held: Sequence[HeldSlot]) -> dict[str, int]:
        """Descriptors that an earlier supervisor left, the caller's to close: pinned ones where the shim has none."""
        kept, self._shims.kept = self._shims.kept, {}
        self._old = Old(self._shims.alarms, kept, held)
        self._memory.crossed_before = self._old.has_crossed
        try:
            pinned = self._pins.open_all()
        except OSError as error:
            _log.error("what is pinned cannot be taken over: %s", describe(error))
            return kept
        if not pinned.keys().isdisjoint(kept):
            for descriptor in pinned.values():
                os.close(descriptor)
            return kept
        return {**kept, **pinned}

    def keep(self) -> None:
        """What there is now, and nothing from before."""
        try:
            self._shims.keep(self._memory.descriptors(), self._memory.alarms())
        except InternalError:
            pass  # there is no shim: the next one gets all of it
        try:
            self._pins.replace(self._memory.pinnable() if self._is_wanted else {})
        except OSError as error:
            _log.error("memory limits cannot be pinned: %s", describe(error))
        if self._memory.rearming.has_rearmed:
            asyncio.get_running_loop().call_later(_OLD_SECONDS, self._old.close)
        else:
            self._old.close()

    def close(self) -> None:
        """What is kept and pinned stays."""
        self._old.close()

    def end(self) -> None:
        """No container lives any more."""
        self.close()
        try:
            self._pins.replace({})
        except OSError as error:
            _log.error("pinned memory limits cannot be removed: %s", describe(error))
