"""The table of attacks at the end of a run of tests: which was blocked, and which succeeded without its defence."""

from __future__ import annotations

import pytest
from tests.attacks.registry import ATTACKS, BLOCKED, UNDEFENDED

_outcomes: dict[str, dict[str, set[str]]] = {}


def note(item: pytest.Item, report: pytest.TestReport) -> None:
    """Of each phase of a test; only one that has passed as a whole shows anything."""
    if report.when != "call" and report.outcome == "passed":
        return
    for marker in item.iter_markers("attack"):
        name, *half = marker.args
        for each in half or (BLOCKED, UNDEFENDED):
            _outcomes.setdefault(name, {}).setdefault(each, set()).add(report.outcome)


def lines() -> list[str]:
    """One for each attack that was tried, in the order of the registry."""
    found = []
    for name in ATTACKS:
        if name in _outcomes:
            blocked = _word(name, BLOCKED, "blocked", "NOT BLOCKED")
            undefended = _word(name, UNDEFENDED, "works without the defence", "not shown to work")
            known_as = f"  {ATTACKS[name].known_as}" if ATTACKS[name].known_as else ""
            found.append(f"{name:26}{blocked:14}{undefended:28}{known_as}".rstrip())
    return found


def _word(name: str, half: str, good: str, bad: str) -> str:
    outcomes = _outcomes[name].get(half, set())
    if not outcomes or outcomes == {"skipped"}:
        return "not run"
    return bad if "failed" in outcomes else good
