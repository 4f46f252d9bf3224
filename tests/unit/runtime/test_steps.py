"""Steps cross to another process as JSON, and say in words what they do."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.kernel.libc import call_of
from wherry.runtime import steps
from wherry.runtime.spec import Spec, decode, encode
from wherry.runtime.steps import Context, Step, codec

CLASSES: list[type[Step]] = [getattr(steps, name) for name in codec._STEPS]


def as_json(plan: list[Step]) -> str:
    return json.dumps(steps.encode(plan))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of([st.from_type(cls) for cls in CLASSES])))
def test_round_trip(plan: list[Step]) -> None:
    decoded = steps.decode(json.loads(as_json(plan)))
    assert [type(step) for step in decoded] == [type(step) for step in plan]
    assert as_json(decoded) == as_json(plan)


def test_a_path_need_not_be_utf8() -> None:
    """Python keeps such bytes as lone surrogates."""
    step = steps.MountStage(os.fsdecode(b"/caf\xe9"))
    assert steps.decode(json.loads(as_json([step]))) == [step]


def test_every_step_can_be_sent() -> None:
    """A class that is left out of the table would only be missed in a running child."""
    files = [
        importlib.import_module(f"{steps.__name__}.{found.name}") for found in pkgutil.iter_modules(steps.__path__)
    ]
    defined = {
        name
        for file in files
        for name, cls in vars(file).items()
        if isinstance(cls, type) and hasattr(cls, "execute") and hasattr(cls, "_fields")
    }
    assert {"MountStage", "SetNice"} <= defined
    assert defined == set(codec._STEPS)


def test_an_unknown_step_is_an_error() -> None:
    with pytest.raises(KeyError):
        steps.decode([["MountStage", "/x"], ["FormatDisk", "/dev/sda"]])
    with pytest.raises(TypeError):
        steps.decode([["MountStage"]])


@settings(max_examples=50, deadline=None)
@given(st.one_of([st.from_type(cls) for cls in CLASSES]))
def test_descriptions_are_words(step: Step) -> None:
    assert re.match("[a-z]+ ?", step.describe())


def test_a_cgroup_that_cannot_be_joined_is_named() -> None:
    with pytest.raises(OSError, match="/proc/self/cgroup") as caught:
        steps.JoinCgroups(["/proc/self/cgroup"]).execute(Context())
    assert caught.value.filename == "/proc/self/cgroup"


def test_a_cgroup_that_refuses_us_is_named() -> None:
    """A full group says so at write(2), where Python's own error has no path."""
    with pytest.raises(OSError, match="No space left") as caught:
        steps.JoinCgroups(["/dev/full"]).execute(Context())
    assert (caught.value.filename, call_of(caught.value)) == ("/dev/full", "write")


def test_a_spec_survives_json() -> None:
    text = b"""{"ociVersion": "1.1.0", "process": {"args": ["/bin/true"], "user": {"uid": 1, "gid": 2,
        "additionalGids": [3]}, "noNewPrivileges": false}, "root": {"path": "rootfs", "readonly": true},
        "linux": {"namespaces": [{"type": "pid"}], "resources": {"pids": {"limit": 5}}, "maskedPaths": ["/proc/kcore"]},
        "mounts": [{"destination": "/proc", "type": "proc"}]}"""
    read: Spec = decode(text)
    assert read.process.user.additional_gids == (3,)
    assert read.linux.resources.pids is not None
    assert read.linux.masked_paths == ("/proc/kcore",)
    assert decode(encode(read)) == read
