"""Which enforcer is taken: by what it does to a process, and never by what it says of itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from tests.waiting import wait_until

from wherry.kernel import cgroups
from wherry.memory import (
    Host,
    Kind,
    Limits,
    MemoryEvent,
    MemoryLimiter,
    MemoryUsage,
    Target,
    Unusable,
    bpf,
    choice,
    selftest,
)
from wherry.memory.bpf import BpfLimiter
from wherry.memory.cgroup import CgroupLimiter
from wherry.memory.limiter import shares_of_a_cpu

pytestmark = pytest.mark.root


@pytest.fixture
def host() -> Iterator[Host]:
    """Afterwards there is nothing in its group, and no descriptor more than before."""
    host = Host(cgroups.detect(), f"wherry-test-{os.getpid()}")
    group = cgroups.Group(host.layout, host.parent)
    group.create()
    before = len(os.listdir("/proc/self/fd"))
    yield host
    assert cgroups.children(host.layout, host.parent) == []
    assert len(os.listdir("/proc/self/fd")) == before
    wait_until(group.remove)


def broken(**methods: Callable[..., object]) -> Callable[[Host, dict[str, int]], MemoryLimiter]:
    def open_limiter(host: Host, kept: dict[str, int]) -> MemoryLimiter:
        limiter = bpf.open_limiter(host, kept)
        limiter.__class__ = type("Broken", (BpfLimiter,), methods)
        return limiter

    return open_limiter


def without(kind: Kind) -> Callable[[BpfLimiter], list[MemoryEvent]]:
    return lambda self: [event for event in BpfLimiter.read(self) if event.kind is not kind]


def no_hard_limit(self: BpfLimiter, target: Target, limits: Limits) -> dict[str, int]:
    return BpfLimiter.arm(self, target, limits._replace(hard_bytes=None))


def refusing(_self: BpfLimiter, _target: Target, _limits: Limits) -> dict[str, int]:
    raise OSError(28, "No space left on device")


def scaled(factor: float, less: int = 0) -> Callable[[BpfLimiter, str], MemoryUsage]:
    def stat(self: BpfLimiter, container_id: str) -> MemoryUsage:
        found = BpfLimiter.stat(self, container_id)
        return found._replace(rss_bytes=int(found.rss_bytes * factor) - less)

    return stat


def late(self: BpfLimiter) -> list[MemoryEvent]:
    """It tells of its crossing with a megabyte more than it should."""
    events = BpfLimiter.read(self)
    return [each._replace(rss_bytes=each.rss_bytes + (1 << 20)) if each.kind is Kind.HARD else each for each in events]


FAULTS: dict[str, tuple[Callable[[Host, dict[str, int]], MemoryLimiter], str]] = {
    "it does not kill": (broken(arm=no_hard_limit), "lived on"),
    "it says nothing of the soft limit": (broken(read=without(Kind.SOFT)), "no soft-limit event"),
    "it says nothing of the hard limit": (broken(read=without(Kind.HARD)), "no hard-limit event"),
    "it counts twice": (broken(stat=scaled(2)), "bytes of a process that has"),
    "it counts half": (broken(stat=scaled(0.5)), "bytes of a process that has"),
    # Of three counters, what two CPUs hold back.
    "it misses shares": (broken(stat=scaled(1, 2 * shares_of_a_cpu())), "bytes of a process that has"),
    "it comes late": (broken(read=late), "at a limit of 50331648"),
    "it refuses": (broken(arm=refusing), "no space left on device"),
}


def module(name: str, open_limiter: object) -> ModuleType:
    made = ModuleType(f"wherry.memory.{name}")
    made.open_limiter = open_limiter  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(("open_limiter", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_one_that_does_not_do_it_is_not_taken(
    host: Host, monkeypatch: pytest.MonkeyPatch, open_limiter: object, reason: str
) -> None:
    monkeypatch.setattr(choice, "ENFORCERS", ("false", "cgroup"))
    monkeypatch.setitem(sys.modules, "wherry.memory.false", module("false", open_limiter))
    chosen = choice.choose("auto", host, {})
    assert chosen.limiter is not None
    chosen.limiter.close()
    assert chosen.limiter.name == "cgroup"
    assert reason in chosen.refused["false"]
    with pytest.raises(Unusable, match="memory enforcer false: self-test"):
        choice.choose("false", host, {})


@pytest.mark.parametrize("factor", [2, 0.5])
def test_a_group_that_is_charged_too_much_or_too_little_is_not_taken(
    host: Host, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    stat = CgroupLimiter.stat

    def wrong(self: CgroupLimiter, container_id: str) -> MemoryUsage:
        found = stat(self, container_id)
        return found._replace(rss_bytes=int(found.rss_bytes * factor))

    monkeypatch.setattr(CgroupLimiter, "stat", wrong)
    with pytest.raises(Unusable, match=r"cgroup counts .* bytes of a process that has"):
        choice.choose("cgroup", host, {})


def test_auto_takes_the_first_that_works_and_says_why_not_the_others(host: Host) -> None:
    chosen = choice.choose("auto", host, {})
    assert chosen.limiter is not None
    chosen.limiter.close()
    names = list(choice.ENFORCERS)
    assert list(chosen.refused) == names[: names.index(chosen.limiter.name)]


def test_one_of_an_earlier_supervisor_needs_no_second_test(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "check", lambda *_: pytest.fail("tested"))
    limiter = bpf.open_limiter(host, {})
    assert choice.choose("bpf", host, {"bpf": limiter}).limiter is limiter
    limiter.close()


def test_nothing_works(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "ENFORCERS", ("nosuch", "none"))
    refused = dict.fromkeys(("nosuch", "none"), "this version of wherry does not have it")
    assert choice.choose("auto", host, {}) == (None, refused)


@pytest.mark.parametrize("name", ["bpf", "cgroup"])
def test_a_tested_one_knows_nothing_of_its_test(host: Host, name: str) -> None:
    limiter = choice.choose(name, host, {}).limiter
    assert limiter is not None
    try:
        assert limiter.dropped() == 0
        with pytest.raises(KeyError):
            limiter.disarm(selftest._ID)
    finally:
        limiter.close()
