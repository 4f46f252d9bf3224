"""What keeps the source readable: short functions and files, no circle of imports."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.unit.test_import_rules import SOURCE, imports, modules

ROOT = SOURCE.parent
FOLDERS = ("src", "benchmarks", "scripts", "tests")
MOST_LINES = 50
MOST_LINES_OF_FILE = 500
TABLES = {"test_everything_that_is_understood", "test_every_option_has_its_place"}
"""Functions that are lists of cases."""


def too_long(tree: ast.AST) -> Iterator[str]:
    """Functions with bodies of more than ``MOST_LINES``: docstring and parameters do not count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in TABLES:
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body and node.end_lineno is not None and node.end_lineno - body[0].lineno >= MOST_LINES:
                yield f"{node.name}, line {node.lineno}"


def lengths(folder: Path) -> dict[Path, int]:
    return {path: len(path.read_text().splitlines()) for path in sorted(folder.rglob("*.py"))}


def too_many_lines(folder: Path) -> list[str]:
    return [f"{path}: {lines} lines" for path, lines in lengths(folder).items() if lines > MOST_LINES_OF_FILE]


def circle(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """Modules that import each other, each the next; empty when there are none."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def graph(source: Path) -> dict[str, set[str]]:
    """What each module imports when it is loaded; a package's own ``__init__`` may name what is in it."""
    known = modules(source)
    edges: dict[str, set[str]] = {name: set() for name in known}
    for found in imports(source):
        is_its_own = found.target.startswith(f"{found.importer}.") or found.importer.startswith(f"{found.target}.")
        if found.target in known and not found.is_lazy and not is_its_own:
            edges[found.importer].add(found.target)
    return edges


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_are_short(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert [f"{path}: {name}" for path in files for name in too_long(ast.parse(path.read_text(), str(path)))] == []


def test_a_long_function_is_found() -> None:
    body = "\n".join(f"    print({number})" for number in range(51))
    assert [*too_long(ast.parse(f'def f(a):\n    """Says."""\n{body}'))] == ["f, line 1"]
    assert [*too_long(ast.parse(f'def f(a):\n    """Says."""\n{body[:-14]}'))] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_are_short(folder: str) -> None:
    assert max(lengths(ROOT / folder).values()) > MOST_LINES
    assert too_many_lines(ROOT / folder) == []


def test_a_long_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, lines in (("short.py", 500), ("deep/long.py", 501), ("deep/data.txt", 501)):
        (tmp_path / name).write_text("x = 1\n" * lines)
    assert too_many_lines(tmp_path) == [f"{tmp_path}/deep/long.py: 501 lines"]


def test_no_imports_go_in_a_circle() -> None:
    edges = graph(SOURCE)
    assert any(edges.values())
    assert circle(edges) == []


def test_a_circle_is_found() -> None:
    assert set(circle({"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": []})) == {"a", "b", "c"}
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []
