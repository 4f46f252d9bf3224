"""Case 26: ``engine df`` and ``engine prune`` against a scripted supervisor."""

from __future__ import annotations

import io
import json
import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.fake_supervisor import FakeSupervisor, reply

from wherry.cli import main

DF = {
    "Wherry": {
        "FreeBytes": 10 << 30,
        "ReserveBytes": 1 << 30,
        "CacheLimitBytes": 8 << 30,
        "Archives": [
            {"Id": "sha256:aaaaaaaaaaaaaaaa", "Source": "/a\x1b.tar", "Bytes": 3 << 20, "Entries": 7, "Users": 1,
             "UsedAt": "2026-01-31T10:00:00.000000000Z"},
            {"Id": "sha256:bbbbbbbbbbbbbbbb", "Source": "", "Bytes": 1 << 20, "Entries": 2, "Users": 0,
             "UsedAt": "2026-01-31T10:00:00.000000000Z"},
        ],
        "Containers": [
            {"Id": "1", "Name": "one", "State": "running", "LayerBytes": 8192, "LogBytes": 4096},
            {"Id": "2", "Name": "two", "State": "exited", "LayerBytes": 8192, "LogBytes": 0},
        ],
    }
}  # fmt: skip
GONE = {"ContainersDeleted": ["2"], "SpaceReclaimed": 8192}
ARCHIVES = {"ImagesDeleted": [{"Deleted": "sha256:bbbb"}], "SpaceReclaimed": 1 << 20}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSupervisor]:
    with FakeSupervisor(tmp_path / "s") as supervisor:
        monkeypatch.setenv("ENGINE_SOCKET", str(supervisor.path))
        monkeypatch.setenv("TZ", "UTC")
        supervisor.on("GET", "/system/df", reply(DF))
        supervisor.on("POST", "/containers/prune", reply(GONE))
        supervisor.on("POST", "/images/prune", reply(ARCHIVES))
        yield supervisor


def asked(fake: FakeSupervisor) -> list[str]:
    return [request.path for request in fake.requests if request.method == "POST"]


def test_df(fake: FakeSupervisor, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["df"]) == 0
    assert capfd.readouterr() == (
        """\
TYPE                TOTAL   ACTIVE   SIZE     RECLAIMABLE
Unpacked archives   2       1        4 MiB    1 MiB (25%)
Layers              2       1        16 KiB   8 KiB (50%)
Logs                2       1        4 KiB    0 B (0%)

Free on the file system: 10 GiB; 1 GiB are kept free.
""",
        "",
    )
    assert main.main(["df", "-v"]) == 0
    out = capfd.readouterr().out
    assert "aaaaaaaaaaaa   3 MiB   7       1       2026-01-31 10:00:00   /a\\x1b.tar\n" in out
    assert "two         exited    8 KiB   0 B\n" in out
    assert main.main(["df", "--format", "json"]) == 0
    out = capfd.readouterr().out
    assert (json.loads(out), out.count("\n")) == (DF, 1)
    assert main.main(["df", "--format", "{{len .Wherry.Archives}}"]) == 0
    assert capfd.readouterr().out == "2\n"
    assert len(fake.requests) == 4


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        ([], ["/containers/prune", "/images/prune"]),
        (["--containers", "--rootfs"], ["/containers/prune", "/images/prune"]),
        (["--containers"], ["/containers/prune"]),
        (["--rootfs"], ["/images/prune"]),
    ],
)
def test_what_is_pruned(
    fake: FakeSupervisor, capfd: pytest.CaptureFixture[str], words: list[str], paths: list[str]
) -> None:
    assert main.main(["prune", "-f", *words]) == 0
    assert asked(fake) == paths
    out = capfd.readouterr().out
    assert ("Removed containers:\n2\n" in out) == ("/containers/prune" in paths)
    assert ("Removed unpacked archives:\nsha256:bbbb\n" in out) == ("/images/prune" in paths)
    assert out.endswith("Total reclaimed space: 1.008 MiB\n") == (len(paths) == 2)


def test_filters(fake: FakeSupervisor, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["prune", "-f", "--until", "2026-01-31T10:00:00Z", "--label", "a=1", "--label", "b"]) == 0
    assert {request.query["filters"] for request in fake.requests} == {
        '{"label":["a=1","b"],"until":["1769853600.000000000"]}'
    }
    capfd.readouterr()
    with_words = main.main(["prune", "-f", "--until", "yesterday"])
    assert with_words == 2
    assert "'yesterday' is no duration, RFC 3339 time" in capfd.readouterr().err


def test_nobody_to_ask(
    fake: FakeSupervisor, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main.main(["prune"]) == 1
    assert capfd.readouterr() == ("", "engine: stdin is no terminal to ask on: say --force\n")
    assert fake.requests == []


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("YES", 0), ("", 1), ("n", 1), ("\x04", 1)])
def test_asks_on_a_terminal(
    fake: FakeSupervisor, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    terminal, ours = pty.openpty()
    try:
        with os.fdopen(ours, "r") as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            os.write(terminal, answer.encode() + b"\n")
            assert main.main(["prune"]) == code
    finally:
        os.close(terminal)
    out = capfd.readouterr().out
    assert "  - 1 containers that do not run, with layers and logs (8 KiB)\n" in out
    assert "  - 1 unpacked archives (1 MiB), and those that only these containers use\n" in out
    assert bool(asked(fake)) == (code == 0)
