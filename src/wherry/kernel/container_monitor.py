"""/dev/container_monitor, the device of our kernel module: kmod/uapi/container_monitor.h, docs/kmod-abi.md.

Registrations and unread records belong to the open file: they live for as long as any process has a descriptor of it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple, Self

from wherry.kernel.libc import call_error

DEVICE = "/dev/container_monitor"
VERSION = 2
ID_MAX = 135
"""The longest id, in bytes."""

_ID_LEN, _COMM_LEN = 136, 16
_VERSION = struct.Struct("=IIIIQ")
_REGISTER = struct.Struct(f"=iIQQQ{_ID_LEN}s")
_UPDATE = struct.Struct("=IIQQQ")
_EVENT = struct.Struct(f"=IIQQQQQQIIiI{_COMM_LEN}s")
_STATUS = struct.Struct(f"=QIIQQQQQIi{_EVENT.size}s{_ID_LEN}s")
SIZES = {
    "version": _VERSION.size,
    "register": _REGISTER.size,
    "update": _UPDATE.size,
    "event": _EVENT.size,
    "status": _STATUS.size,
}
"""Of the structures as we know them. A younger module knows longer ones, and takes and gives ours as well."""

_NEXT = 1 << 0
_READ_BYTES = 16384


def _ioctl(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | 0xCB << 8 | number  # asm-generic/ioctl.h: _IOC


GET_VERSION = _ioctl(2, 0, _VERSION.size)
REGISTER = _ioctl(1, 1, _REGISTER.size)
UPDATE = _ioctl(1, 2, _UPDATE.size)
UNREGISTER = _ioctl(3, 3, _STATUS.size)
STAT = _ioctl(3, 4, _STATUS.size)


class RecordType(IntEnum):
    """What a record tells of."""

    SOFT = 1
    SOFT_CLEARED = 2
    HARD = 3


class MonitorState(IntFlag):
    """Of a registration."""

    OVER_SOFT = 1
    KILLED = 2
    ENDED = 4


class Version(NamedTuple):
    """``features`` bit 0: there is a tracepoint. ``registrations`` and ``dropped`` (lost records) are this file's."""

    version: int
    features: int
    interval_ms: int
    registrations: int
    dropped: int


class MonitorRecord(NamedTuple):
    """One crossing. Sizes in bytes, of the whole container; ``pid`` and ``comm`` are the process that crossed."""

    type: int
    key: int
    time_ns: int
    rss_bytes: int
    limit_bytes: int
    peak_bytes: int
    dropped: int
    source: int
    processes: int
    pid: int
    comm: str


class Status(NamedTuple):
    """A registration; ``hard`` is the crossing it was killed for, ``pid`` its first process, 0 when that has gone."""

    key: int
    state: MonitorState
    rss_bytes: int
    peak_bytes: int
    soft_bytes: int
    hard_bytes: int
    scans: int
    processes: int
    pid: int
    hard: MonitorRecord | None
    id: str


def _record(raw: bytes, at: int = 0) -> MonitorRecord:
    _size, *numbers, _reserved, comm = _EVENT.unpack_from(raw, at)
    return MonitorRecord._make([*numbers, comm.rstrip(b"\0").decode(errors="replace")])


def records(raw: bytes) -> Iterator[MonitorRecord]:
    """What one read(2) returned. Each record says how long it is: a younger module's may be longer than ours."""
    at = 0
    while at < len(raw):
        yield _record(raw, at)
        at += int.from_bytes(raw[at : at + 4], sys.byteorder)


def _status(raw: bytes) -> Status:
    key, _flags, state, rss, peak, soft, hard, scans, processes, pid, record, name = _STATUS.unpack(raw)
    killed = _record(record)
    return Status(
        key,
        MonitorState(state),
        rss,
        peak,
        soft,
        hard,
        scans,
        processes,
        pid,
        killed if killed.type else None,
        name.rstrip(b"\0").decode("ascii"),
    )


class Monitor:
    """One open file of the device. Takes over ``descriptor``. Every method raises OSError naming the call."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: str = DEVICE) -> Self:
        """Raises FileNotFoundError (the module is not loaded) and PermissionError (CAP_SYS_ADMIN is missing)."""
        return cls(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        """Polls readable while there are records."""
        return self._descriptor

    def version(self) -> Version:
        return Version(*_VERSION.unpack(self._call("GET_VERSION", GET_VERSION, bytes(_VERSION.size))))

    def register(self, key: int, pid: int, name: str, soft_bytes: int = 0, hard_bytes: int = 0) -> None:
        """Watch the pid namespace whose first process is ``pid``; ``name`` is what the kernel log calls it.

        ``key`` (not 0) names it in all else; a limit of 0 is none. Raises OSError: EEXIST for a key in use, EBUSY for a
        namespace that is watched, ESRCH, EXDEV when ``pid`` is not the first process of a namespace below ours.
        """
        request = _REGISTER.pack(pid, 0, key, soft_bytes, hard_bytes, name.encode())
        self._call("REGISTER", REGISTER, request)

    def update(self, key: int, soft_bytes: int, hard_bytes: int) -> None:
        """New limits, checked at once. Raises OSError: ENOENT, ESRCH when the container has ended or is killed."""
        self._call("UPDATE", UPDATE, _UPDATE.pack(0, 0, key, soft_bytes, hard_bytes))

    def status(self, key: int) -> Status:
        """Counted now. Raises FileNotFoundError when there is no such registration."""
        return self._status("STAT", STAT, key, 0)

    def next(self, key: int) -> Status | None:
        """The registration with the smallest key above ``key``."""
        try:
            return self._status("STAT", STAT, key, _NEXT)
        except FileNotFoundError:
            return None

    def unregister(self, key: int) -> Status:
        """Stop watching; nothing is told or killed any more when this returns, and its records are gone.

        The figures are those of the last count. Raises FileNotFoundError.
        """
        return self._status("UNREGISTER", UNREGISTER, key, 0)

    def read(self) -> list[MonitorRecord]:
        """The records that wait, in order."""
        found: list[MonitorRecord] = []
        while True:
            try:
                raw = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:
                return found
            found += records(raw)

    def close(self) -> None:
        os.close(self._descriptor)

    def _status(self, name: str, request: int, key: int, flags: int) -> Status:
        empty = bytes(_STATUS.size - 12)
        return _status(self._call(name, request, struct.pack("=QI", key, flags) + empty))

    def _call(self, name: str, request: int, argument: bytes) -> bytes:
        try:
            return fcntl.ioctl(self._descriptor, request, argument)
        except OSError as error:
            raise call_error(error.errno or 0, f"ioctl {name}", DEVICE) from error
