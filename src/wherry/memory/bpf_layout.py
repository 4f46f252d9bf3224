"""The structs of ``bpf/monitor.h``, in native byte order and alignment; a test compares them with the header.

A name such as ``SOFT`` is the offset of ``soft`` in struct monitor_container. Sizes in the maps are in pages.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

VERSION = 1
"""Changes with any of the structs or their meaning: a supervisor takes over only maps that it understands."""

NO_LIMIT = (1 << 63) - 1
ID_BYTES = 32

CONTAINER_BYTES = 152
TOTAL, PEAK, PROCESSES, SOFT, HARD, CLEAR, HARD_TIME, HARD_PAGES, HARD_LIMIT = range(0, 72, 8)
HARD_COMM, HARD_PID, HARD_FIRED, SOFT_FIRED, WATCHING, NAMESPACE, SOFT_TIME, ID = 72, 88, 92, 96, 100, 104, 112, 120
_CONTAINER = struct.Struct("=9q16s5I4xQ32s")

KIND_SOFT, KIND_SOFT_CLEARED, KIND_HARD, KIND_OOM_KILL = range(1, 5)
_EVENT = struct.Struct("=Qqqq2I16s32s")
EVENT_BYTES = _EVENT.size

MM_BYTES = 32
MM_SLOT = 16
"""Offset of ``slot`` in struct monitor_mm."""


class ContainerState(NamedTuple):
    """struct monitor_container."""

    total: int
    peak: int
    processes: int
    soft: int
    hard: int
    clear: int
    hard_time: int
    hard_pages: int
    hard_limit: int
    hard_comm: bytes
    hard_pid: int
    hard_fired: int
    soft_fired: int
    watching: int
    namespace: int
    soft_time: int
    id: bytes

    @classmethod
    def unpack(cls, content: bytes) -> ContainerState:
        return cls(*_CONTAINER.unpack(content))

    def pack(self) -> bytes:
        return _CONTAINER.pack(*self)


class MonitorEvent(NamedTuple):
    """struct monitor_event."""

    time: int
    pages: int
    peak: int
    limit: int
    kind: int
    pid: int
    comm: bytes
    id: bytes

    @classmethod
    def unpack(cls, content: bytes) -> MonitorEvent:
        return cls(*_EVENT.unpack(content[:EVENT_BYTES]))
