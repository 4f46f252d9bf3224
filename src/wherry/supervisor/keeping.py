"""Where limits live on when this supervisor has gone: with the shim, and by pins where those are wanted."""

from __future__ import annotations

import logging
import os

from wherry.errors import InternalError, InvalidRequest
from wherry.kernel.libc import describe
from wherry.memory.pins import Pins, Unpinnable
from wherry.supervisor.memory import Memory
from wherry.supervisor.shimlink import ShimLink

_log = logging.getLogger(__name__)
BPFFS = "/sys/fs/bpf"
"""Where a bpffs usually is (file-hierarchy(7), systemd), and where pins of an earlier supervisor are looked for."""


class Keeping:
    """``bpffs`` is where limits are to be pinned, None for nowhere; ``instance`` is the state directory's name there.

    Raises InvalidRequest when nothing can be pinned there.
    """

    def __init__(self, shim: ShimLink, memory: Memory, bpffs: str | None, instance: str) -> None:
        if bpffs is not None:
            try:
                Pins.check(bpffs)
            except Unpinnable as error:
                raise InvalidRequest(f"--pin-enforcer: {error}") from None
        self._shim = shim
        self._memory = memory
        self._is_wanted = bpffs is not None
        self._pins = Pins(bpffs or BPFFS, instance)

    def inherited(self) -> dict[str, int]:
        """Descriptors that an earlier supervisor left, the caller's to close: pinned ones where the shim has none."""
        kept, self._shim.kept = self._shim.kept, {}
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
        descriptors = self._memory.descriptors()
        try:
            self._shim.keep(descriptors, self._memory.alarms())
        except InternalError:
            pass  # there is no shim: the next one gets all of it
        try:
            self._pins.replace({name: each for name, each in descriptors.items() if self._can_be_pinned(name)})
        except OSError as error:
            _log.error("memory limits cannot be pinned: %s", describe(error))

    def _can_be_pinned(self, name: str) -> bool:
        return self._is_wanted and name.startswith("bpf")

    def end(self) -> None:
        """No container lives any more."""
        try:
            self._pins.replace({})
        except OSError as error:
            _log.error("pinned memory limits cannot be removed: %s", describe(error))
