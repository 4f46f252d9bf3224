"""The enforcer kmod over a device that is not there: what it makes of registrations and records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from wherry.kernel.cgroups import Group
from wherry.kernel.container_monitor import Monitor, MonitorRecord, MonitorState, RecordType, Status
from wherry.memory.kmod import Kmod
from wherry.memory.limiter import Kind, Limits, Target

MIB = 1 << 20
ID = "00000000000000aa" + "5" * 48
KEY = 0xAA


def record(kind: RecordType, key: int = KEY) -> MonitorRecord:
    return MonitorRecord(kind, key, 1, 9 * MIB, 8 * MIB, 9 * MIB, 0, 1, 1, 7, "hog")


class Device:
    """What ``Kmod`` calls of a ``Monitor``."""

    def __init__(self) -> None:
        self.limits = {KEY: (4 * MIB, 8 * MIB)}
        self.hard: dict[int, MonitorRecord] = {}
        self.waiting: list[MonitorRecord] = []

    def status(self, key: int) -> Status:
        if key not in self.limits:
            raise FileNotFoundError
        hard = self.hard.get(key)
        return Status(key, MonitorState(2 if hard else 0), 0, 0, *self.limits[key], 1, 1, 7, hard, "web")

    unregister = status

    def update(self, key: int, soft_bytes: int, hard_bytes: int) -> None:
        if key in self.hard:
            raise ProcessLookupError
        self.limits[key] = soft_bytes, hard_bytes

    def read(self) -> list[MonitorRecord]:
        found, self.waiting = self.waiting, []
        return found


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def target() -> Iterator[Target]:
    pidfd = os.pidfd_open(os.getpid())
    yield Target(ID, os.getpid(), pidfd, -1, cast(Group, Path("/unused")))
    os.close(pidfd)


def adopted(device: Device, target: Target, limits: Limits) -> Kmod:
    limiter = Kmod(cast(Monitor, device), has_taken_over=True)
    limiter.adopt(target, limits, {})
    return limiter


def test_a_crossing_that_the_last_supervisor_has_read_is_told_again(device: Device, target: Target) -> None:
    """It may have been killed before it acted on it."""
    device.hard[KEY] = record(RecordType.HARD)
    limiter = adopted(device, target, Limits(4 * MIB, 8 * MIB))
    assert [(event.kind, event.container_id) for event in limiter.read()] == [(Kind.HARD, ID)]
    assert limiter.read() == []


def test_a_crossing_that_nobody_has_read_is_told_once(device: Device, target: Target) -> None:
    device.hard[KEY] = record(RecordType.HARD)
    device.waiting = [record(RecordType.SOFT), record(RecordType.HARD)]
    limiter = adopted(device, target, Limits(4 * MIB, 8 * MIB))
    assert [event.kind for event in limiter.read()] == [Kind.SOFT, Kind.HARD]
    assert limiter.read() == []


def test_records_of_what_nobody_has_adopted_are_passed_over(device: Device, target: Target) -> None:
    device.waiting = [record(RecordType.HARD, KEY + 1), record(RecordType.SOFT)]
    limiter = adopted(device, target, Limits(4 * MIB, 8 * MIB))
    assert [event.kind for event in limiter.read()] == [Kind.SOFT]


def test_limits_that_the_last_supervisor_had_not_set_are_set(device: Device, target: Target) -> None:
    adopted(device, target, Limits(2 * MIB, 16 * MIB))
    assert device.limits[KEY] == (2 * MIB, 16 * MIB)


def test_of_a_container_that_is_killed_no_limit_is_set(device: Device, target: Target) -> None:
    device.hard[KEY] = record(RecordType.HARD)
    adopted(device, target, Limits(2 * MIB, None))
    assert device.limits[KEY] == (4 * MIB, 8 * MIB)


def test_what_is_not_registered_cannot_be_adopted(device: Device, target: Target) -> None:
    device.limits.clear()
    with pytest.raises(KeyError):
        adopted(device, target, Limits(hard_bytes=8 * MIB))
