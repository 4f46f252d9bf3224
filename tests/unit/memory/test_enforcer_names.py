"""An enforcer says itself what it does (``Traits``): nobody outside memory/ asks for it by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.test_import_rules import SOURCE, modules

from wherry.memory import Traits, choice, uncounted

SUPERVISING = ("wherry.supervisor", "wherry.api", "wherry.daemon", "wherry.shim")
"""In these the names mean enforcers, wherever they stand; elsewhere they are names of namespaces and system calls too.
"""


def named(module: str, tree: ast.AST) -> Iterator[str]:
    """Where a module asks for an enforcer by its name."""
    if module.startswith("wherry.memory"):
        return
    asks = (ast.Constant,) if module.startswith(SUPERVISING) else (ast.Compare, ast.match_case, ast.Call)
    for node in ast.walk(tree):
        if isinstance(node, asks) and _has_name(node) and (isinstance(node, ast.Constant) or _is_of_enforcer(node)):
            yield f"{module}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"


def _has_name(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Constant) and part.value in choice.ENFORCERS for part in ast.walk(node))


def _is_of_enforcer(node: ast.AST) -> bool:
    words = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    words |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return any("enforcer" in word.lower() or "limiter" in word.lower() for word in words)


def test_nobody_asks_for_an_enforcer_by_name() -> None:
    found = [where for name, path in modules(SOURCE).items() for where in named(name, ast.parse(path.read_text()))]
    assert found == []


BY_NAME = {
    "a comparison": ("supervisor.soft", "if record.enforcer == 'cgroup': pass"),
    "a set": ("supervisor.memory", "NAMES = frozenset({'bpf'})"),
    "a prefix": ("supervisor.keeping", "name.startswith('bpf')"),
    "a table": ("api.docker.views", "SHOWN = {'kmod': 1}"),
    "a case": ("daemon", "match name:\n    case 'kmod': pass"),
    "a comparison of the client": ("cli.reports", "if info.enforcer != 'kmod': pass"),
    "a limiter's": ("experiments.memory", "limiter.name in ('kmod', 'bpf')"),
}


@pytest.mark.parametrize(("module", "code"), BY_NAME.values(), ids=BY_NAME)
def test_who_asks_by_name_is_found(module: str, code: str) -> None:
    assert list(named(f"wherry.{module}", ast.parse(code)))


def test_other_uses_of_the_words_are_none() -> None:
    assert not list(named("wherry.kernel.cgroups", ast.parse("if fstype == 'cgroup': pass")))
    assert not list(named("wherry.supervisor.soft", ast.parse("if record.traits.is_group: pass")))
    assert not list(named("wherry.memory.choice", ast.parse("ENFORCERS = ('kmod', 'bpf')")))


@pytest.mark.parametrize("name", choice.ENFORCERS)
def test_a_records_enforcer_is_known_without_any_that_is_open(name: str) -> None:
    tree = ast.parse(Path(SOURCE, "wherry", "memory", f"{name}.py").read_text())
    assert any(isinstance(node, ast.Assign) and ast.unparse(node) == "traits = TRAITS" for node in ast.walk(tree))
    assert choice.traits_of(name).is_group is (name == "cgroup")
    assert choice.traits_of(name).not_counted == (uncounted.CHARGED if name == "cgroup" else uncounted.RESIDENT)


def test_what_is_known_of_nobody_and_of_a_stranger() -> None:
    """A state directory may be of a newer version, or tampered with: nothing is loaded by a name that it holds."""
    assert choice.traits_of("").not_counted == ()
    for stranger in ("selftest", "..kernel.libc", "ebpf2"):
        assert choice.traits_of(stranger) == Traits()
