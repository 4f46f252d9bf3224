"""The README's memory tour with the kernel module as the enforcer. More of the engine: tests/vm/test_engine.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.root.conftest import leftovers, rootfs
from tests.root.harness import Supervisor, Traces
from tests.vm.inside.watched import MIB, kernel_log
from tests.waiting import wait_until

__all__ = ["leftovers", "rootfs"]


@pytest.fixture
def engine(module: None, tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Supervisor]:  # noqa: ARG001
    """``auto`` must choose the module, which passes its self-test."""
    with Supervisor(tmp_path, rootfs, leftovers).serving() as supervisor:
        info = supervisor.info()
        assert (info["enforcer"], info["cgroup_version"]) == ("kmod", 2)
        yield supervisor


def ended(engine: Supervisor, name: str) -> tuple[str, int]:
    wait_until(lambda: engine.client.inspect(name)["State"]["Status"] == "exited")
    found = engine.client.inspect(name)
    return found["Wherry"]["Reason"], found["State"]["ExitCode"]


def test_the_readme_s_memory_tour(engine: Supervisor, rootfs: Path) -> None:
    events = engine.client.events()
    limits = ("--soft-mib", "3", "--hard-mib", "6")
    engine.engine("start", "memtest", rootfs, "/memory_hog", "1", "500", *limits)
    kinds = []
    for event in events:
        kinds.append(event.kind)
        if event.kind == "die":
            break
    assert [kind for kind in kinds if kind in ("soft-limit", "hard-limit", "die")] == [
        "soft-limit",
        "hard-limit",
        "die",
    ]
    assert ended(engine, "memtest") == ("hard_limit", 137)
    assert "exited (hard limit)" in engine.engine("ps").stdout
    lines = [line.partition("container_monitor: ")[2] for line in kernel_log() if " id=memtest " in line]
    assert [line.split()[0] for line in lines] == ["SOFT", "HARD"]
    assert f"limit={3 * MIB}" in lines[0]
    assert f"limit={6 * MIB}" in lines[1]
