"""Names of modules and classes: inside one process's reach each means one thing.

Read from the syntax trees. What is left twice stands in ``SAME``, with why both are the same thing.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest
from tests.unit.test_import_rules import SOURCE, modules, write_package

_BOTH_SIDES = ("errors", "defaults", "weights")
_RUNTIME = ("kernel", "runtime", "shim")
PROCESSES = {
    "supervisor": (*_RUNTIME, "storage", "logs", "memory", "supervisor", "api", "daemon", *_BOTH_SIDES),
    "shim": (*_RUNTIME, *_BOTH_SIDES),
    "client": ("client", "cli", "experiments", *_BOTH_SIDES),
}
"""Which parts of the package a process may load. ``engine supervisor`` is the supervisor's, its parser aside."""
SAME = {
    "__main__": "python -m",
    "client": "the package's main part",
    "bpf": "the facility, and the enforcer made of it",
    "containers": "the resource, and the requests about it",
    "disk": "the resource, and the requests about it",
    "events": "the resource, and the requests about it",
    "exec": "how a process joins a container, and the requests about it",
    "networks": "the resource, and the requests about it",
    "input": "of a container, and the requests that bring it",
    "processes": "those of containers, and the requests about them",
    "memory": "the enforcers, and who has them watch",
    "namefiles": "what is in them, and the steps that put them in place",
    "process": "the facility, and the steps about it",
    "seccomp": "the facility, and the filters made for it",
    "Engine": "what the API needs, and who has it",
    "User": "as the spec has it, and as it is looked up",
}


def twice(source: Path, parts: tuple[str, ...]) -> dict[str, list[str]]:
    """Name -> where it is, of modules and public classes that several modules of these parts have."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, path in modules(source).items():
        if not module.partition(".")[2].startswith(tuple(f"{part}." for part in parts)) and (
            module.partition(".")[2] not in parts
        ):
            continue
        found[module.rpartition(".")[2]].append(module)
        for node in ast.parse(path.read_text(), str(path)).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(f"{module}.{node.name}")
    return {name: where for name, where in found.items() if len(where) > 1}


@pytest.mark.parametrize("process", PROCESSES)
def test_a_name_means_one_thing(process: str) -> None:
    assert {name: where for name, where in twice(SOURCE, PROCESSES[process]).items() if name not in SAME} == {}


def test_what_is_known_to_be_twice_is_so_still() -> None:
    found = {name for parts in PROCESSES.values() for name in twice(SOURCE, parts)}
    assert found == {*SAME}


def test_a_name_for_two_things_is_found(tmp_path: Path) -> None:
    code = "class Limits: ...\nclass _Own: ..."
    write_package(tmp_path, {"wherry/runtime/limits.py": code, "wherry/storage/budget.py": code})
    write_package(tmp_path, {"wherry/api/limits.py": "", "wherry/client/budget.py": code})
    assert twice(tmp_path, PROCESSES["supervisor"]) == {
        "limits": ["wherry.api.limits", "wherry.runtime.limits"],
        "Limits": ["wherry.runtime.limits.Limits", "wherry.storage.budget.Limits"],
    }
    assert twice(tmp_path, PROCESSES["shim"]) == {}
    assert twice(tmp_path, PROCESSES["client"]) == {}
