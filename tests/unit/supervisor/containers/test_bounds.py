"""Case 24: what execve and mount would refuse is refused when it is asked for, by the name of its field."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from wherry.api.docker.create import create_request
from wherry.errors import InvalidRequest
from wherry.supervisor.containers import bounds

LONGEST = "x" * bounds.STRING_MAX


def body(**fields: Any) -> dict[str, Any]:
    return {"Cmd": ["/bin/true"], "Wherry": {"Rootfs": "/r"}, **fields}


def host(**fields: Any) -> dict[str, Any]:
    return body(HostConfig=fields)


TOO_LARGE = {
    "a word": (
        body(Cmd=["/bin/true", LONGEST + "x"]),
        "invalid command: word 2 has 131072 bytes, and the most is 131071",
    ),
    "a word in bytes": (body(Cmd=["\u20ac" * 43691]), "invalid command: word 1 has 131073 bytes"),
    "a variable": (body(Env=["A=" + LONGEST]), "invalid environment: variable 'A' has 131073 bytes"),
    "all words": (body(Cmd=[LONGEST] * 16), "invalid command and environment: together they take"),
    "many words": (body(Cmd=["/bin/true", *[""] * 240_000]), "240001 words: 2160018"),
    "all variables": (body(Env=[f"{each}={LONGEST[9:]}" for each in range(16)]), "16 variables: "),
    "words and variables": (body(Cmd=[LONGEST] * 8, Env=[f"{each}={LONGEST[9:]}" for each in range(8)]), "together"),
    "labels": (body(Labels={"a": "b" * 65534}), "invalid labels: all of them have 65537 bytes, and the most is 65536"),
    "a working directory": (body(WorkingDir="/" + "x" * 4095), "invalid working directory: '/xxx"),
    "a user": (body(User="x" * 513), "invalid user: it has 513 bytes, and the most is 512"),
    "a rootfs": ({"Cmd": ["/a"], "Wherry": {"Rootfs": "/" + "x" * 4095}}, "invalid rootfs: '/xxx"),
    "a volume": (host(Binds=["/a:/" + "x" * 4095]), "invalid volume: '/xxx"),
    "tmpfs": (host(Tmpfs={f"/{each}": "" for each in range(201)}), "there are 201, and the most is 200"),
    "tmpfs options": (host(Tmpfs={"/a": "size=1m," * 600}), "invalid tmpfs: 'size=1m,size"),
    "volumes": (host(Binds=[f"/a:/{each}" for each in range(201)]), "there are 201, and the most is 200"),
    "both": (host(Binds=[f"/a:/{each}" for each in range(101)], Tmpfs={f"/t{each}": "" for each in range(100)}), "201"),
    "CPUs": (host(CpusetCpus="0," * 70_000 + "0"), "invalid list of CPUs: '0,0,0"),
    "a hostname": (body(Hostname="x" * 65), "invalid hostname"),
}


@pytest.mark.parametrize(("asked", "message"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_is_too_large_is_named(asked: dict[str, Any], message: str) -> None:
    """Case 24."""
    with pytest.raises(InvalidRequest) as raised:
        create_request(asked)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 400


def test_what_is_as_large_as_may_be_is_taken() -> None:
    request = create_request(
        body(
            Cmd=["/bin/true", *[LONGEST] * 7],
            Env=[f"{each}={LONGEST[2:]}" for each in range(8)],
            Labels={"a": "b" * 65533},
            WorkingDir="/" + "x" * 4094,
            HostConfig={"CpusetCpus": ",".join(["0-8191"] * 7000)},
        )
    )
    assert len(request.command) == 8
    assert len(request.env) == 8


def test_a_low_stack_limit_lowers_what_a_command_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """execve(2): a quarter of the soft limit, but never less than 128 KiB."""
    for limit, most in ((2 << 20, (512 << 10) - 8192), (4096, (128 << 10) - 8192), (resource.RLIM_INFINITY, 2088960)):
        monkeypatch.setattr(resource, "getrlimit", lambda _what, soft=limit: (soft, resource.RLIM_INFINITY))
        with pytest.raises(InvalidRequest, match=f"execve takes at most {most}$"):
            create_request(body(Cmd=["x" * 100_000] * 25))
