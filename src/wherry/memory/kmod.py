"""The kernel module as an enforcer: kmod/, docs/kmod-abi.md.

The module keeps everything in one open file of its device, of which the shim has a descriptor: registrations, their
figures, unread records. A container's key is the first 64 bits of its id.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from wherry.kernel import container_monitor
from wherry.kernel.container_monitor import Monitor, MonitorRecord, RecordType
from wherry.kernel.libc import call_error, describe
from wherry.kernel.polling import readable
from wherry.memory.limiter import (
    Accuracy,
    Host,
    Kind,
    Limits,
    MemoryEvent,
    MemoryUsage,
    Target,
    Traits,
    Unusable,
    Verdict,
    shares_of_a_cpu,
    wall_clock,
)

TRAITS = Traits(writes_kernel_log=True)
_DEVICE = "kmod-device"
_KINDS = {RecordType.SOFT: Kind.SOFT, RecordType.SOFT_CLEARED: Kind.SOFT_CLEARED, RecordType.HARD: Kind.HARD}


def open_limiter(_host: Host, kept: dict[str, int]) -> Kmod:
    """See ``MemoryLimiter``. Raises Unusable when the module is not loaded, not ours to use, or of another version."""
    if _DEVICE in kept:
        monitor = Monitor(os.dup(kept[_DEVICE]))
    else:
        try:
            monitor = Monitor.open()
        except FileNotFoundError:
            raise Unusable("the kernel module is not loaded: there is no /dev/container_monitor") from None
        except OSError as error:
            raise Unusable(f"the kernel module cannot be used: {describe(error)}") from error
    try:
        found = monitor.version().version
    except OSError as error:
        monitor.close()
        raise Unusable(f"/dev/container_monitor is not our kernel module's: {describe(error)}") from error
    if found != container_monitor.VERSION:
        monitor.close()
        raise Unusable(f"the kernel module speaks version {found}, not {container_monitor.VERSION}")
    return Kmod(monitor, has_taken_over=_DEVICE in kept)


def _key(container_id: str) -> int:
    return int(container_id[:16], 16) or 1  # 0 is no key; a container in 2**64 has it


class Kmod:
    """See ``MemoryLimiter``."""

    name = "kmod"
    traits = TRAITS
    accuracy = Accuracy(shares_of_a_cpu(), over_bytes=None)

    def __init__(self, monitor: Monitor, *, has_taken_over: bool) -> None:
        self.has_taken_over = has_taken_over
        self._monitor = monitor
        self._ids: dict[int, str] = {}
        self._hard_told: set[int] = set()
        self._adopted: list[int] = []
        """Keys whose hard crossings an earlier supervisor may have read, and not acted on."""

    def fileno(self) -> int:
        return self._monitor.fileno()

    def descriptors(self) -> dict[str, int]:
        return {_DEVICE: self._monitor.fileno()}

    def arm(self, target: Target, limits: Limits) -> dict[str, int]:
        key = _key(target.container_id)
        self._monitor.register(key, target.pid, target.name or target.container_id, *_bytes(limits))
        if readable([target.pidfd]):
            # Its pid may have been another process's by the time the module looked it up.
            self._monitor.unregister(key)
            raise call_error(errno.ESRCH, "ioctl REGISTER", container_monitor.DEVICE)
        self._ids[key] = target.container_id
        return {}

    def adopt(self, target: Target, limits: Limits, _kept: dict[str, int]) -> None:
        key = _key(target.container_id)
        try:
            found = self._monitor.status(key)
            if _bytes(limits) != (found.soft_bytes, found.hard_bytes):
                # An earlier supervisor was killed between its record and the module; a new limit is a new crossing.
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    self._monitor.update(key, *_bytes(limits))
        except FileNotFoundError:
            raise KeyError(target.container_id) from None
        self._ids[key] = target.container_id
        self._adopted.append(key)

    def rearm(self, target: Target, limits: Limits) -> dict[str, int]:
        return self.arm(target, limits)  # the module counts all there is with the registration

    def take_stock(self) -> None:
        """The module has."""

    def alarm(self) -> None:
        """The module ends containers by itself."""

    def alarm_of(self, container_id: str) -> None:
        self._armed(container_id)

    def sweep(self) -> None:
        key = 0
        while (found := self._monitor.next(key)) is not None:
            key = found.key
            if key not in self._ids:
                self._monitor.unregister(key)

    def update(self, container_id: str, limits: Limits) -> None:
        self._monitor.update(self._armed(container_id), *_bytes(limits))

    def stat(self, container_id: str) -> MemoryUsage:
        found = self._monitor.status(self._armed(container_id))
        return MemoryUsage(found.rss_bytes, found.peak_bytes, found.processes)

    def disarm(self, container_id: str) -> Verdict:
        key = self._armed(container_id)
        found = self._monitor.unregister(key)
        del self._ids[key]
        hard = _event(container_id, found.hard) if found.hard else None
        untold = (hard,) if hard is not None and key not in self._hard_told else ()
        self._hard_told.discard(key)
        return Verdict(found.peak_bytes or None, hard, untold)

    def read(self) -> list[MemoryEvent]:
        waiting, self._adopted = self._adopted, []
        found = [*self._monitor.read(), *self._crossings(waiting)]
        events = []
        for record in found:
            container_id = self._ids.get(record.key)
            if container_id is None or record.key in self._hard_told:
                continue
            if record.type == RecordType.HARD:
                self._hard_told.add(record.key)
            events.append(_event(container_id, record))
        return events

    def _crossings(self, keys: list[int]) -> Iterator[MonitorRecord]:
        """A hard crossing is in the registration as well, whether or not its record has been read."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):  # disarmed since
                if hard := self._monitor.status(key).hard:
                    yield hard

    def dropped(self) -> int:
        return self._monitor.version().dropped

    def close(self) -> None:
        self._monitor.close()

    def _armed(self, container_id: str) -> int:
        key = _key(container_id)
        if self._ids.get(key) != container_id:
            raise KeyError(container_id)
        return key


def _bytes(limits: Limits) -> tuple[int, int]:
    """Soft and hard; for the module 0 is none."""
    return limits.soft_bytes or 0, limits.hard_bytes or 0


def _event(container_id: str, record: MonitorRecord) -> MemoryEvent:
    return MemoryEvent(
        _KINDS[RecordType(record.type)],
        container_id,
        record.pid,
        record.comm,
        record.rss_bytes,
        record.limit_bytes,
        record.peak_bytes,
        record.time_ns,
        wall_clock(record.time_ns),
    )
