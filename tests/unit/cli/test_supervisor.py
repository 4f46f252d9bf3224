"""engine supervisor: what it hands over to the daemon."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.unit.cli.conftest import Engine


class StubSupervisor(ModuleType):
    """Stands for wherry.daemon: what the command line hands over is what is tested."""

    def __init__(self) -> None:
        super().__init__("wherry.daemon")
        self.calls: list[tuple[object, ...]] = []

    def check(self, rootfs: str | None) -> int:
        self.calls.append(("check", rootfs))
        return 4

    def run_supervisor(self, *arguments: object, **options: object) -> int:
        self.calls.append((*arguments, options))
        return 3


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubSupervisor:
    module = StubSupervisor()
    monkeypatch.setitem(sys.modules, "wherry.daemon", module)
    monkeypatch.delenv("ENGINE_SOCKET", raising=False)
    return module


def test_supervisor_hands_its_options_over(
    stub: StubSupervisor, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert engine("supervisor") == (3, "", "")
    words = ("--debug", "--prepared", "0", "--state-dir", "d", "--socket", "s", "--memory-enforcer", "bpf")
    more: tuple[str, ...] = ("--pin-enforcer", "/sys/fs/bpf")
    more += ("--default-pids-limit", "-1", "--rootfs-limit", "0", "--rootfs-cache", "2g", "--disk-reserve", "100m")
    more += ("--userns", "auto", "--userns-range", "1:2:65536")
    assert engine("supervisor", "rootfs", *words, *more)[0] == 3
    assert engine("--socket", "unix:///s", "supervisor", "/r")[0] == 3
    usual = {
        "debug": False,
        "prepared": 2,
        "enforcer": "auto",
        "bpffs": None,
        "allow_containers": False,
        "pids_limit": 2048,
        "userns": "host",
        "userns_range": "",
    }
    usual |= {"disk": {}}
    limits = {"unpacked": 0, "entries": 0, "cache": 2 << 30, "reserve": 100 << 20}
    given = usual | {"debug": True, "prepared": 0, "enforcer": "bpf", "bpffs": "/sys/fs/bpf"}
    given |= {"pids_limit": None, "disk": limits, "userns": "auto", "userns_range": "1:2:65536"}
    assert stub.calls == [
        (None, "/run/wherry/engine.sock", "/var/lib/wherry", usual),
        (f"{tmp_path}/rootfs", f"{tmp_path}/s", f"{tmp_path}/d", given),
        ("/r", "/s", "/var/lib/wherry", usual),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [
                "",
            ],
            "ROOTFS: the path is empty",
        ),
    ],
)
def test_supervisor_refuses_empty_paths(stub: StubSupervisor, engine: Engine, words: list[str], message: str) -> None:
    assert engine("supervisor", *words) == (1, "", f"engine: {message}\n")
    assert stub.calls == []
