"""Steps as JSON arrays, [class name, field, ...], and back."""

from __future__ import annotations

import binascii

from wherry.runtime.steps import namefiles, process, root, stage, workdir
from wherry.runtime.steps.context import Step

_REPORTS = "kind"
"""What was added last to the reports of failures (``runtime.messages``)."""
_STEPS: dict[str, type] = {
    name: cls
    for module in (stage, root, process, namefiles, workdir)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and cls.__module__ == module.__name__ and hasattr(cls, "execute")
}


def in_cgroups(files: list[str], prepare: list[Step]) -> list[Step]:
    """The prepare steps of a template as one child runs them: it joins those cgroups before it makes namespaces."""
    return [process.NewSession(), process.JoinCgroups(files), *prepare]


def dialect() -> str:
    """A word that two programs have in common when they know the same steps with the same fields, and report failures
    alike: what one has encoded the other can carry out and explain.
    """
    steps = sorted((name, cls._fields) for name, cls in _STEPS.items())  # type: ignore[attr-defined]
    return f"{binascii.crc32(repr((_REPORTS, steps)).encode()):08x}"


def encode(steps: list[Step]) -> list[list[object]]:
    """JSON-ready form; ``decode`` is its inverse."""
    return [[type(step).__name__, *step] for step in steps]  # type: ignore[misc]  # every step is a NamedTuple


def decode(items: list[list[object]]) -> list[Step]:
    return [_STEPS[str(name)](*fields) for name, *fields in items]
