"""Who waits for whom: no reader, and no count of a large container, holds up the others."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.patience import PATIENCE
from tests.vm.inside.held_page import HeldPage
from tests.vm.inside.watched import MIB, Contained
from tests.waiting import wait_until

from wherry.kernel import container_monitor
from wherry.kernel.container_monitor import Monitor, MonitorState, RecordType
from wherry.kernel.polling import readable

CROWD = 1000
COUNTS = 60


def test_a_reader_that_waits_for_its_memory_holds_up_nobody(monitor: Monitor) -> None:
    """Memory is short: the reader's page is on its way from swap, and only a kill would make room."""
    size = container_monitor.SIZES["event"]
    with (
        HeldPage() as page,
        Contained("wait", "touch", 8 << 10, "pause") as told,
        Contained("wait", "touch", 24 << 10, "pause") as hog,
    ):
        monitor.register(1, told.pid, "told", 4 * MIB)
        monitor.register(2, hog.pid, "grows", 0, 8 * MIB)
        told.go()
        assert readable([monitor.fileno()], PATIENCE)
        got: list[int] = []
        reader = threading.Thread(target=lambda: got.append(page.read(monitor.fileno(), size)))
        reader.start()
        assert page.is_touched()
        hog.go()
        assert hog.wait() == -signal.SIGKILL
        assert MonitorState.KILLED in monitor.status(2).state
        monitor.update(1, 3 * MIB, 0)
        with pytest.raises(BlockingIOError):
            os.read(monitor.fileno(), size)  # nor another reader
        assert monitor.unregister(1).hard is None
        page.give()
        reader.join(PATIENCE)
        assert got == [size]
        assert [record.key for record in container_monitor.records(page.content(size))] == [1]
        assert [(record.key, record.type) for record in monitor.read()] == [(2, RecordType.HARD)]


@contextlib.contextmanager
def calling(call: Callable[[], object]) -> Iterator[Callable[[], int]]:
    """``call`` again and again in another process; yields how often it has returned so far."""
    count = mmap.mmap(-1, mmap.PAGESIZE)
    pid = os.fork()
    if pid == 0:
        done = 0
        while True:
            call()
            done += 1
            struct.pack_into("=Q", count, 0, done)
    try:
        yield lambda: int(struct.unpack_from("=Q", count)[0])
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def returned_meanwhile(monitor: Monitor, key: int, calls: Callable[[], int]) -> int:
    """How many of ``calls`` return between begin and end of our counts."""
    meanwhile = 0
    for _ in range(COUNTS):
        before = calls()
        monitor.status(key)
        meanwhile += calls() - before
    return meanwhile


def test_a_count_of_many_processes_holds_up_nobody(monitor: Monitor) -> None:
    """While one container of many processes is counted again and again, calls that concern others return."""
    other = Monitor.open()
    with Contained("fork", CROWD, "pause") as crowd, Contained("pause") as single:
        monitor.register(1, crowd.pid, "crowd")
        monitor.register(2, single.pid, "single")
        wait_until(lambda: monitor.status(1).processes == CROWD + 1)
        with calling(other.version) as calls:
            wait_until(lambda: calls() > 10)
            # What returns before the call has begun in the kernel, and after its end.
            edges = returned_meanwhile(monitor, 2, calls)
            meanwhile = returned_meanwhile(monitor, 1, calls)
    other.close()
    print(f"{meanwhile} calls beside counts of {CROWD} processes, {edges} beside counts of one")
    assert meanwhile > 3 * edges + COUNTS


def test_what_is_removed_is_not_counted_once_more(monitor: Monitor) -> None:
    with Contained("wait", "touch", 6 << 10, "pause") as hog:
        monitor.register(1, hog.pid, "removed")
        hog.go()
        wait_until(lambda: hog.resident() > 6 * MIB)
        for _ in range(3):  # the check of every second can come between
            last = monitor.status(1)
            found = monitor.unregister(1)
            if found.scans == last.scans:
                break
            monitor.register(1, hog.pid, "removed")
        assert (found.scans, found.rss_bytes, found.processes) == (last.scans, last.rss_bytes, 1)
        with pytest.raises(FileNotFoundError):
            monitor.status(1)
