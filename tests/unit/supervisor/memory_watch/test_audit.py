"""When a figure is said to have gone astray: not for memory that changes meanwhile, and not at the first sight."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import cast

import pytest

from wherry.kernel.cgroups import Group, Layout
from wherry.memory import Accuracy, MemoryLimiter, MemoryUsage
from wherry.supervisor.memory_watch import audit
from wherry.supervisor.memory_watch.audit import Audited, Auditor, Drift, Resident

MIB = 1 << 20
ALLOWED = 4 * MIB // (os.cpu_count() or 1)


class Figures:
    """An enforcer that says one figure after another, again from the first when there are no more."""

    name = "figures"

    def __init__(self, *sizes: int, accuracy: Accuracy | None = Accuracy(ALLOWED, None)) -> None:  # noqa: B008
        self.accuracy = accuracy
        self._sizes = list(sizes)

    def stat(self, _container_id: str) -> MemoryUsage:
        if not self._sizes:
            raise KeyError
        self._sizes.append(self._sizes.pop(0))
        return MemoryUsage(self._sizes[-1] * MIB, 0, 1)


def rounds(monkeypatch: pytest.MonkeyPatch, figures: Figures, shown: int | None, count: int = 1) -> Auditor:
    found = None if shown is None else Resident(shown * MIB, 1)
    monkeypatch.setattr(audit, "resident", lambda *_: found)
    group = Group(Layout(1, {}), "x")
    auditor = Auditor(lambda: [Audited("a" * 64, "alpha", 1, group, cast(MemoryLimiter, figures))])

    async def go() -> None:
        for _ in range(count):
            await auditor.round()

    asyncio.run(go())
    return auditor


CASES = {
    "equal": ((20,), 20, Drift(0, "alpha", True)),
    "a little above": ((23,), 20, Drift(3 * MIB, "alpha", True)),
    "far above": ((40,), 20, Drift(20 * MIB, "alpha", False)),
    "far below": ((10,), 20, Drift(-10 * MIB, "alpha", False)),
    "it grows meanwhile": ((10, 30), 20, Drift(0, "alpha", True)),
    "it shrinks meanwhile": ((30, 10), 20, Drift(0, "alpha", True)),
    "it grows and is above": ((30, 40), 20, Drift(10 * MIB, "alpha", False)),
    "it is ending": ((), 20, None),
    "too many processes": ((20,), None, None),
}


@pytest.mark.parametrize(("sizes", "shown", "drift"), CASES.values(), ids=CASES.keys())
def test_the_drift(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], shown: int | None, drift: Drift | None
) -> None:
    assert rounds(monkeypatch, Figures(*sizes), shown).worst == drift


def test_who_counts_charges_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rounds(monkeypatch, Figures(40, accuracy=None), 20).worst is None


@pytest.mark.parametrize(("count", "said"), [(1, 0), (2, 1), (5, 1)])
def test_it_is_said_once_when_it_lasts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count: int, said: int
) -> None:
    with caplog.at_level(logging.ERROR, "wherry.supervisor.memory_watch.audit"):
        rounds(monkeypatch, Figures(40), 20, count)
    assert caplog.text.count("alpha: figures counts +20971520 bytes") == said
