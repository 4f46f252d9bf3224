"""The structs of ``bpf/monitor.h``, in native byte order and alignment; a test compares them with the header.

A name such as ``SOFT`` is the offset of ``soft`` in struct monitor_container. Sizes in the maps are in pages.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

VERSION = 2
"""Changes with any of the structs or their meaning: a supervisor takes over only maps that it understands."""

NO_LIMIT = (1 << 63) - 1
ID_BYTES = 32

CONTAINER_BYTES = 256
TOTAL, PEAK, PROCESSES, UNCOUNTED = range(0, 32, 8)
SOFT, HARD, CLEAR = range(64, 88, 8)
NAMESPACE, WATCHING, SOFT_FIRED, HARD_BEGUN, HARD_FIRED = range(88, 108, 4)
BORN, SOFT_TIME = 108, 112
HARD_TIME, HARD_PAGES, HARD_LIMIT, HARD_COMM, HARD_PID, HARD_REASON, ID = 128, 136, 144, 152, 168, 172, 192
_CONTAINER = struct.Struct("=4q32x3q6IQ8xQ2q16s2I16x32s32x")

KIND_SOFT, KIND_SOFT_CLEARED, KIND_HARD, KIND_OOM_KILL = range(1, 5)
REASON_CROSSED, REASON_UNCOUNTED = range(2)
ACT_LOOK, ACT_UPDATED, ACT_FORGET = range(1, 4)
_EVENT = struct.Struct("=Qqqq3I4x16s32s")
EVENT_BYTES = _EVENT.size

MM_BYTES = 80
MM_KEY, MM_SLOT = 32, 64
"""Offsets of ``key`` and ``slot`` in struct monitor_mm."""


class ContainerState(NamedTuple):
    """struct monitor_container."""

    total: int = 0
    peak: int = 0
    processes: int = 0
    uncounted: int = 0
    soft: int = NO_LIMIT
    hard: int = NO_LIMIT
    clear: int = 0
    namespace: int = 0
    watching: int = 0
    soft_fired: int = 0
    hard_begun: int = 0
    hard_fired: int = 0
    born: int = 0
    soft_time: int = 0
    hard_time: int = 0
    hard_pages: int = 0
    hard_limit: int = 0
    hard_comm: bytes = b""
    hard_pid: int = 0
    hard_reason: int = 0
    id: bytes = b""

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
    reason: int
    pid: int
    comm: bytes
    id: bytes

    @classmethod
    def unpack(cls, content: bytes) -> MonitorEvent:
        return cls(*_EVENT.unpack(content[:EVENT_BYTES]))
