"""Every attack is mounted by tests, defended and undefended, and the document has the table of them all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tests.attacks import report
from tests.attacks.registry import ATTACKS, BLOCKED, UNDEFENDED, Shown, mounted, table
from tests.root.patched import in_shim

DOCUMENT = Path(__file__).parents[2] / "docs/security.md"


def faults(shown: Iterable[Shown]) -> Iterator[str]:
    """Attacks that nobody knows, halves that there are not, and halves that no test shows."""
    halves: dict[str, set[str]] = {name: set() for name in ATTACKS}
    for each in shown:
        if each.attack not in ATTACKS:
            yield f"{each.function}: no attack is called {each.attack}"
        elif each.half not in ("", BLOCKED, UNDEFENDED):
            yield f"{each.function}: there is no half {each.half}"
        else:
            halves[each.attack] |= {each.half} if each.half else {BLOCKED, UNDEFENDED}
    for name, found in halves.items():
        yield from (f"{name} is not shown {half}" for half in (BLOCKED, UNDEFENDED) if half not in found)


def test_each_attack_is_shown_blocked_and_undefended() -> None:
    assert [*faults(mounted())] == []


def test_an_attack_that_is_half_shown_is_found() -> None:
    shown = [Shown(name, "", Path(), "test_it") for name in ATTACKS if name != "keys"]
    wrong = [Shown("keys", BLOCKED, Path(), "test_a"), Shown("none", "", Path(), "test_b")]
    assert [*faults([*shown, *wrong, Shown("keys", "often", Path(), "test_c")])] == [
        "test_b: no attack is called none",
        "test_c: there is no half often",
        "keys is not shown undefended",
    ]


def test_the_document_has_the_table() -> None:
    """``python -m tests.attacks.registry`` prints it."""
    assert table() in DOCUMENT.read_text()
    assert table().count("\n") == len(ATTACKS) + 2


OUTCOMES = [
    ({BLOCKED: {"passed"}, UNDEFENDED: {"passed"}}, "keys blocked works without the defence"),
    ({BLOCKED: {"passed", "failed"}, UNDEFENDED: {"passed"}}, "keys NOT BLOCKED works without the defence"),
    ({BLOCKED: {"passed"}, UNDEFENDED: {"failed"}}, "keys blocked not shown to work"),
    ({BLOCKED: {"passed", "skipped"}, UNDEFENDED: {"skipped"}}, "keys blocked not run"),
    ({BLOCKED: {"passed"}}, "keys blocked not run"),
]


@pytest.mark.parametrize(("outcomes", "line"), OUTCOMES)
def test_the_report_says_what_was_shown(
    monkeypatch: pytest.MonkeyPatch, outcomes: dict[str, set[str]], line: str
) -> None:
    monkeypatch.setattr(report, "_outcomes", {"keys": outcomes})
    assert [" ".join(each.split()) for each in report.lines()] == [line]


def test_a_defence_of_the_shim_can_be_taken_out() -> None:
    """By the program as it is: else an attack would wait for a supervisor that does not start."""
    prelude = in_shim("defences = {}") + "exec(shim_start._CODE.format(path='/').partition('from wherry.shim')[0])\n"
    subprocess.run([sys.executable, "-c", f"{prelude}assert defences == {{}}"], check=True)
