"""Imports run one way: kernel <- runtime <- shim; kernel <- storage, memory, logs; all these <- supervisor <- api <-
daemon; client <- cli, experiments.

Read from the syntax trees, so that imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wherry.supervisor.containers.record import Record

SOURCE = Path(__file__).parents[2] / "src"


@dataclass(frozen=True)
class Layer:
    """What a part of the package may import besides the standard library and itself."""

    ours: frozenset[str]
    third_party: frozenset[str] = field(default_factory=frozenset)


def layer(*ours: str, third_party: tuple[str, ...] = ()) -> Layer:
    return Layer(frozenset(ours), frozenset(third_party))


BOTH_SIDES = ("wherry", "wherry.errors", "wherry.defaults", "wherry.weights")

# By longest prefix. "wherry" stands for the package's own __init__ alone, not for all below it.
LAYERS = {
    "wherry": layer("wherry.client", "wherry.errors", "wherry.defaults"),
    "wherry.__main__": layer("wherry.cli"),
    "wherry.errors": layer(),
    "wherry.defaults": layer(),
    "wherry.weights": layer(),
    "wherry.client": layer(*BOTH_SIDES),
    "wherry.cli": layer("wherry.client", *BOTH_SIDES, third_party=("argcomplete",)),
    # The one command that is more than a front of the client.
    **{
        f"wherry.cli.{name}": layer(
            "wherry.client", "wherry.cli", "wherry.experiments", *BOTH_SIDES, third_party=("rich",)
        )
        for name in ("experiment", "experiment_run", "experiment_output")
    },
    "wherry.experiments.__main__": layer("wherry.cli"),
    # What users copy: nothing but the public client.
    "wherry.experiments": layer("wherry.client", *BOTH_SIDES, third_party=("jinja2", "matplotlib", "rich")),
    "wherry.kernel": layer("wherry.kernel.libc"),
    "wherry.runtime": layer("wherry.kernel", *BOTH_SIDES),
    "wherry.runtime.spec": layer("wherry.kernel", "wherry.runtime", *BOTH_SIDES, third_party=("msgspec",)),
    "wherry.runtime.exec": layer("wherry.kernel", "wherry.runtime", *BOTH_SIDES, third_party=("msgspec",)),
    "wherry.runtime.seccomp": layer("wherry.kernel", "wherry.runtime", *BOTH_SIDES, third_party=("msgspec",)),
    "wherry.shim": layer("wherry.kernel", "wherry.runtime", *BOTH_SIDES),
    "wherry.storage": layer("wherry.kernel", *BOTH_SIDES, third_party=("zstandard",)),
    "wherry.logs": layer("wherry.kernel", *BOTH_SIDES),
    "wherry.memory": layer("wherry.kernel", *BOTH_SIDES),
    "wherry.supervisor": layer(
        *("wherry.kernel", "wherry.runtime", "wherry.shim", "wherry.storage", "wherry.logs", "wherry.memory"),
        *BOTH_SIDES,
        third_party=("msgspec",),
    ),
    # The composition root: the one place that puts the API on top of the supervisor.
    "wherry.daemon": layer(
        *("wherry.kernel", "wherry.runtime", "wherry.shim", "wherry.storage", "wherry.logs", "wherry.memory"),
        *("wherry.supervisor", "wherry.api", *BOTH_SIDES),
        third_party=("aiohttp", "msgspec", "multidict"),
    ),
    "wherry.api": layer(
        *("wherry.kernel", "wherry.runtime", "wherry.storage", "wherry.logs", "wherry.supervisor"),
        *BOTH_SIDES,
        third_party=("aiohttp", "msgspec", "multidict"),
    ),
}

FOREIGN_FUNCTIONS = {"ctypes", "_ctypes", "cffi"}


@dataclass(frozen=True)
class Import:
    importer: str
    target: str
    line: int
    is_lazy: bool  # not carried out when the module is loaded

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def modules(source: Path) -> dict[str, Path]:
    """Dotted name -> file of every module below ``source``; a package goes by its own name."""
    found = {}
    for path in sorted((source / "wherry").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(source: Path) -> list[Import]:
    known = modules(source)
    return [found for name, path in known.items() for found in _imports_of(name, path, known)]


def _imports_of(name: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node, is_lazy in _walk(ast.parse(path.read_text(), str(path)), is_lazy=False):
        for target in _targets(node, package, known):
            yield Import(name, target, getattr(node, "lineno", 0), is_lazy)


def _walk(node: ast.AST, *, is_lazy: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = is_lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_typing(child)
        yield child, inside
        yield from _walk(child, is_lazy=inside)


def _is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _targets(node: ast.AST, package: str, known: dict[str, Path]) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = _absolute(module or "", level, package)
            return [f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in names]
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(target)), *_],
        ):
            bare = target.lstrip(".")
            return [_absolute(bare, len(target) - len(bare), package)]
    return []


def _absolute(module: str, level: int, package: str) -> str:
    if level == 0:
        return module
    parts = package.split(".")
    base = parts[: len(parts) - level + 1]
    return ".".join([*base, module] if module else base)


def _is_below(name: str, prefix: str) -> bool:
    return name == prefix or (prefix != "wherry" and name.startswith(f"{prefix}."))


def layer_of(module: str) -> str | None:
    """The layer with the longest prefix; None for a module that the table does not know."""
    return max((name for name in LAYERS if _is_below(module, name)), key=len, default=None)


def _is_allowed(found: Import, own: str) -> bool:
    target, rules = found.target, LAYERS[own]
    if target.partition(".")[0] != "wherry":
        top = target.partition(".")[0]
        return top in rules.third_party or (top in sys.stdlib_module_names and _may_call_c(top, found.importer))
    if own == "wherry.cli" and target == "wherry.daemon":
        return found.is_lazy  # the `supervisor` sub-command alone starts the server side
    if own == "wherry.kernel" and found.importer != "wherry.kernel":
        # Each file of kernel/ stands alone on libc; those of control groups are one facility.
        return target == "wherry.kernel.libc" or all(
            name.startswith("wherry.kernel.cgroup") for name in (target, found.importer)
        )
    return _is_below(target, own) or any(_is_below(target, name) for name in rules.ours)


def _may_call_c(top: str, importer: str) -> bool:
    return top not in FOREIGN_FUNCTIONS or importer == "wherry.kernel.libc"


def violations(source: Path) -> list[str]:
    wrong = [f"{name} is in no layer of LAYERS" for name in modules(source) if layer_of(name) is None]
    for found in imports(source):
        own = layer_of(found.importer)
        if own is not None and not _is_allowed(found, own):
            wrong.append(str(found))
    return wrong


def test_the_package_holds_the_import_rules() -> None:
    assert modules(SOURCE), f"no module found below {SOURCE}"
    assert violations(SOURCE) == []


def loaded_third_parties(source: Path, prefix: str) -> set[str]:
    """What is loaded from outside the standard library when the modules below ``prefix`` are."""
    return loaded(source, prefix) - sys.stdlib_module_names - {"wherry"}


def loaded(source: Path, prefix: str) -> set[str]:
    """The top-level names of what the modules below ``prefix`` load."""
    graph: dict[str, set[str]] = {}
    for found in imports(source):
        if not found.is_lazy:
            graph.setdefault(found.importer, set()).add(found.target)
    waiting = [name for name in modules(source) if _is_below(name, prefix)]
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        parents = {name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)}
        new = (graph.get(name, set()) | parents) - seen
        seen |= new
        waiting += new
    return {name.partition(".")[0] for name in seen}


@pytest.mark.parametrize("part", ["wherry.kernel", "wherry.runtime", "wherry.shim"])
def test_no_event_loop_is_loaded_without_a_supervisor(part: str) -> None:
    """Its import takes as long as three starts."""
    assert "asyncio" not in loaded(SOURCE, part)


@pytest.mark.parametrize("part", ["wherry.kernel", "wherry.shim", "wherry.client"])
def test_the_light_parts_load_only_the_standard_library(part: str) -> None:
    assert loaded_third_parties(SOURCE, part) == set()


def test_a_third_party_loaded_by_way_of_others_is_found(tmp_path: Path) -> None:
    shim = "from wherry.runtime.launch import launch\ndef f():\n    import aiohttp"
    files = {"shim/main": shim, "runtime/launch": "from . import spec", "runtime/spec": "import msgspec"}
    write_package(tmp_path, {f"wherry/{name}.py": code for name, code in files.items()})
    assert loaded_third_parties(tmp_path, "wherry.shim") == {"msgspec"}


def test_an_event_loop_loaded_by_way_of_others_is_found(tmp_path: Path) -> None:
    write_package(
        tmp_path, {"wherry/runtime/plan.py": "from . import users", "wherry/runtime/users.py": "import asyncio"}
    )
    assert "asyncio" in loaded(tmp_path, "wherry.runtime.plan")


def write_package(source: Path, files: dict[str, str]) -> None:
    skeleton = ["__init__", "errors", "kernel/__init__", "kernel/libc", "kernel/mounts", "runtime/__init__"]
    for name in [*(f"wherry/{module}.py" for module in skeleton), *files]:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files.get(name, ""))


FORBIDDEN = {
    "kernel imports the error tree": ("kernel/mounts", "from wherry.errors import WherryError"),
    "kernel imports its neighbour": ("kernel/cgroups", "from wherry.kernel import mounts"),
    "kernel imports a third party": ("kernel/mounts", "import msgspec"),
    "ctypes outside libc": ("kernel/mounts", "import ctypes.util"),
    "ctypes in the runtime": ("runtime/init", "from ctypes import CDLL"),
    "the runtime imports the shim": ("runtime/plan", "import wherry.shim.main"),
    "a lazy import counts": ("runtime/plan", "def f():\n    from wherry.supervisor import engine"),
    "a typing import counts": ("runtime/plan", "if TYPE_CHECKING:\n    from wherry.supervisor import engine"),
    "a relative import counts": ("runtime/plan", "from ..supervisor import engine"),
    "a dynamic import counts": ("runtime/plan", "importlib.import_module('..supervisor', __package__)"),
    "the supervisor imports the api": ("supervisor/engine", "from wherry.api import app"),
    "the api imports the client": ("api/app", "from wherry import client\nimport wherry.client"),
    "the cli imports the supervisor": ("cli/ps", "def f():\n    from wherry.supervisor import records"),
    "the cli imports the composition root at once": ("cli/supervise", "from wherry.daemon import serve"),
    "the client imports the kernel": ("client/client", "from wherry.kernel.libc import call"),
    "the client imports a third party": ("client/client", "import aiohttp"),
    "logs import the runtime": ("logs/capture", "from wherry.runtime import spec"),
    "memory imports the supervisor": ("memory/bpf", "from wherry.supervisor import model"),
    "memory imports the logs": ("memory/bpf", "from wherry import logs\nimport wherry.logs"),
    "a module in no layer": ("helpers", ""),
}


@pytest.mark.parametrize(("module", "code"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_a_forbidden_import_is_found(tmp_path: Path, module: str, code: str) -> None:
    write_package(tmp_path, {f"wherry/{module}.py": code})
    name = f"wherry.{module}".replace("/", ".")
    assert any(line.startswith(name) for line in violations(tmp_path))


ALLOWED = {
    "kernel on libc": ("kernel/mounts", "import os\nfrom wherry.kernel.libc import call\nfrom . import libc"),
    "libc on ctypes": ("kernel/libc", "import ctypes"),
    "the runtime on the kernel": ("runtime/plan", "from ..kernel import mounts\nfrom wherry.errors import StartFailed"),
    "the composition root on the api": ("daemon", "from wherry.api import app\nimport aiohttp"),
    "the sub-command on the composition root": ("cli/supervise", "def f():\n    import wherry.daemon"),
    "the version": ("cli/version", "from wherry import __version__"),
}


@pytest.mark.parametrize(("module", "code"), ALLOWED.values(), ids=ALLOWED.keys())
def test_an_allowed_import_passes(tmp_path: Path, module: str, code: str) -> None:
    write_package(tmp_path, {f"wherry/{module}.py": code})
    assert violations(tmp_path) == []


# Only containers/states changes a container's record.

FIELDS = frozenset(Record.__struct_fields__)
KEEPERS = ("wherry.supervisor.containers.states",)
OTHERS = frozenset({"self", "child"})
"""What has attributes of such names of its own, and is never a record."""
BY_NAME = frozenset({"setattr", "delattr", "force_setattr", "__setattr__", "__dict__", "vars"})


def record_writes(source: Path) -> list[str]:
    """Where a field is set or deleted, on whatever it may be that is not one of ``OTHERS``."""
    return [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, path in modules(source).items()
        if _is_below(name, "wherry.supervisor") or _is_below(name, "wherry.api") or name == "wherry.daemon"
        if name not in KEEPERS
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        if isinstance(node, ast.expr) and _may_write(node)
    ]


def _may_write(node: ast.expr) -> bool:
    match node:
        case ast.Attribute(attr=name, ctx=ast.Store() | ast.Del(), value=of):
            return name in FIELDS and ast.unparse(of).rpartition(".")[2] not in OTHERS
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in BY_NAME
    return False


def test_only_states_changes_a_record() -> None:
    assert "wherry.supervisor.containers.states" in modules(SOURCE)
    assert record_writes(SOURCE) == []


WRITES = {
    "an assignment": "container.record.state = State.EXITED",
    "one of several": "x, (record.reason, y) = 1, (2, 3)",
    "one with an operator": "record.oom_children += 1",
    "one with a type": "record.error: str = ''",
    "by another name": "for running.pid in (1, 2):\n    pass",
    "of a call": "self.find(ref).record.slot = ''",
    "a deletion": "del record.name",
    "by the name of the field": "setattr(record, 'state', 1)",
    "past the class": "import msgspec\nmsgspec.structs.force_setattr(record, name, 1)",
    "with object's own": "object.__setattr__(record, 'state', 1)",
    "in the api": "record.state = 1",
}


@pytest.mark.parametrize(("how", "code"), WRITES.items(), ids=WRITES.keys())
def test_a_change_of_a_record_elsewhere_is_found(tmp_path: Path, how: str, code: str) -> None:
    module = "api/views" if how == "in the api" else "supervisor/lifecycle/ending"
    write_package(tmp_path, {f"wherry/{module}.py": code, "wherry/supervisor/containers/states.py": code})
    [found] = record_writes(tmp_path)
    assert found.startswith(f"wherry.{module}:".replace("/", "."))


def test_what_is_no_change_of_a_record_passes(tmp_path: Path) -> None:
    code = "self.pid = child.pid = 1\nx = record.state\nrecord.state == 1\nrecord.other = 2\n"
    write_package(tmp_path, {"wherry/supervisor/engine.py": code})
    assert record_writes(tmp_path) == []


# Only supervisor/lifecycle ends anything: what others want ended, they ask ``killing`` for.

ENDERS = ("wherry.supervisor.lifecycle",)
SIGNALLING = frozenset({"pidfd_send_signal", "kill", "killpg"})
PLACES = frozenset({"signal", "os", "trees", "cgroup_trees"})
ITSELF = "os.getpid()"


def signals_sent(source: Path) -> list[str]:
    """Where the functions by which a process is sent a signal are used, and it is not the supervisor itself."""
    return [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, path in modules(source).items()
        if any(_is_below(name, part) for part in ("wherry.supervisor", "wherry.api", "wherry.daemon"))
        if not any(_is_below(name, part) for part in ENDERS)
        for node in _senders(ast.parse(path.read_text(), str(path)))
    ]


def _senders(tree: ast.Module) -> list[ast.Attribute | ast.ImportFrom]:
    to_itself = [
        node.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.args[0]) == ITSELF
    ]
    found: list[ast.Attribute | ast.ImportFrom] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(each.name in SIGNALLING for each in node.names):
            found.append(node)
        elif isinstance(node, ast.Attribute) and node.attr in SIGNALLING and ast.unparse(node.value) in PLACES:
            found += [node] if node not in to_itself else []
    return found


def test_only_the_lifecycle_ends_anything() -> None:
    assert signals_sent(SOURCE) == []


SIGNALS = {
    "by a pidfd": "signal.pidfd_send_signal(child.pidfd, 9)",
    "by a number": "os.kill(record.pid, 9)",
    "to a group": "os.killpg(record.pid, 9)",
    "to a tree of groups": "trees.kill(group.places)",
    "in a thread": "asyncio.to_thread(trees.kill, group.places)",
    "by a name of its own": "from signal import pidfd_send_signal as tell",
}


@pytest.mark.parametrize("module", ["supervisor/memory_watch/soft", "api/handlers/containers", "daemon"])
@pytest.mark.parametrize("code", SIGNALS.values(), ids=SIGNALS.keys())
def test_an_end_from_elsewhere_is_found(tmp_path: Path, module: str, code: str) -> None:
    write_package(tmp_path, {f"wherry/{module}.py": code, "wherry/supervisor/lifecycle/ending.py": code})
    [found] = signals_sent(tmp_path)
    assert found.startswith(f"wherry.{module}:".replace("/", "."))


def test_what_ends_nothing_of_others_passes(tmp_path: Path) -> None:
    code = "os.kill(os.getpid(), 15)\nkilling.kill(child)\nkilling.send(child, 15)\n"
    write_package(tmp_path, {"wherry/supervisor/engine.py": code})
    assert signals_sent(tmp_path) == []
