"""Results as files: one HTML page that needs nothing else, the plots, and the raw data as JSON."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2

from wherry.experiments import atomic_file, numbers, plots

if TYPE_CHECKING:
    from wherry.experiments.model import Cell, Result, Table

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
SCHEMA = 1
"""Of the JSON files: ``schema``, and the fields of ``model.Result``."""


class Report:
    """A folder that grows by a result at a time: ``report.html``, and NAME.json, PLOT.png and PLOT.svg of each.

    Files of these names that are there already are replaced, each at once.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._sections: list[dict[str, Any]] = []
        self.path = os.path.join(folder, "report.html")

    def add(self, result: Result) -> None:
        """Raises OSError, ValueError for names that are no plain file names."""
        self._sections.append(_section(result, self._folder))
        page = _template().render(sections=self._sections)
        atomic_file.replace(self.path, page.encode("utf-8", "backslashreplace"))


def write(results: Sequence[Result], folder: str) -> str:
    """A report of these results; returns the page's path. Raises what ``Report.add`` raises."""
    report = Report(folder)
    for result in results:
        report.add(result)
    return report.path


def _section(result: Result, folder: str) -> dict[str, Any]:
    _checked(result.experiment)
    atomic_file.replace(os.path.join(folder, f"{result.experiment}.json"), as_json(result).encode())
    images = []
    for plot in result.conclusion.plots:
        _checked(plot.name)
        images.append({"alt": plot.alt, "name": plot.name, "source": _data_uri(plots.render(plot, folder))})
    tables = [_table(table) for table in result.conclusion.tables]
    setup = {key: str(value) for key, value in result.setup.items()}
    return {"result": result, "setup": setup, "tables": tables, "images": images, "command": command_line(result)}


def as_data(result: Result) -> dict[str, Any]:
    """A result as JSON values; NaN and infinity, which JSON does not have, are None."""
    data: dict[str, Any] = _without_nan({"schema": SCHEMA, **asdict(result)})
    return data


def as_json(result: Result) -> str:
    return json.dumps(as_data(result), indent=1, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def command_line(result: Result) -> str:
    """What makes this experiment again."""
    settings = result.settings
    words = ["engine", "experiment", "run", result.experiment, "--cpu", str(settings.get("cpu", 0))]
    if settings.get("seconds") is not None:
        words += ["--seconds", f"{settings['seconds']:g}"]
    words += ["--repeat", str(settings.get("repeat", 3))]
    if settings.get("nices"):
        words.append(f"--nices={','.join(map(str, settings['nices']))}")
    return shlex.join(words)


def _table(table: Table) -> dict[str, Any]:
    at = list(table.columns).index(table.bar) if table.bar else -1
    fractions = numbers.bar_fractions([row[at] for row in table.rows]) if table.bar else [0.0] * len(table.rows)
    rows = [
        {"cells": [_cell(cell) for cell in row], "bar": f"{100 * fraction:.1f}"}
        for row, fraction in zip(table.rows, fractions, strict=True)
    ]
    numeric = [all(not isinstance(row[n], str) for row in table.rows) for n in range(len(table.columns))]
    return {
        "title": table.title,
        "columns": list(zip(table.columns, numeric, strict=True)),
        "rows": rows,
        "bar": table.bar,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {"text": numbers.shown(cell), "number": not isinstance(cell, str)}


def _template() -> jinja2.Template:
    text = resources.files("wherry.experiments").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(text)


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def _checked(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no file name of small letters, digits and dashes")
