"""The device itself: errors, who may open it, what belongs to an open file, reading records."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.forked import in_child
from tests.patience import PATIENCE
from tests.vm.inside.watched import MIB, Contained, records, rmmod
from tests.waiting import wait_until

from wherry.kernel import container_monitor, libc, namespaces
from wherry.kernel.container_monitor import Monitor, MonitorState, RecordType
from wherry.kernel.polling import readable

DEVICE = container_monitor.DEVICE


@contextlib.contextmanager
def raises(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:  # noqa: PT011  # by its number, below
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


@pytest.fixture
def hog(module: None) -> Iterator[Contained]:  # noqa: ARG001
    with Contained("wait", "touch", 24 << 10, "pause") as contained:
        yield contained


def test_the_device_is_root_s(monitor: Monitor) -> None:
    status = os.fstat(monitor.fileno())
    assert status.st_mode & 0o7777 == 0o600
    assert (status.st_uid, status.st_gid) == (0, 0)


def test_the_version(monitor: Monitor) -> None:
    assert monitor.version() == (2, 1, 1000, 0, 0)


def open_as_nobody() -> int:
    os.setuid(65534)
    return try_to_open()


def open_in_a_user_namespace() -> int:
    namespaces.unshare(["user"])
    return try_to_open()


def try_to_open() -> int:
    try:
        os.close(os.open(DEVICE, os.O_RDWR))
    except OSError as error:
        return error.errno or 0
    return 0


def test_who_may_not_open_it(module: None) -> None:  # noqa: ARG001
    assert in_child(open_as_nobody) == errno.EACCES
    assert in_child(open_in_a_user_namespace) in (errno.EACCES, errno.EPERM)


def test_root_without_the_capability_may_not_open_it(module: None) -> None:  # noqa: ARG001
    def without() -> int:
        libc.set_capabilities(1 << 1, 1 << 1, 0)  # CAP_DAC_OVERRIDE alone
        return try_to_open()

    assert in_child(without) == errno.EPERM


def test_errors_of_register(monitor: Monitor, hog: Contained) -> None:
    monitor.register(1, hog.pid, "first")
    with raises(errno.EEXIST):
        monitor.register(1, hog.pid, "same-key")
    with raises(errno.EBUSY):
        monitor.register(2, hog.pid, "same-namespace")
    for nobody in (0, -1, -(2**31)):
        with raises(errno.EINVAL):
            monitor.register(2, nobody, "nobody")
    with raises(errno.ESRCH):
        monitor.register(2, 2**22 + 1, "no-such-process")
    with raises(errno.ESRCH):
        monitor.register(2, 2, "kernel-thread")
    for ours in (1, os.getpid()):
        with raises(errno.EXDEV):
            monitor.register(2, ours, "the-whole-machine")
    with raises(errno.EINVAL):
        monitor.register(0, hog.pid, "no-key")
    with raises(errno.EINVAL):
        monitor.register(2, hog.pid, "soft-above-hard", 2 * MIB, MIB)
    assert monitor.version().registrations == 1


@pytest.mark.parametrize("name", ["", "two words", "line\nbreak", "\x1b[31m", "\xe9", "x" * 136])
def test_a_name_that_would_spoil_the_log_is_refused(monitor: Monitor, hog: Contained, name: str) -> None:
    with raises(errno.EINVAL):
        monitor.register(1, hog.pid, name)


def test_the_longest_name(monitor: Monitor, hog: Contained) -> None:
    monitor.register(1, hog.pid, "x" * container_monitor.ID_MAX)
    assert monitor.status(1).id == "x" * 135


def test_another_process_of_a_namespace_is_refused(monitor: Monitor) -> None:
    with Contained("fork", 1, "pause") as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        wait_until(children.read_text)
        with raises(errno.EXDEV):
            monitor.register(1, int(children.read_text()), "second")


def test_unknown_flags_and_reserved_fields_are_refused(monitor: Monitor, hog: Contained) -> None:
    register = struct.pack("=iIQQQ136s", hog.pid, 1, 5, 0, 0, b"x")
    trailing = struct.pack("=iIQQQ136s", hog.pid, 0, 5, 0, 0, b"x\0y")
    update_flags = struct.pack("=IIQQQ", 1, 0, 5, 0, 0)
    update_reserved = struct.pack("=IIQQQ", 0, 1, 5, 0, 0)
    size = container_monitor.SIZES["status"]
    stat_flags = struct.pack("=QI", 5, 2) + bytes(size - 12)
    stat_rest = struct.pack("=QI", 5, 0) + bytes(size - 13) + b"\1"
    remove_next = struct.pack("=QI", 4, 1) + bytes(size - 12)
    monitor.register(5, hog.pid, "whole")
    for request, argument in (
        (container_monitor.REGISTER, register),
        (container_monitor.REGISTER, trailing),
        (container_monitor.UPDATE, update_flags),
        (container_monitor.UPDATE, update_reserved),
        (container_monitor.STAT, stat_flags),
        (container_monitor.STAT, stat_rest),
        (container_monitor.UNREGISTER, remove_next),
    ):
        with raises(errno.EINVAL):
            fcntl.ioctl(monitor.fileno(), request, argument)
    assert monitor.version().registrations == 1


def test_unknown_calls_and_bad_addresses(monitor: Monitor) -> None:
    for request in (0, 0xCB05, container_monitor.STAT ^ (1 << 30), container_monitor.STAT ^ (1 << 8), 0xFFFFFFFF):
        with raises(errno.ENOTTY):
            fcntl.ioctl(monitor.fileno(), request, bytes(300))
    for request in (container_monitor.REGISTER, container_monitor.STAT, container_monitor.GET_VERSION):
        with raises(errno.EFAULT):
            fcntl.ioctl(monitor.fileno(), request, 16)


CALLS = {
    "version": container_monitor.GET_VERSION,
    "register": container_monitor.REGISTER,
    "update": container_monitor.UPDATE,
    "status": container_monitor.STAT,
}


def of_size(name: str, size: int) -> int:
    """The call as a program does that knows a structure of that size."""
    return CALLS[name] & ~(0x3FFF << 16) | size << 16


def test_a_younger_caller_s_structures(monitor: Monitor, hog: Contained) -> None:
    """They are longer. What the module does not know must be zero, and comes back so."""
    sizes = container_monitor.SIZES
    requests = {
        "version": b"",
        "register": struct.pack("=iIQQQ136s", hog.pid, 0, 5, 0, 0, b"younger"),
        "update": struct.pack("=IIQQQ", 0, 0, 5, 0, MIB << 10),
        "status": struct.pack("=QI", 5, 0),
    }
    for name, request in requests.items():
        size = sizes[name]
        if name != "version":  # which takes nothing in
            for at in (size, size + 63):
                spoilt = bytearray(request.ljust(size + 64, b"\0"))
                spoilt[at] = 1
                with raises(errno.E2BIG):
                    fcntl.ioctl(monitor.fileno(), of_size(name, size + 64), bytes(spoilt))
        got = fcntl.ioctl(monitor.fileno(), of_size(name, size + 64), request.ljust(size + 64, b"\0"))
        assert got[size:] == bytes(64), name
    got = fcntl.ioctl(monitor.fileno(), of_size("version", 88), b"\xff" * 88)
    assert got[:4] == struct.pack("=I", container_monitor.VERSION)
    assert got[24:] == bytes(64)
    assert monitor.status(5)[4:6] == (0, MIB << 10)
    assert monitor.status(5).id == "younger"


def test_a_structure_shorter_than_the_first_is_refused(monitor: Monitor, hog: Contained) -> None:
    monitor.register(5, hog.pid, "whole")
    for name, size in container_monitor.SIZES.items():
        for shorter in (0, size - 1):
            if name in CALLS:
                with raises(errno.EINVAL):
                    fcntl.ioctl(monitor.fileno(), of_size(name, shorter), bytes(300))
    assert monitor.version().registrations == 1


def test_a_record_says_how_long_it_is(monitor: Monitor, hog: Contained) -> None:
    monitor.register(1, hog.pid, "sized", 4 * MIB, 8 * MIB)
    hog.go()
    hog.wait()
    raw = os.read(monitor.fileno(), 4096)
    size = container_monitor.SIZES["event"]
    assert [struct.unpack_from("=II", raw, at) for at in range(0, len(raw), size)] == [
        (size, RecordType.SOFT),
        (size, RecordType.HARD),
    ]
    longer = [raw[at : at + size].replace(struct.pack("=I", size), struct.pack("=I", size + 16), 1) for at in (0, size)]
    assert [record.type for record in container_monitor.records(b"".join(each + bytes(16) for each in longer))] == [
        RecordType.SOFT,
        RecordType.HARD,
    ]


def test_what_is_not_registered(monitor: Monitor, hog: Contained) -> None:
    for call in (lambda: monitor.update(9, 0, 0), lambda: monitor.status(9), lambda: monitor.unregister(9)):
        with raises(errno.ENOENT):
            call()
    monitor.register(3, hog.pid, "third")
    other = Monitor.open()
    with raises(errno.ENOENT):  # keys are an open file's own
        other.status(3)
    other.register(3, hog.pid, "twice")
    other.close()
    assert monitor.status(3).id == "third"


def test_registrations_can_be_listed(monitor: Monitor) -> None:
    with contextlib.ExitStack() as hogs:
        for key in (30, 10, 2**64 - 1, 20):
            monitor.register(key, hogs.enter_context(Contained("pause")).pid, f"key-{key}")
        found, key = [], 0
        while (status := monitor.next(key)) is not None:
            key = status.key
            found.append(key)
    assert found == [10, 20, 30, 2**64 - 1]


def test_the_last_descriptor_takes_the_watch_along(module: None, hog: Contained) -> None:  # noqa: ARG001
    first = Monitor.open()
    first.register(1, hog.pid, "kept", 4 * MIB, 128 * MIB)
    second = Monitor(os.dup(first.fileno()))
    first.close()
    hog.go()
    (soft,) = records(second, 1)
    assert soft.type == RecordType.SOFT
    second.update(1, 0, 96 * MIB)
    second.close()
    unwatched = Monitor.open()
    assert unwatched.next(0) is None
    unwatched.close()
    assert hog.is_running()


def test_a_dead_owner_s_records_wait_for_who_keeps_the_descriptor(monitor: Monitor, hog: Contained) -> None:
    child = os.fork()
    if child == 0:
        monitor.register(1, hog.pid, "orphaned", 4 * MIB, 8 * MIB)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    hog.go()
    assert hog.wait() == -signal.SIGKILL
    assert [record.type for record in records(monitor, 2)] == [RecordType.SOFT, RecordType.HARD]


def test_reading(monitor: Monitor, hog: Contained) -> None:
    size = container_monitor.SIZES["event"]
    with raises(errno.EAGAIN):
        os.read(monitor.fileno(), size)
    with raises(errno.EINVAL):
        os.read(monitor.fileno(), size - 1)
    assert readable([monitor.fileno()]) == set()
    monitor.register(1, hog.pid, "read", 4 * MIB, 8 * MIB)
    hog.go()
    hog.wait()
    wait_until(lambda: monitor.status(1).state & MonitorState.ENDED)
    assert readable([monitor.fileno()]) == {monitor.fileno()}
    with raises(errno.EFAULT):
        libc_read(monitor.fileno(), 16, 4096)
    assert len(os.read(monitor.fileno(), 2 * size - 1)) == size  # whole records only
    assert len(os.read(monitor.fileno(), 4096)) == size
    with raises(errno.EAGAIN):
        os.read(monitor.fileno(), size)


def libc_read(descriptor: int, address: int, size: int) -> None:
    """read(2) to an address of no mapping."""
    import ctypes  # noqa: PLC0415  # the tests' own, not the package's

    if ctypes.CDLL(None, use_errno=True).read(descriptor, ctypes.c_void_p(address), size) < 0:
        raise OSError(ctypes.get_errno(), "read")


def test_a_blocked_reader_is_woken(module: None, hog: Contained) -> None:  # noqa: ARG001
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(os.read(descriptor, 4096)))
    reader.start()
    Monitor(descriptor).register(1, hog.pid, "awaited", 4 * MIB)
    hog.go()
    reader.join(PATIENCE)
    assert len(got[0]) == container_monitor.SIZES["event"]
    os.close(descriptor)


def test_a_later_record_takes_the_place_of_an_unread_one(monitor: Monitor, hog: Contained) -> None:
    hog.go()
    wait_until(lambda: hog.resident() > 24 * MIB)
    with Contained("pause") as other:
        monitor.register(2, other.pid, "first", 4096)
        wait_until(lambda: readable([monitor.fileno()]))
        monitor.register(1, hog.pid, "chatty", 4 * MIB)
        deadline = time.monotonic() + PATIENCE
        limit = 0
        while monitor.version().dropped < 10:  # each new limit is crossed at once
            assert time.monotonic() < deadline
            limit += 1
            monitor.update(1, 4 * MIB + limit, 0)
        dropped = monitor.version().dropped
        first, last = monitor.read()[:2]
        assert (first.key, first.type, first.limit_bytes) == (2, RecordType.SOFT, 4096)
        assert (last.key, last.type) == (1, RecordType.SOFT)
        assert last.limit_bytes > 4 * MIB + 10
        assert last.dropped >= dropped


def test_records_of_what_was_removed_are_gone(monitor: Monitor, hog: Contained) -> None:
    monitor.register(1, hog.pid, "removed", 4 * MIB)
    hog.go()
    wait_until(lambda: readable([monitor.fileno()]))
    monitor.unregister(1)
    assert readable([monitor.fileno()]) == set()
    assert monitor.version().dropped == 0
    monitor.register(1, hog.pid, "anew", 4 * MIB)
    assert [record.type for record in records(monitor, 1)] == [RecordType.SOFT]


def test_the_module_stays_while_it_is_open(monitor: Monitor) -> None:  # noqa: ARG001
    with raises(errno.EWOULDBLOCK):
        rmmod()


def test_before_its_first_execve_a_process_is_not_counted(monitor: Monitor) -> None:
    """What is parked there is a copy of the engine, and so is an init of the engine's own."""
    reader, writer = os.pipe()
    pid, pidfd = namespaces.fork_into(["pid"])
    if pid == 0:
        kept = bytearray(os.urandom(4096)) * 4096
        os.read(reader, 1)
        if os.fork() == 0:
            os.execv("/wherry/build/vm/grow", ["grow", "touch", "24576", "pause"])
        os.wait()
        os._exit(len(kept) & 1)
    monitor.register(1, pid, "parked", 0, 8 * MIB)
    assert monitor.status(1)[2:4] == (0, 0)
    assert not readable([pidfd], 1.5)  # a check has come by
    os.write(writer, b".")
    assert readable([pidfd], PATIENCE)
    os.waitpid(pid, 0)
    (hard,) = records(monitor, 1)
    assert (hard.type, hard.processes, hard.comm) == (RecordType.HARD, 1, "grow")
    for descriptor in (reader, writer, pidfd):
        os.close(descriptor)


def test_five_hundred_containers(monitor: Monitor) -> None:
    with Contained("fork", 500, "nest", "exec", "touch", 100, "pause") as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        wait_until(lambda: len(children.read_text().split()) == 500)
        wait_until(lambda: len(first_processes()) == 501)
        pids = [pid for pid in first_processes() if pid != parent.pid]
        for key, pid in enumerate(pids, start=1):
            monitor.register(key, pid, f"container-{key}", 2 * MIB, 8 * MIB)
        assert monitor.version().registrations == 500
        before = monitor.status(500).scans
        wait_until(lambda: monitor.status(500).scans >= before + 4)  # they are all checked, every second
        assert monitor.read() == []
        monitor.update(250, 0, 4096)
        (hard,) = records(monitor, 1)
        assert (hard.key, hard.pid) == (250, pids[249])
    for key in range(1, 501):
        wait_until(partial(has_ended, monitor, key))
        monitor.unregister(key)
    assert monitor.version().registrations == 0


def has_ended(monitor: Monitor, key: int) -> bool:
    return MonitorState.ENDED in monitor.status(key).state


def first_processes() -> list[int]:
    """Host pids of the first processes of pid namespaces below ours."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            (numbers,) = [line.split()[1:] for line in path.read_text().splitlines() if line.startswith("NSpid:")]
            if len(numbers) > 1 and numbers[-1] == "1":
                found.append(int(numbers[0]))
    return sorted(found)
