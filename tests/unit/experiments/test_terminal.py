"""Results on a terminal: columns, bars, and nothing that a terminal would obey."""

from __future__ import annotations

import io
import math
import sys

import pytest
from tests import reportsamples

from wherry.cli import experiment_output
from wherry.experiments import numbers
from wherry.experiments.catalogue import EXPERIMENTS
from wherry.experiments.model import Table

TABLE = Table(
    title="Share",
    columns=("NAME", "NICE", "MEASURED %"),
    rows=[("1-nice0", 0, 75.25), ("2-nice15", 15, 24.75), ("gone", 19, None)],
    bar="MEASURED %",
)
SHOWN = """\
NAME       NICE   MEASURED %
1-nice0       0        75.25   ##############################
2-nice15     15        24.75   ##########
gone         19            -
"""


def test_a_table_has_columns_and_bars() -> None:
    assert experiment_output.text_table(TABLE) == SHOWN


def test_a_table_without_rows_is_its_headings() -> None:
    assert experiment_output.text_table(Table(title="", columns=("A", "B %"), rows=[], bar="B %")) == "A   B %\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (math.nan, "-"),
        (12, "12"),
        ("text", "text"),
        (0.12345, "0.123"),
        (-12.345, "-12.35"),
        (123.45, "123.5"),
        (12345.6, "12346"),
    ],
)
def test_numbers_have_three_or_four_figures(value: float | str | None, shown: str) -> None:
    assert numbers.shown(value) == shown


def test_bars_are_parts_of_the_greatest() -> None:
    assert numbers.bar_fractions([4.0, 1, None, math.nan, -3.0, "x"]) == [1.0, 0.25, 0.0, 0.0, 0.0, 0.0]
    assert numbers.bar_fractions([0.0, None]) == [0.0, 0.0]
    assert numbers.bar_fractions([]) == []


def test_a_terminal_is_told_nothing_by_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    file = io.StringIO()
    experiment_output.print_result(reportsamples.result(), file)
    shown = file.getvalue()
    assert [char for char in shown if not char.isprintable() and char != "\n"] == []
    assert "\\x1b[31m" in shown
    assert "\\x07bell\\nline" in shown
    findings = shown[shown.index("\n- ") :].splitlines()
    assert all(len(line) <= 80 for line in findings if " " in line.strip("- "))


def test_progress_says_one_line_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    assert not sys.stderr.isatty()
    with experiment_output.progress(EXPERIMENTS["nice"], 12) as progress:
        progress(3.0, "a\x1b[31m")
    assert capsys.readouterr() == ("", "nice: about 12 s\n")


def test_progress_on_a_terminal_escapes_what_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the stream for a terminal then
    with experiment_output.progress(EXPERIMENTS["nice"], 12) as progress:
        progress(3.0, "[bold]what\x1b[2J")
        progress(300.0, "later than [/nonsense] thought")
    shown = capsys.readouterr().err
    assert "nice" in shown
    assert "[2J" not in shown.replace("\\x1b[2J", "")
