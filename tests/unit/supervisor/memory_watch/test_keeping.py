"""The books of an earlier supervisor's enforcer: read without being understood, and never trusted to make sense."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from wherry.memory import Alarm
from wherry.supervisor.memory_watch.keeping import Old
from wherry.supervisor.processes.shimlink import HeldSlot

STRIDE, FLAG = 32, 12
ALARM = Alarm("a1", "bpf1-containers", "bpf1-events", STRIDE, FLAG)


def slot(name: str, element: tuple[str, int] | None) -> HeldSlot:
    return HeldSlot(name, 1, True, None, {}, element=element)


HELD = [slot("crossed", ("a1", 2)), slot("not", ("a1", 1)), slot("other", ("a0", 2)), slot("none", None)]


@pytest.fixture
def array() -> Iterator[int]:
    descriptor = os.memfd_create("array")
    os.ftruncate(descriptor, 3 * STRIDE)
    os.pwrite(descriptor, struct.pack("=I", 1), 2 * STRIDE + FLAG)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("name", ["crossed", "not", "other", "none", "unknown"])
def test_who_has_crossed(array: int, name: str) -> None:
    old = Old([ALARM], {"bpf1-containers": array}, HELD)
    assert old.has_crossed(name) is (name == "crossed")
    old.close()
    assert not old.has_crossed(name)


@pytest.mark.parametrize("alarm", [ALARM._replace(flag=1 << 40), ALARM._replace(stride=1 << 50)])
def test_what_makes_no_sense_says_nothing(array: int, alarm: Alarm) -> None:
    old = Old([alarm], {"bpf1-containers": array}, HELD)
    assert not old.has_crossed("crossed")
    old.close()


def test_an_array_that_the_shim_has_lost() -> None:
    assert not Old([ALARM], {}, HELD).has_crossed("crossed")
