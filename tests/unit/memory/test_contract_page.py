"""The table of docs/memory-limits.md is the one that tests/root/memory/test_contract.py holds the enforcers to."""

from __future__ import annotations

from pathlib import Path

from tests.root.memory.contract import COLUMNS, ENDS, TELLS, page

DOCUMENT = Path(__file__).parents[3] / "docs/memory-limits.md"


def test_the_page_shows_what_is_tested() -> None:
    assert folded(page()) in folded(DOCUMENT.read_text())


def folded(text: str) -> str:
    """The same words, wherever a line ends within a sentence."""
    return text.replace("\n  ", " ")


def test_each_case_has_a_promise_of_every_enforcer() -> None:
    for case in (*ENDS.values(), *TELLS.values()):
        assert len(case.promises) == len(COLUMNS)
