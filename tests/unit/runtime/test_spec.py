"""config.json as engines write it: what is known is read, what is not is refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wherry.errors import InvalidRequest, NotSupported
from wherry.runtime.spec import Spec, decode


def config(**fields: Any) -> dict[str, Any]:
    return {
        "ociVersion": "1.2.0",
        "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "pid"}]},
        **fields,
    }


def read(content: dict[str, Any]) -> Spec:
    return decode(json.dumps(content).encode())


def test_what_is_known_is_read() -> None:
    spec = read(config(hostname="a", annotations={"b": ""}))
    assert (spec.process.args, spec.hostname, spec.linux.namespaces[0].type) == (("sh",), "a", "pid")
    assert spec.annotations == {"b": ""}


UNKNOWN: dict[str, dict[str, Any]] = {
    "hooks": {"hooks": {"prestart": [{"path": "/bin/true"}]}},
    "process.terminal": {"process": {"args": ["sh"], "terminal": True}},
    "process.user.username": {"process": {"args": ["sh"], "user": {"username": "root"}}},
    "linux.uidMappings[0].x": {"linux": {"uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1, "x": 1}]}},
    "linux.resources.memory.kernel": {"linux": {"resources": {"memory": {"kernel": 1}}}},
    "mounts[1].uidMappings": {"mounts": [{"destination": "/a"}, {"destination": "/b", "uidMappings": [{}]}]},
    "linux.seccomp.syscalls[0].comment": {
        "linux": {"seccomp": {"defaultAction": "a", "syscalls": [{"names": ["b"], "action": "c", "comment": "d"}]}}
    },
    "windows": {"windows": {"layerFolders": ["C:"]}},
}


@pytest.mark.parametrize(("field", "fields"), UNKNOWN.items(), ids=UNKNOWN)
def test_what_is_not_known_is_refused_by_its_name(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(NotSupported) as caught:
        read(config(**fields))
    assert str(caught.value) == f"config.json: {field} is not supported yet"


def test_what_is_empty_changes_nothing() -> None:
    process = {"args": ["sh"], "terminal": False, "consoleSize": None, "user": {"uid": 1, "username": ""}}
    linux: dict[str, object] = {
        "uidMappings": [],
        "devices": None,
        "rootfsPropagation": "",
        "resources": {"hugepageLimits": []},
    }
    spec = read(config(hooks={}, process=process, linux=linux))
    assert spec.process.user.uid == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "config.json: Input data was truncated"),
        (b"[" * 100_000, "config.json: "),
        (b"{}", "config.json: Object missing required field `process`"),
        (json.dumps(config(root={"path": 1})).encode(), "config.json: Expected `str`, got `int` - at `$.root.path`"),
        (b" " * (5 << 20), "config.json has 5242880 bytes, the most is 4194304"),
    ],
    ids=["empty", "deep", "without a process", "a number for a path", "large"],
)
def test_what_is_no_configuration_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(text)
    assert str(caught.value).startswith(message)
