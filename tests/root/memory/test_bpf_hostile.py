"""The BPF enforcer against who tries to get past it, or to wear it out; nobody reads events unless a test says so.

Some of these run in guests with other kernels as well (tests/vm/test_engine.py), where up to Linux 6.1 a thread has 64
page faults that nobody sees yet.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from collections.abc import Callable, Iterator

import pytest
from tests.root.memory.armed import (
    GROW,
    HOSTILE,
    MIB,
    PAGE,
    Arm,
    Armed,
    check_nothing_left,
    links_of,
    sleeps,
    waits_for_word,
)
from tests.waiting import wait_until

from wherry.kernel import bpf as bpf_calls
from wherry.kernel.polling import readable
from wherry.memory import Host, Kind, Limits, bpf
from wherry.memory import bpf_layout as layout
from wherry.memory.bpf import BpfLimiter
from wherry.memory.bpf_object import BpfObject

pytestmark = pytest.mark.root

KILLED = (os.CLD_KILLED, signal.SIGKILL)
Open = Callable[..., BpfLimiter]


@pytest.fixture
def opened(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A limiter whose maps have other sizes; ``believed`` is the size of "mms" that the program is told."""
    made: list[BpfLimiter] = []

    def open_it(believed: int = 0, **entries: int) -> BpfLimiter:
        load = BpfObject.load_maps

        def load_maps(self: BpfObject, constants: dict[str, int | bytes], sizes: dict[str, int]) -> None:
            for name, count in entries.items():
                self.layouts[name] = self.layouts[name]._replace(entries=count)
            most = believed or entries.get("mms", sizes["mms"])
            load(self, {**constants, "most_processes": most}, {**sizes, **entries})

        with monkeypatch.context() as patch:
            patch.setattr(BpfObject, "load_maps", load_maps)
            made.append(bpf.open_limiter(host, {}))
        return made[-1]

    yield open_it
    for limiter in made:
        limiter.close()


def held(armed: Armed) -> int:
    return armed.limiter.stat(armed.id).rss_bytes


def go_on(armed: Armed) -> None:
    """A word that the workload waits for."""
    signal.pidfd_send_signal(armed.pidfd, signal.SIGUSR1)


def kinds_without_looking(armed: Armed) -> list[Kind]:
    """What is told when nobody asks before the descriptor polls readable."""
    if readable([armed.limiter.fileno()], 0):
        armed.read()
    return [event.kind for event in armed.events]


def holds(armed: Armed, mib: int) -> bool:
    """It has touched that much, and a little for itself: its own pages are less than 4 MiB."""
    return mib * MIB <= held(armed) < (mib + 4) * MIB


# Who is killed.


@pytest.mark.parametrize("mode", ["share", "vfork"])
def test_every_process_of_an_address_space_dies(limiter: BpfLimiter, arm: Arm, mode: str) -> None:
    """The child crosses and dies of it; its parent, who has the same memory, goes on with 200 MiB more."""
    armed = arm(Limits(hard_bytes=32 * MIB), HOSTILE, mode, "64", "200")
    armed.go()
    assert armed.ended() == KILLED
    assert 32 * MIB <= limiter.stat(armed.id).peak_bytes <= 33 * MIB
    assert armed.wait_for(Kind.HARD).pid != armed.pid
    check_nothing_left(limiter, armed)


def test_a_thread_that_cannot_be_killed_any_more_saves_nobody(limiter: BpfLimiter, arm: Arm) -> None:
    """It crosses when it has begun to exit, where the kernel refuses the signal; it has 8 MiB to go there."""
    armed = arm(Limits(hard_bytes=32 * MIB), HOSTILE, "exiting", "27", "200")
    armed.go()
    assert armed.ended() == KILLED
    assert 32 * MIB <= limiter.stat(armed.id).peak_bytes < 40 * MIB
    check_nothing_left(limiter, armed)


# Who finds no room.


@pytest.mark.parametrize("believed", [8, 1000], ids=["by its share", "by the map"])
def test_without_room_who_has_a_hard_limit_dies(opened: Open, arm: Arm, believed: int) -> None:
    small = opened(mms=8, believed=believed)
    armed = arm(Limits(hard_bytes=512 * MIB), HOSTILE, "children", "30", "0", by=small)
    armed.go()
    # Its first process forks, and dies of the first child for which there is no room.
    assert armed.ended() == KILLED
    found = armed.wait_for(Kind.HARD)
    assert (found.detail, found.limit_bytes) == ("uncounted", 512 * MIB)
    assert found.rss_bytes < 512 * MIB
    verdict = small.disarm(armed.id)
    assert verdict.hard is not None
    assert verdict.hard.detail == "uncounted"


def test_without_room_who_has_none_is_let_through_and_says_so(opened: Open, arm: Arm) -> None:
    small = opened(mms=8)
    armed = arm(Limits(soft_bytes=8 * MIB), HOSTILE, "children", "30", "700", by=small)
    armed.go()
    wait_until(lambda: len(armed.processes()) == 31)
    wait_until(lambda: small.stat(armed.id).uncounted == 27)
    assert small.stat(armed.id).processes == 4  # no more than are left for others
    go_on(armed)
    wait_until(lambda: armed.resident() > 30 * 700 * PAGE)
    assert armed.wait_for(Kind.SOFT).detail == "uncounted"
    # A process is counted once among those that are not, however many pages it touches.
    assert (small.stat(armed.id).uncounted, small.dropped()) == (27, 27)


def test_one_container_leaves_room_for_the_others(opened: Open, arm: Arm) -> None:
    """It would fill the map: the others would be without their limits, or die for want of room."""
    small = opened(mms=16)
    greedy = arm(Limits(soft_bytes=1 << 40), HOSTILE, "children", "60", "0", by=small)
    greedy.go()
    wait_until(lambda: len(greedy.processes()) == 61)
    wait_until(lambda: small.stat(greedy.id).uncounted == 61 - 8)
    other = arm(Limits(hard_bytes=32 * MIB), GROW, "pages", "100", "1", by=small)
    other.go()
    assert other.ended() == KILLED
    found = other.wait_for(Kind.HARD)
    assert (found.detail, found.limit_bytes) == ("", 32 * MIB)
    assert 32 * MIB <= found.rss_bytes <= 33 * MIB


# Whose limit it is.


def test_a_refused_second_arm_leaves_the_first_its_limit(limiter: BpfLimiter, arm: Arm) -> None:
    armed = arm(Limits(hard_bytes=32 * MIB), GROW, "pages", "100", "1")
    with pytest.raises(FileExistsError):
        limiter.arm(armed.target._replace(container_id="f" * 64), Limits(hard_bytes=512 * MIB))
    armed.go()
    assert armed.ended() == KILLED
    assert limiter.stat(armed.id).peak_bytes == 32 * MIB
    check_nothing_left(limiter, armed)


def entry_of(armed: Armed) -> tuple[bytes, bytearray]:
    """Key and value in "mms" of a container's only process."""
    (key,) = bpf_calls.keys(armed.limiter._maps["mms"], 8)
    return key, bytearray(bpf_calls.lookup(armed.limiter._maps["mms"], key, layout.MM_BYTES))


def test_an_element_that_is_another_address_spaces_is_not_written_to(limiter: BpfLimiter, arm: Arm) -> None:
    """As when it was deleted and given away after the program had looked it up, on another CPU."""
    armed = arm(Limits(hard_bytes=512 * MIB), HOSTILE, "step", "8", "8")
    armed.go()
    wait_until(lambda: holds(armed, 8) and waits_for_word(armed.pid))
    before, (key, entry) = held(armed), entry_of(armed)
    changed = bytearray(entry)
    struct.pack_into("=Q", changed, layout.MM_KEY, 1)
    bpf_calls.update(limiter._maps["mms"], key, bytes(changed))
    go_on(armed)
    wait_until(lambda: armed.resident() >= before + 8 * MIB)
    assert (held(armed), entry_of(armed)) == (before, (key, changed))
    bpf_calls.update(limiter._maps["mms"], key, bytes(entry))
    go_on(armed)
    wait_until(lambda: holds(armed, 24) and waits_for_word(armed.pid))


def test_an_entry_that_another_container_left_is_not_used(limiter: BpfLimiter, arm: Arm) -> None:
    """As when an address space has ended and nobody has told of it, and the next one has its address."""
    armed = arm(Limits(hard_bytes=512 * MIB), HOSTILE, "step", "8", "8")
    other = arm(Limits(hard_bytes=512 * MIB), "/bin/true")
    armed.go()
    wait_until(lambda: holds(armed, 8) and waits_for_word(armed.pid))
    key, _ = entry_of(armed)
    slot, namespace = limiter._slots[other.id], other.target.inode
    left = struct.pack("=4q4Q4I", 0, 0, 0, 0, *struct.unpack("=Q", key), 0, 0, 0, slot, namespace, 0, 0)
    bpf_calls.update(limiter._maps["mms"], key, left)
    go_on(armed)
    wait_until(lambda: armed.resident() >= 16 * MIB)
    wait_until(lambda: struct.unpack_from("=I", entry_of(armed)[1], layout.MM_SLOT)[0] == limiter._slots[armed.id])
    wait_until(lambda: struct.unpack_from("=q", entry_of(armed)[1], 8)[0] * PAGE >= 16 * MIB)  # anonymous, all of it
    assert held(other) == 0


def test_a_counter_that_has_no_shares_is_what_it_says(limiter: BpfLimiter, arm: Arm) -> None:
    """As posted changes to the kernel would have it for a process with one thread: the pointer is NULL, and what lies
    at a CPU's offset from NULL is not the process's. Here it is the upper half of a kernel address, 0xffff, so that
    it would be seen; counters and pointers of an address space that is not there are read as 0.
    """
    armed = arm(Limits(hard_bytes=512 * MIB), "/bin/true")
    nowhere = 0xFFFFFFFFFFEFF000
    slot, namespace = limiter._slots[armed.id], armed.target.inode
    entry = struct.pack("=4q4Q4I", 0, 0, 0, 0, nowhere, 0, 0, 0, slot, namespace, 1, 0)
    bpf_calls.update(limiter._maps["mms"], struct.pack("=Q", nowhere), entry)
    offsets, own_cpu = limiter._object.offset_of("cpu_offset"), limiter._counter("laundry")
    cpus = len(bpf._possible_cpus())
    struct.pack_into(f"={cpus}Q", limiter._globals, offsets, *[own_cpu + 6] * cpus)
    bpf_calls.run_raw_tracepoint(limiter._programs._programs["rss_stat"], nowhere, 1)
    assert limiter.stat(armed.id)[:2] == (0, 0)


# What is told, and when.


def test_a_crossing_soon_after_the_last_one_is_told_when_it_lasts(arm: Arm) -> None:
    armed = arm(Limits(soft_bytes=32 * MIB), HOSTILE, "flap", "40", "20")
    armed.go()
    wait_until(lambda: kinds_without_looking(armed) == [Kind.SOFT, Kind.SOFT_CLEARED, Kind.SOFT])
    first, _, second = armed.events
    assert second.monotonic_ns - first.monotonic_ns >= 50_000_000
    assert second.rss_bytes >= 32 * MIB


def test_a_new_soft_limit_is_a_new_crossing(limiter: BpfLimiter, arm: Arm) -> None:
    armed = arm(Limits(soft_bytes=8 * MIB), HOSTILE, "step", "20", "20")
    armed.go()
    armed.wait_for(Kind.SOFT)
    wait_until(lambda: holds(armed, 20) and waits_for_word(armed.pid))
    # It sleeps. Too soon after the last one is told later, without anybody's page.
    limiter.update(armed.id, Limits(soft_bytes=16 * MIB))
    wait_until(lambda: kinds_without_looking(armed) == [Kind.SOFT] * 2)
    limiter.update(armed.id, Limits(soft_bytes=32 * MIB))
    wait_until(lambda: kinds_without_looking(armed) == [Kind.SOFT, Kind.SOFT, Kind.SOFT_CLEARED])
    go_on(armed)
    wait_until(lambda: kinds_without_looking(armed)[3:] == [Kind.SOFT])
    assert [event.limit_bytes // MIB for event in armed.events] == [8, 16, 32, 32]
    limiter.update(armed.id, Limits(32 * MIB, 512 * MIB))  # the same soft limit
    wait_until(lambda: (armed.read(), not limiter._looks._due)[1])  # it has looked
    assert len(armed.events) == 4


def test_a_look_for_which_there_was_no_memory_comes_later(
    limiter: BpfLimiter, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = arm(Limits(hard_bytes=512 * MIB), HOSTILE, "step", "40", "1")
    armed.go()
    wait_until(lambda: holds(armed, 40) and waits_for_word(armed.pid))
    real, calls = bpf_calls.run_raw_tracepoint, []

    def failing(program: int, *arguments: int) -> int:
        calls.append(arguments)
        if len(calls) <= 2:
            raise OSError(12, "Cannot allocate memory")
        return real(program, *arguments)

    monkeypatch.setattr(bpf_calls, "run_raw_tracepoint", failing)
    limiter.update(armed.id, Limits(hard_bytes=32 * MIB))
    wait_until(lambda: kinds_without_looking(armed) == [Kind.HARD])
    assert len(calls) == 3


def test_what_found_no_room_in_the_ring_is_told_in_the_end(opened: Open, arm: Arm) -> None:
    small = opened(events=4096)
    flapper = arm(Limits(soft_bytes=32 * MIB), HOSTILE, "storm", "40", "20", by=small)
    flapper.go()
    wait_until(lambda: small._counter("untold") > 0)
    soft = arm(Limits(soft_bytes=32 * MIB), HOSTILE, "step", "100", "1", by=small)
    hard = arm(Limits(hard_bytes=32 * MIB), GROW, "pages", "100", "1", by=small)
    soft.go()
    hard.go()
    assert hard.ended() == KILLED
    wait_until(lambda: holds(soft, 100))
    signal.pidfd_send_signal(flapper.pidfd, signal.SIGKILL)
    flapper.ended()
    told = []

    def is_told(kind: Kind, of: Armed) -> bool:
        if readable([small.fileno()], 0):
            told.extend(small.read())
        return (kind, of.id) in [(event.kind, event.container_id) for event in told]

    wait_until(lambda: is_told(Kind.SOFT, soft))
    wait_until(lambda: is_told(Kind.HARD, hard))
    assert len([event for event in told if event.container_id == soft.id]) == 1
    assert len([event for event in told if event.container_id == hard.id]) == 1
    assert small.dropped() == 0


def test_a_lower_hard_limit_ends_who_has_more(limiter: BpfLimiter, arm: Arm) -> None:
    """It sleeps, and so do its children: none of them will ever touch another page."""
    armed = arm(Limits(hard_bytes=128 * MIB), HOSTILE, "children", "10", "1000")
    armed.go()
    wait_until(lambda: len(armed.processes()) == 11)
    go_on(armed)
    wait_until(lambda: all(sleeps(pid) for pid in armed.processes()))
    assert armed.read() == []
    limiter.update(armed.id, Limits(hard_bytes=16 * MIB))
    assert kinds_without_looking(armed) == [Kind.HARD]
    (event,) = armed.events
    assert (event.pid, event.limit_bytes, event.rss_bytes >= 10 * 1000 * PAGE) == (0, 16 * MIB, True)
    assert limiter.disarm(armed.id).hard is not None


# How it counts on many CPUs, where a sum may wait far from a limit.


@pytest.fixture
def waiting(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[BpfLimiter]:
    monkeypatch.setattr(bpf, "_FEW_CPUS", 0)
    limiter = bpf.open_limiter(host, {})
    yield limiter
    limiter.close()


@pytest.mark.parametrize("words", [("pages", "200", "1"), ("pages", "200", "4"), ("processes", "200", "4")])
def test_a_sum_that_may_wait_does_not_near_a_limit(waiting: BpfLimiter, arm: Arm, words: tuple[str, ...]) -> None:
    armed = arm(Limits(16 * MIB, 64 * MIB), GROW, *words, by=waiting)
    armed.go()
    for event in (armed.wait_for(Kind.SOFT), armed.wait_for(Kind.HARD)):
        assert 0 <= event.rss_bytes - event.limit_bytes <= 64 << 10


def test_a_sum_that_waits_hides_little(waiting: BpfLimiter, arm: Arm) -> None:
    armed = arm(Limits(hard_bytes=1 << 40), GROW, "processes", "64", "8", by=waiting)
    armed.go()
    wait_until(lambda: armed.resident() > 64 * MIB)
    wait_until(lambda: abs(waiting.stat(armed.id).rss_bytes - armed.resident()) <= 9 * bpf._UNSEEN_PAGES * PAGE)


def test_a_machine_with_512_cpus_can_load_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier follows the sum CPU by CPU. Where the shares are is not looked for: they are not there."""
    monkeypatch.setattr(bpf, "_possible_cpus", lambda: list(range(bpf._MAX_CPUS)))
    monkeypatch.setattr(bpf, "_set_up", lambda _: None)
    bpf.open_limiter(host, {}).close()


# When it runs.


def test_nothing_is_attached_while_there_is_nothing_to_watch(
    limiter: BpfLimiter, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (limiter.descriptors(), links_of(os.getpid())) == ({}, 0)
    for _ in range(2):
        monkeypatch.setattr(bpf, "_LINGER_SECONDS", 3600.0)
        armed = arm(Limits(hard_bytes=32 * MIB), GROW, "pages", "100", "1")
        assert links_of(os.getpid()) >= 2
        armed.go()
        assert armed.ended() == KILLED
        limiter.disarm(armed.id)
        limiter.read()
        assert links_of(os.getpid()) >= 2  # the next one may come soon
        monkeypatch.setattr(bpf, "_LINGER_SECONDS", 0.0)
        limiter.read()
        assert limiter.descriptors() == {}  # the shim is to let go first
        assert links_of(os.getpid()) >= 2
        limiter.read()
        assert (limiter.descriptors(), links_of(os.getpid()), limiter.counted()) == ({}, 0, 0)


def test_what_the_shim_has_not_let_go_of_yet_is_used_again(
    limiter: BpfLimiter, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux 6.1 refuses to attach a program a second time."""
    monkeypatch.setattr(bpf, "_LINGER_SECONDS", 0.0)
    first = arm(Limits(hard_bytes=32 * MIB), "/bin/true")
    with contextlib.ExitStack() as undo:
        for descriptor in limiter.descriptors().values():
            undo.callback(os.close, os.dup(descriptor))
        first.go()
        first.ended()
        limiter.disarm(first.id)
        limiter.read()
        assert limiter.descriptors() == {}
        second = arm(Limits(hard_bytes=32 * MIB), GROW, "pages", "100", "1")
        assert limiter.descriptors() != {}
    second.go()
    assert second.ended() == KILLED


def test_it_stays_attached_while_there_is_something(
    limiter: BpfLimiter, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpf, "_LINGER_SECONDS", 0.0)
    first = arm(Limits(hard_bytes=32 * MIB), GROW, "pages", "100", "1")
    second = arm(Limits(hard_bytes=32 * MIB), "/bin/true")
    second.go()
    second.ended()
    limiter.disarm(second.id)
    limiter.read()
    first.go()
    assert first.ended() == KILLED


def test_who_takes_over_can_detach_and_attach_again(host: Host, arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bpf.open_limiter(host, {})
    armed = arm(Limits(hard_bytes=32 * MIB), GROW, "pages", "100", "1", by=first)
    kept = {name: os.dup(descriptor) for name, descriptor in first.descriptors().items()}
    assert len(kept) <= 12
    first.close()
    second = bpf.open_limiter(host, kept)
    for descriptor in kept.values():
        os.close(descriptor)
    try:
        second.adopt(armed.target, Limits(hard_bytes=32 * MIB), armed.kept)
        armed.go()
        assert armed.ended() == KILLED
        second.disarm(armed.id)
        monkeypatch.setattr(bpf, "_LINGER_SECONDS", 0.0)
        second.read()
        second.read()
        assert (second.descriptors(), links_of(os.getpid())) == ({}, 0)
        again = arm(Limits(hard_bytes=32 * MIB), GROW, "pages", "100", "1", by=second)
        again.go()
        assert again.ended() == KILLED
    finally:
        second.close()
