"""Many things at once: loading and unloading under load, registrations of containers that grow and die, nonsense."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from tests.vm.inside.watched import MIB, Contained, allocations, insmod, loaded, rmmod
from tests.waiting import wait_until

from wherry.kernel import container_monitor, namespaces
from wherry.kernel.container_monitor import Monitor

FAST = {"interval_ms": 20}
LOADS = int(os.environ.get("WHERRY_LOADS", "24"))
"""Each way that a turn of the loop can go comes once in 24 of them. ``make test-vm`` has more."""
CALLS = [
    container_monitor.GET_VERSION,
    container_monitor.REGISTER,
    container_monitor.UPDATE,
    container_monitor.UNREGISTER,
    container_monitor.STAT,
]


@contextlib.contextmanager
def in_background(work: Callable[[], None], count: int) -> Iterator[None]:
    """``work`` again and again in ``count`` processes of their own, until the block ends; an error in one is ours."""
    workers = [_repeat(work) for _ in range(count)]
    try:
        yield
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        statuses = [os.waitpid(pid, 0)[1] for pid in workers]
    assert statuses == [0] * count


def _repeat(work: Callable[[], None]) -> int:
    """In another process, until SIGTERM; returns its pid."""
    worker = os.fork()
    if worker:
        return worker
    random.seed(os.getpid())
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    try:
        while not stopping:
            work()
        os._exit(0)
    finally:
        os._exit(1)


def churn() -> None:
    """A few processes that take and give back memory, and end."""
    pid, pidfd = namespaces.fork_into(["pid"])
    if pid == 0:
        os.execv("/wherry/build/vm/grow", "grow fork 4 touch 900 release touch 700 fork 2 touch 300 exit 0".split())
    os.waitpid(pid, 0)
    os.close(pidfd)


def test_loads_and_unloads_under_load() -> None:
    with in_background(churn, 2):
        for number in range(LOADS):
            insmod(**FAST)
            if number % 4 == 0:
                with Contained("wait", "touch", 8 << 10, "pause") as hog:
                    monitor = Monitor.open()
                    monitor.register(1, hog.pid, "passing", 1 * MIB, (number % 3) * 4 * MIB)
                    hog.go()
                    if number % 8 == 0:
                        monitor.read()
                        monitor.unregister(1)
                    monitor.close()  # at times with the container alive, a check under way and records unread
            rmmod()
    wait_until(lambda: not allocations())


def register_and_forget() -> None:
    """Containers that grow past their limits, whose registrations come and go at any moment of that."""
    monitor = Monitor.open()
    other = Monitor.open()
    for _ in range(3):
        words = random.choice(
            [
                ["fork", 6, "touch", 2048, "pause"],
                ["thread", 4, "touch", 4096, "pause"],
                ["touch", 3000, "exec", "touch", 3000, "exec", "touch", 9000, "pause"],
                ["fork", 30, "touch", 64, "exit", 0],
                ["nest", "fork", 3, "touch", 4096, "pause"],
            ]
        )
        with Contained("wait", *words) as hog:
            for owner in (monitor, other):
                owner.register(1, hog.pid, "raced", MIB, random.choice([0, 4 * MIB, 8 * MIB]))
            hog.go()
            until = time.monotonic() + random.random() * 0.3
            while time.monotonic() < until:
                with contextlib.suppress(ProcessLookupError):
                    monitor.update(1, random.choice([0, MIB, 3 * MIB]), random.choice([0, 6 * MIB, 64 * MIB]))
                other.status(1)
                monitor.read()
            if random.random() < 0.5:
                signal.pidfd_send_signal(hog.pidfd, signal.SIGKILL)
            monitor.unregister(1)
            if random.random() < 0.7:
                other.unregister(1)
            else:
                other.close()
                other = Monitor.open()
    monitor.close()
    other.close()


def test_registrations_of_containers_that_grow_and_die() -> None:
    with loaded(**FAST), in_background(register_and_forget, 3), in_background(churn, 1):
        time.sleep(8)
    wait_until(lambda: not allocations())


@pytest.mark.parametrize("seed", range(3))
def test_nonsense_is_refused(seed: int) -> None:
    """Random calls with random structures, some of them almost right, and wrong sizes, on one file from all sides."""
    chance = random.Random(seed)
    with loaded(**FAST), Contained("touch", 2048, "pause") as hog:
        monitor = Monitor.open()
        accepted = 0
        for _ in range(4000):
            with contextlib.suppress(OSError):
                # Whatever size the number says, so much comes back: as large a one as a number can say.
                argument = bytearray(nonsense(chance, hog.pid).ljust(1 << 14, b"\0"))
                fcntl.ioctl(monitor.fileno(), nonsense_call(chance), argument)
                accepted += 1
            if chance.random() < 0.02:
                with contextlib.suppress(OSError):
                    os.read(monitor.fileno(), chance.choice([0, 1, 87, 88, 89, 4000]))
        assert accepted > 50  # else it was all too far off to test anything
        assert monitor.version().registrations <= 1
        monitor.close()


def nonsense_call(chance: random.Random) -> int:
    if chance.random() < 0.8:
        return chance.choice(CALLS)
    return chance.choice(CALLS) ^ (1 << chance.randrange(32)) if chance.random() < 0.5 else chance.getrandbits(32)


def nonsense(chance: random.Random, pid: int) -> bytes:
    """At least as long as the longest structure."""
    if chance.random() < 0.3:
        return chance.randbytes(512)
    numbers = [0, 0, 0, 1, 2, 4096, 1 << 20, 2**32, 2**63, 2**64 - 1]
    head = struct.pack("=iI", chance.choice([pid, pid, pid, 0, -1, 1, 2**31 - 1]), chance.choice([0, 0, 0, 1, 2**31]))
    if chance.random() < 0.5:
        head = struct.pack("=QI", chance.choice([1, 2]), chance.choice([0, 0, 1, 2])) + bytes(4)
    body = b"".join(struct.pack("=Q", chance.choice(numbers)) for _ in range(3))
    name = chance.choice([b"name", b"", b"a b", b"\xff" * 136, b"x" * 135])
    whole = (head + body + name).ljust(512, b"\0") if chance.random() < 0.7 else head.ljust(512, b"\0")
    if chance.random() < 0.1:
        at = chance.randrange(len(whole))
        whole = whole[:at] + chance.randbytes(1) + whole[at + 1 :]
    return whole


def test_a_file_closed_in_the_middle_of_everything() -> None:
    """One process uses a descriptor while another one closes its own: the last one to go takes all with it."""
    with loaded(**FAST), in_background(churn, 1):
        for _ in range(15):
            with Contained("wait", "fork", 8, "touch", 2048, "pause") as hog:
                monitor = Monitor.open()
                users = [use_until_killed(monitor, hog.pid) for _ in range(2)]
                hog.go()
                monitor.close()
                time.sleep(random.random() * 0.1)
                for user in users:
                    os.kill(user, signal.SIGKILL)
                for user in users:
                    os.waitpid(user, 0)


def use_until_killed(monitor: Monitor, pid: int) -> int:
    """In another process; returns its pid."""
    user = os.fork()
    if user:
        return user
    while True:
        with contextlib.suppress(OSError):
            monitor.register(1, pid, "shared", MIB, 12 * MIB)
        with contextlib.suppress(OSError):
            monitor.status(1)
        monitor.read()
        with contextlib.suppress(OSError):
            monitor.unregister(1)
