"""Results and progress on a terminal."""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from wherry.cli.terminal import escaped
from wherry.experiments import numbers

if TYPE_CHECKING:
    from wherry.experiments.lab import Progress
    from wherry.experiments.model import Cell, Experiment, Result, Table

_BAR = 30


def print_result(result: Result, file: TextIO) -> None:
    """Tables in columns with a bar, then what the numbers say and how far to trust them."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    print(f"\n{result.experiment}: {escaped(result.title)}", file=file)
    if result.error:
        print("  ended early: " + escaped(result.error), file=file)
    for table in result.conclusion.tables:
        print(f"\n{text_table(table)}", end="", file=file)
    print(file=file)
    for sentence in (*result.conclusion.findings, *(f"({text})" for text in result.conclusion.noise)):
        print(textwrap.fill(escaped(sentence), width, initial_indent="- ", subsequent_indent="  "), file=file)


def text_table(table: Table) -> str:
    """Headings in capitals, three spaces between columns, numbers to the right, bars last."""
    cells = [[escaped(column) for column in table.columns]]
    cells += [[escaped(numbers.shown(cell)) for cell in row] for row in table.rows]
    is_number = [all(not isinstance(row[n], str) for row in table.rows) for n in range(len(table.columns))]
    widths = [max(len(row[n]) for row in cells) for n in range(len(table.columns))]
    bars = ["", *_bars(table)]
    lines = []
    for row, bar in zip(cells, bars, strict=True):
        parts = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ]
        lines.append("   ".join([*parts, bar]).rstrip() + "\n")
    return "".join(lines)


def _bars(table: Table) -> list[str]:
    if table.bar is None:
        return [""] * len(table.rows)
    column = list(table.columns).index(table.bar)
    values: list[Cell] = [row[column] for row in table.rows]
    return ["#" * round(_BAR * fraction) for fraction in numbers.bar_fractions(values)]


@contextlib.contextmanager
def progress(experiment: Experiment, seconds: float) -> Iterator[Progress]:
    """A bar on stderr while an experiment of about so many seconds runs; nothing where stderr is no terminal."""
    from rich.console import Console  # noqa: PLC0415 (70 ms)
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"{experiment.name}: about {seconds:.0f} s", file=sys.stderr)
        yield lambda _spent, _what: None
        return
    columns = (TextColumn("{task.fields[name]}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=seconds, name=experiment.name)
        # An estimate that was too short must not look like the end.
        yield lambda spent, what: bar.update(task, completed=min(spent, 0.99 * seconds), description=_markup(what))


def _markup(text: str) -> str:
    from rich.markup import escape  # noqa: PLC0415

    return escape(escaped(text))
