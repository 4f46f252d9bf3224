"""One contract, whatever the enforcer: each case of ``contract`` is carried out and compared with its promise.

The enforcers are those of this machine; a guest names others (tests/vm/test_engine.py). No case depends on how fast
the machine is: the workloads wait for a word between two steps.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tests.root.memory.contained import GROW, HOSTILE, KINDS, MIB, Contained, Enforced, enforced_by, write_from_outside
from tests.root.memory.contract import ENDS, TELLS, Promise
from tests.waiting import wait_until

from wherry.memory import Kind, Limits, MemoryEvent, bpf, bpf_layout
from wherry.memory.bpf_object import BpfObject

pytestmark = pytest.mark.root

ENFORCERS = os.environ.get("WHERRY_ENFORCERS", "bpf cgroup").split()
HARD = Limits(hard_bytes=32 * MIB)
SOFT = Limits(soft_bytes=16 * MIB)


@pytest.fixture(params=ENFORCERS)
def enforced(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Enforced]:
    with enforced_by(request.param, tmp_path) as made:
        yield made


def check_end(enforced: Enforced, case: str, contained: Contained) -> MemoryEvent | None:
    """That it ends as promised, from when the crossing is under way; returns the event."""
    promise = ENDS[case].promised(enforced.column)
    if promise is Promise.LIVES:
        contained.wait_for_words("done")
        assert Kind.HARD not in contained.kinds()
        assert not contained.has_ended()
        return None
    if promise is Promise.ALL or ENDS[case].grows_on:
        wait_until(contained.has_ended)  # and nobody has read anything
        assert contained.group.inner.processes() == []
    hard = contained.wait_for(Kind.HARD)
    if promise is Promise.CROSSER:
        assert hard.pid > 0
        wait_until(lambda: not is_running(hard.pid))
    if promise is Promise.VICTIM:
        wait_until(lambda: contained.oom_kills() > 0)  # which is counted a moment after it is told
    contained.kill()
    wait_until(contained.has_ended)
    assert contained.kinds().count(Kind.HARD) == 1
    verdict = enforced.limiter.disarm(contained.id)
    assert verdict.hard is not None
    assert (verdict.hard.monotonic_ns, verdict.hard.limit_bytes) == (hard.monotonic_ns, hard.limit_bytes)
    return hard


def is_running(pid: int) -> bool:
    """Not dead, and not about to be: a process that is killed is a zombie until its parent looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


COMMANDS = {
    "anonymous": (KINDS, "anonymous", "64", "1"),
    "shared": (KINDS, "shared", "64", "1"),
    "clone_vm": (HOSTILE, "share", "64", "8"),
    "vfork": (HOSTILE, "vfork", "64", "8"),
    "exiting": (HOSTILE, "exiting", "28", "8"),
    "memfd": (KINDS, "memfd", "64", "1"),
    "tmpfs": (KINDS, "tmpfs", "64", "1"),
    "page_tables": (KINDS, "tables", "64", "1"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_memory_of_every_kind(enforced: Enforced, case: str) -> None:
    contained = enforced.start(HARD, *COMMANDS[case])
    hard = check_end(enforced, case, contained)
    assert hard is None or hard.limit_bytes == 32 * MIB


def test_threads_by_the_thousand(enforced: Enforced) -> None:
    contained = enforced.start(Limits(hard_bytes=64 * MIB), HOSTILE, "threads", "1000", "32")
    contained.wait_for_words("are there")
    assert contained.kinds() == []
    contained.word()
    check_end(enforced, "threads", contained)


def test_a_storm_of_children(enforced: Enforced) -> None:
    contained = enforced.start(Limits(hard_bytes=1 << 30), HOSTILE, "children", "300", "25")
    contained.wait_for_words("are there")
    enforced.limiter.update(contained.id, Limits(hard_bytes=contained.usage() + 10 * MIB))
    assert contained.kinds() == []
    contained.word()
    check_end(enforced, "fork_storm", contained)


def test_a_write_from_outside(enforced: Enforced) -> None:
    contained = enforced.start(HARD, KINDS, "room", "64", "1")
    contained.wait_for_words("room")
    write_from_outside(contained.pid, int(contained.said().split()[1]), 64 * MIB)
    check_end(enforced, "remote_write", contained)


def test_huge_pages(enforced: Enforced, huge_pages: None) -> None:  # noqa: ARG001  # it allows them
    contained = enforced.start(HARD, KINDS, "hugetlb", "64", "1")
    check_end(enforced, "hugetlb", contained)


@pytest.mark.host_variant
def test_swapped_memory(enforced: Enforced, swap: None) -> None:  # noqa: ARG001  # there is some
    contained = enforced.start(HARD, KINDS, "pageout", "16", "4")
    check_end(enforced, "swap", contained)


def test_a_lower_limit_for_one_that_is_idle(enforced: Enforced) -> None:
    contained = enforced.start(Limits(hard_bytes=128 * MIB), HOSTILE, "step", "40", "100")
    contained.wait_for_words("held")
    if ENDS["lowered_idle"].promised(enforced.column) is Promise.REFUSED:
        with pytest.raises(OSError, match="busy"):
            enforced.limiter.update(contained.id, Limits(hard_bytes=16 * MIB))
        assert contained.kinds() == []
        contained.word()
        assert contained.wait_for(Kind.HARD).limit_bytes == 128 * MIB
        return
    enforced.limiter.update(contained.id, Limits(hard_bytes=16 * MIB))
    hard = check_end(enforced, "lowered_idle", contained)
    assert hard is not None
    assert hard.limit_bytes == 16 * MIB


def test_lower_and_lower_limits_for_one_that_grows(enforced: Enforced) -> None:
    contained = enforced.start(Limits(hard_bytes=1 << 30), HOSTILE, "grow", "20", "1")
    contained.wait_for_words("held")
    asked = [1 << 30]
    for _ in range(5):
        asked.append(contained.usage() + 8 * MIB)
        try:
            enforced.limiter.update(contained.id, Limits(hard_bytes=asked[-1]))
        except OSError:  # it has grown past that meanwhile, and version 1 refuses; or it has just ended
            asked.pop()
        if contained.has_ended():
            break
    hard = check_end(enforced, "lowered_growing", contained)
    assert hard is not None
    assert hard.limit_bytes // 4096 * 4096 == asked[-1] // 4096 * 4096


def test_a_higher_limit_holds_as_well(enforced: Enforced) -> None:
    contained = enforced.start(Limits(hard_bytes=48 * MIB), HOSTILE, "step", "40", "60")
    contained.wait_for_words("held")
    enforced.limiter.update(contained.id, Limits(hard_bytes=128 * MIB))
    contained.word()
    contained.wait_for_words("held", 2)
    assert contained.kinds() == []
    contained.word()
    hard = check_end(enforced, "raised", contained)
    assert hard is not None
    assert hard.limit_bytes == 128 * MIB


@pytest.fixture
def small_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What bpf has room for; the others have no such tables, or let them grow."""
    load_maps = BpfObject.load_maps

    def load(self: BpfObject, constants: dict[str, int | bytes], entries: dict[str, int]) -> None:
        self.layouts["events"] = self.layouts["events"]._replace(entries=4096)
        load_maps(self, constants, entries)

    monkeypatch.setattr(BpfObject, "load_maps", load)
    monkeypatch.setattr(bpf, "_most_processes", lambda: 8)


def test_a_full_map(small_maps: None, enforced: Enforced) -> None:  # noqa: ARG001  # before it is opened
    crowd = enforced.start(Limits(soft_bytes=1 << 30), HOSTILE, "children", "16", "1")
    crowd.wait_for_words("are there")
    contained = enforced.start(HARD, KINDS, "anonymous", "64", "1")
    check_end(enforced, "full_map", contained)


def test_a_refused_second_watch(enforced: Enforced) -> None:
    contained = enforced.start(HARD, HOSTILE, "step", "8", "64")
    contained.wait_for_words("held")
    for again in (contained.target, contained.target._replace(container_id="f" * 64)):
        with pytest.raises(OSError, match=r"exists|busy"):
            enforced.limiter.arm(again, HARD)
    contained.word()
    check_end(enforced, "refused_arm", contained)


def test_without_a_shim(enforced: Enforced) -> None:
    contained = enforced.start(HARD, HOSTILE, "step", "8", "64")
    contained.wait_for_words("held")
    contained.close_kept()
    contained.word()
    check_end(enforced, "shim_dead", contained)


def kept_of(enforced: Enforced) -> dict[str, int]:
    return {name: os.dup(descriptor) for name, descriptor in enforced.limiter.descriptors().items()}


def close_all(kept: dict[str, int]) -> None:
    for descriptor in kept.values():
        os.close(descriptor)


@pytest.mark.parametrize("reads", [True, False], ids=["read before", "unread"])
def test_without_a_supervisor(enforced: Enforced, reads: bool) -> None:
    """The crossing may even have been read already: by a supervisor that died before it acted."""
    contained = enforced.start(HARD, HOSTILE, "step", "8", "64")
    contained.wait_for_words("held")
    kept = kept_of(enforced)
    if not reads:
        enforced.die()
    contained.word()
    wait_until(contained.has_ended)
    if reads:
        wait_until(enforced.limiter.read)
        enforced.die()
    enforced.open_another(kept)
    close_all(kept)
    enforced.take_over(HARD, contained)
    check_end(enforced, "supervisor_dead", contained)


def test_with_neither(enforced: Enforced) -> None:
    """Nothing of bpf and kmod is left then. The next supervisor finds out whether it has come too late."""
    contained = enforced.start(HARD, HOSTILE, "step", "20", "64")
    contained.wait_for_words("held")
    enforced.die()
    contained.close_kept()
    contained.word()
    if ENDS["neither"].promised(enforced.column) is Promise.UNHELD:
        wait_until(lambda: contained.said().count("held") == 2)
        assert not contained.has_ended()
        enforced.open_another({})
        enforced.take_over(HARD, contained)
        check_end(enforced, "too_late", contained)
    else:
        wait_until(contained.has_ended)
        wait_until(lambda: contained.oom_kills() > 0)


@pytest.mark.parametrize("case", ["both_dead", "other_layout"])
def test_a_supervisor_that_begins_anew(enforced: Enforced, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what is kept is of use to it: all is armed anew, from what the containers are now."""
    contained = enforced.start(HARD, HOSTILE, "step", "20", "64")
    idle = enforced.start(HARD, HOSTILE, "step", "8", "64")
    for each in (contained, idle):
        each.wait_for_words("held")
    kept = {}
    if case == "other_layout":
        kept = kept_of(enforced)
        monkeypatch.setattr(bpf_layout, "VERSION", bpf_layout.VERSION + 1)
        monkeypatch.setattr(bpf, "_PREFIX", f"bpf{bpf_layout.VERSION}-")
    enforced.die()
    for each in (contained, idle):
        if case == "both_dead":
            each.close_kept()
    enforced.open_another(kept)
    enforced.take_over(HARD, contained, idle)
    close_all(kept)
    contained.word()
    check_end(enforced, case, contained)
    assert Kind.HARD not in idle.kinds()
    assert not idle.has_ended()


# What is told.


def test_once_per_crossing(enforced: Enforced) -> None:
    rounds = 3
    contained = enforced.start(SOFT, KINDS, "tide", "24", str(rounds))
    contained.wait_for_words("ready")
    for number in range(1, rounds + 1):
        contained.word()
        contained.wait_for(Kind.SOFT, number)
        contained.wait_for_words("up", number)
        contained.word()
        contained.wait_for(Kind.SOFT_CLEARED, number)
        contained.wait_for_words("down", number)
    assert TELLS["once"].promised(enforced.column) is Promise.ONCE
    assert contained.kinds() == [Kind.SOFT, Kind.SOFT_CLEARED] * rounds
    told = [event for event in contained.events() if event.kind is Kind.SOFT]
    assert all(event.rss_bytes >= event.limit_bytes == 16 * MIB for event in told)
    assert all(later.monotonic_ns - earlier.monotonic_ns >= 50_000_000 for earlier, later in pairwise(told))
    ups = [tuple(map(int, line.split()[1:])) for line in contained.said().splitlines() if line.startswith("up")]
    # The first crossing; later ones may be told when they have lasted.
    before, after = ups[0]
    assert before <= told[0].monotonic_ns
    if TELLS["instant"].promised(enforced.column) is Promise.IN_THE_FAULT:
        assert told[0].monotonic_ns <= after


def test_flap_then_flat(enforced: Enforced) -> None:
    contained = enforced.start(SOFT, HOSTILE, "flap", "24", "8")
    contained.wait_for_words("again")
    wait_until(lambda: contained.kinds()[-1:] == [Kind.SOFT])
    assert TELLS["flap"].promised(enforced.column) is Promise.ALWAYS
    assert contained.kinds() in ([Kind.SOFT], [Kind.SOFT, Kind.SOFT_CLEARED, Kind.SOFT])


def test_a_new_soft_limit_is_a_new_crossing(enforced: Enforced) -> None:
    contained = enforced.start(Limits(soft_bytes=8 * MIB), HOSTILE, "step", "20", "60")
    assert contained.wait_for(Kind.SOFT).limit_bytes == 8 * MIB
    contained.wait_for_words("held")
    enforced.limiter.update(contained.id, Limits(soft_bytes=48 * MIB))
    contained.word()
    contained.wait_for_words("held", 2)
    wait_until(lambda: [event.limit_bytes for event in contained.events() if event.kind is Kind.SOFT][1:] == [48 * MIB])
    enforced.limiter.update(contained.id, Limits(soft_bytes=24 * MIB))  # of which it is above, and idle
    wait_until(lambda: [event.limit_bytes for event in contained.events() if event.kind is Kind.SOFT][2:] == [24 * MIB])
    assert TELLS["new_limit"].promised(enforced.column) is Promise.ALWAYS


def test_a_full_ring(small_maps: None, enforced: Enforced) -> None:  # noqa: ARG001  # before it is opened
    """One container goes up and down, and nobody reads: what others do is told all the same."""
    flapping = enforced.start(SOFT, KINDS, "waves", "24", "30")
    wait_until(lambda: "done" in flapping.said() or enforced.limiter.name == "cgroup")
    other = enforced.start(SOFT, KINDS, "anonymous", "24", "1")
    third = enforced.start(HARD, KINDS, "anonymous", "64", "1")
    wait_until(third.has_ended)
    other.wait_for(Kind.SOFT)
    assert flapping.kinds()[0] is Kind.SOFT
    assert third.wait_for(Kind.HARD).limit_bytes == 32 * MIB
    flapping.wait_for_words("done")
    wait_until(lambda: flapping.kinds()[-1] is Kind.SOFT_CLEARED)
    assert TELLS["full_ring"].promised(enforced.column) is Promise.ALWAYS


def test_an_unread_crossing_outlives_the_supervisor(enforced: Enforced) -> None:
    contained = enforced.start(SOFT, KINDS, "tide", "24", "1")
    contained.wait_for_words("ready")
    kept = kept_of(enforced)
    contained.word()
    wait_until(lambda: contained.usage() >= 15 * MIB)  # version 2 holds it back there
    enforced.die()
    enforced.open_another(kept)
    close_all(kept)
    enforced.take_over(SOFT, contained)
    contained.wait_for(Kind.SOFT)
    contained.wait_for_words("up")
    assert contained.kinds() == [Kind.SOFT]
    assert TELLS["unread"].promised(enforced.column) is Promise.ALWAYS


def test_short_processes(enforced: Enforced) -> None:
    contained = enforced.start(Limits(256 * MIB, 512 * MIB), GROW, "storm", "0", "300")
    contained.wait_for_words("300 processes")
    assert TELLS["short_processes"].promised(enforced.column) is Promise.ALWAYS
    wait_until(lambda: enforced.limiter.stat(contained.id).processes in (1, None))
    assert contained.usage() < 16 * MIB
    assert contained.kinds() == []
    os.kill(contained.pid, signal.SIGKILL)


def test_every_case_is_carried_out() -> None:
    """Each name in the table is one that a test here asks for."""
    text = Path(__file__).read_text()
    assert [name for name in (*ENDS, *TELLS) if f'"{name}"' not in text] == []
