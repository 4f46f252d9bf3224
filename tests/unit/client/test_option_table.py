"""The client's table of options, against all that has to say the same: TypedDicts, command line, the API's models."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from wherry.api.docker import create
from wherry.cli import main
from wherry.client import config
from wherry.client.config import CHANGES, OPTIONS

NOT_OPTIONS = {
    "socket",
    "replace",
    "name",
    "names",
    "rootfs",
    "command",
    "arguments",
    "env_file",
    "label_file",
    "cidfile",
}
"""What the command line has besides: the call's own parameters."""
MODELS = {
    "": create.ContainerConfig,
    "HostConfig": create.HostConfig,
    "Wherry": create.WherryConfig,
}


def keys_of(name: str) -> list[str]:
    """Of a TypedDict, which exists for the type checker alone."""
    tree = ast.parse(Path(config.__file__).read_text())
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    return [
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


def flags_of(command: str) -> set[str]:
    return {option.dest for option in main.declared(command).options} - NOT_OPTIONS


def test_types_and_tables_have_the_same_names_in_the_same_order() -> None:
    assert keys_of("Options") == list(OPTIONS)
    assert sorted(keys_of("Changes")) == sorted(CHANGES)


@pytest.mark.parametrize("command", ["run", "start"])
def test_the_command_line_has_every_option_by_its_name(command: str) -> None:
    assert flags_of(command) == set(OPTIONS)


def test_update_has_every_change_by_its_name() -> None:
    assert flags_of("update") == set(CHANGES) <= set(OPTIONS)


def test_a_change_goes_where_the_option_went() -> None:
    assert {name: CHANGES[name][:2] for name in CHANGES} == {name: OPTIONS[name][:2] for name in CHANGES}


def test_every_place_is_one_that_the_api_reads() -> None:
    for name, (place, key, _) in OPTIONS.items():
        if place != "LogConfig":
            assert key in MODELS[place].__struct_encode_fields__, name
    places = [(place, key) for name, (place, key, _) in OPTIONS.items() if name not in {"soft_mib", "hard_mib"}]
    assert len(set(places)) == len(places)  # those two say the same as soft_limit and hard_limit


def test_log_options_are_those_that_the_api_reads() -> None:
    log = {key: "blocking" if key == "mode" else "2m" for place, key, _ in OPTIONS.values() if place == "LogConfig"}
    assert len(log) == 4
    create.log_options(create.LogConfig(type="local", config={**log, "max-file": "3"}))
