"""Maps of ids as text and numbers; what the kernel does with them is in tests/root/runtime/test_user_namespaces.py."""

from __future__ import annotations

import os

import pytest

from wherry.kernel import id_maps
from wherry.kernel.id_maps import Extent

TWO = (Extent(0, 100000, 1000), Extent(5000, 7, 1))


@pytest.mark.parametrize(
    ("inside", "outside"), [(0, 100000), (999, 100999), (1000, None), (4999, None), (5000, 7), (5001, None)]
)
def test_outside(inside: int, outside: int | None) -> None:
    assert id_maps.outside(TWO, inside) == outside


def test_described() -> None:
    assert id_maps.described(TWO) == "0-999,5000-5000"


@pytest.mark.parametrize(
    ("other", "common"),
    [((0, 99999, 1), False), ((0, 99999, 2), True), ((0, 100999, 1), True), ((0, 101000, 1), False), ((0, 0, 8), True)],
)
def test_overlaps(other: tuple[int, int, int], common: bool) -> None:
    extents = (Extent(*other),)
    assert id_maps.overlaps(TWO, extents) == id_maps.overlaps(extents, TWO) == common


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([], "0 lines"),
        ([(0, 1, 1)], ""),
        ([(each, each + 1, 1) for each in range(340)], ""),
        ([(each, each + 1, 1) for each in range(341)], "341 lines: there must be 1 to 340"),
        ([(0, 5, 0)], "0:5:0: a size is 1 or more"),
        ([(-1, 5, 1)], "no id is negative"),
        ([(0, 2**32 - 2, 1)], ""),
        ([(0, 2**32 - 2, 2)], "the largest id is 4294967294"),
        ([(0, 5, 2), (1, 9, 1)], "id 1 stands in two lines"),
        ([(0, 5, 2), (7, 6, 1)], "id 6 stands in two lines"),
        ([(2, 5, 2), (0, 9, 2)], ""),
    ],
)
def test_fault_of(lines: list[tuple[int, int, int]], fault: str) -> None:
    found = id_maps.fault_of(tuple(Extent(*each) for each in lines))
    assert fault in found
    assert bool(fault) == bool(found)


def test_the_namespace_of_a_process_that_has_ended() -> None:
    """Its number may be another's by the time that we look."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    pidfd = os.pidfd_open(pid)
    before = os.listdir("/proc/self/fd")
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        for number in (pid, os.getpid()):
            with pytest.raises(ProcessLookupError):
                id_maps.namespace_of(number, pidfd)
        os.waitpid(pid, 0)
        with pytest.raises(ProcessLookupError):
            id_maps.namespace_of(pid, pidfd)
        assert os.listdir("/proc/self/fd") == before
    finally:
        os.close(pidfd)


def test_the_widest_range() -> None:
    start, size = 100000, 65536
    assert id_maps.widest((Extent(0, start, size),)) == (0, size - 1)
    kept = (Extent(0, start, 1000), Extent(1000, 1000, 1), Extent(1001, start + 1001, size - 1001))
    assert id_maps.widest(kept) == (1000, size - 1)
    assert id_maps.widest((Extent(0, start, size), Extent(200000, 200000, 1))) == (0, 200000)
    assert id_maps.widest((Extent(0, start, size), Extent(70000, 70000, 1))) == (70000, 70000)
