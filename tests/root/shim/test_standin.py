"""The shim in the place of a supervisor: it ends who has crossed, by what it was told of where to look."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from tests.patience import PATIENCE
from tests.root.shim.shim_process import Connection, ShimProcess, is_gone
from tests.waiting import wait_until

from wherry.kernel.polling import readable

pytestmark = pytest.mark.root

STRIDE, FLAG = 24, 8
SLEEP = ("/bin/sleep", "1000")


class Array:
    """What an enforcer would keep: elements of which the shim knows one word, and something that wakes it."""

    def __init__(self) -> None:
        self.memory = os.memfd_create("array")
        os.ftruncate(self.memory, 3 * STRIDE)
        self.wake = os.eventfd(0)
        self.alarm: dict[str, Any] = {"id": "a1", "array": "array", "wake": "wake", "stride": STRIDE, "flag": FLAG}

    def keep(self, connection: Connection, **changes: Any) -> None:
        alarms = [self.alarm | changes]
        connection.send([self.memory, self.wake], type="keep", names=["array", "wake"], alarms=alarms)

    def cross(self, element: int) -> None:
        os.pwrite(self.memory, struct.pack("=I", 1), STRIDE * element + FLAG)

    def close(self) -> None:
        os.close(self.memory)
        os.close(self.wake)


@pytest.fixture
def array() -> Iterator[Array]:
    made = Array()
    yield made
    made.close()


def claim(connection: Connection, name: str, **fields: Any) -> int:
    """A container that sleeps; returns its pid."""
    child = connection.spawn(name)
    connection.send([], type="claim", slot=name, names=[], **fields)
    child.execute(*SLEEP)
    return child.pid


@pytest.mark.parametrize("is_told", [True, False])
def test_a_word_in_an_array(shim: ShimProcess, array: Array, is_told: bool) -> None:
    """With nobody to wake it, as when a record has found no room, it looks all the same."""
    with shim.connect() as connection:
        array.keep(connection)
        crosses = claim(connection, "crosses", element=["a1", 1])
        stays = claim(connection, "stays", element=["a1", 2])
        other = claim(connection, "other", element=["a0", 1])  # of an array that is no more
        none = claim(connection, "none")
    array.cross(1)
    if is_told:
        os.eventfd_write(array.wake, 1)
    wait_until(lambda: is_gone(crosses))
    with shim.connect() as connection:
        answered = {name: message["answered"] for name, (message, _) in connection.slots.items()}
        assert answered == {"crosses": True, "stays": False, "other": False, "none": False}
    assert not any(is_gone(pid) for pid in (stays, other, none))
    if is_told:
        assert readable([array.wake])  # nothing was read away from the next supervisor


def test_a_signal_of_its_own(shim: ShimProcess) -> None:
    signal = os.eventfd(0)
    with shim.connect() as connection:
        child = connection.spawn("c")
        connection.send([signal], type="claim", slot="c", names=["memory-oom"], signal="memory-oom")
        child.execute(*SLEEP)
    os.eventfd_write(signal, 1)
    wait_until(lambda: is_gone(child.pid))
    assert readable([signal])
    os.close(signal)


def test_with_a_supervisor_it_leaves_that_to_it(shim: ShimProcess, array: Array) -> None:
    with shim.connect() as connection:
        array.keep(connection)
        pid = claim(connection, "c", element=["a1", 0])
    with shim.connect() as connection:  # it has stood in meanwhile, and stops
        array.cross(0)
        os.eventfd_write(array.wake, 1)
        connection.spawn("d")  # which is answered after whatever else woke it
        assert not is_gone(pid)
    wait_until(lambda: is_gone(pid))


@pytest.mark.parametrize("changes", [{"flag": 1 << 40}, {"array": "wake"}])
def test_what_makes_no_sense_kills_nobody_and_is_said_once(
    shim: ShimProcess, array: Array, changes: dict[str, Any]
) -> None:
    with shim.connect() as connection:
        array.keep(connection, **changes)
        pid = claim(connection, "c", element=["a1", 0])
    array.cross(0)
    wait_until(lambda: "Traceback" in shim.log.read_text())
    for _ in range(3):
        os.eventfd_write(array.wake, 1)
    with shim.connect() as connection:
        assert not is_gone(pid)
        connection.send(type="release", slot="c")
        assert connection.next_exit()[0] == "c"
    assert shim.process.wait(PATIENCE) == 0
    assert shim.log.read_text().count("Traceback") == 1
    shim.log.write_text("")


def test_what_is_claimed_again_takes_the_place_of_what_was(shim: ShimProcess) -> None:
    first, second = os.pipe(), os.pipe()
    with shim.connect() as connection:
        connection.start("c", *SLEEP, stdout=first[0])
        before = shim.descriptors()
        connection.claim("c", stdout=second[0])
        connection.spawn("d")
        wait_until(lambda: shim.descriptors() == before + 1)  # that of "d"
        os.close(first[0])
        with pytest.raises(BrokenPipeError):
            os.write(first[1], b"x")
    for descriptor in (first[1], *second):
        os.close(descriptor)
