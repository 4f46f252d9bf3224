"""New soft and hard limits for containers that run, under each enforcer that works here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.root.harness import Supervisor, Traces
from tests.waiting import wait_until

from wherry.errors import NotSupported

if TYPE_CHECKING:
    from wherry.client.config import Changes

pytestmark = pytest.mark.root

HOG = "/memory_hog 88 80000000 176"
"""88 MiB at once, and no more for a day."""
MIB = 1 << 20


def wait_for(name: str) -> str:
    """A command of a shell: until that file is in the volume /go."""
    return f"while [ ! -e /go/{name} ]; do sleep 0.01; done"


def grown_to(supervisor: Supervisor, name: str, mib: int) -> None:
    wait_until(lambda: f", {mib} MiB held" in supervisor.engine("logs", name).stdout)


@pytest.fixture(params=["bpf", "cgroup"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Supervisor]:
    with Supervisor(tmp_path, rootfs, leftovers, "--memory-enforcer", request.param).serving() as made:
        yield made


def test_limits_are_raised_and_lowered(supervisor: Supervisor, rootfs: Path) -> None:
    """The program takes memory only once its new limits are there."""
    client, go = supervisor.client, supervisor.directory / "go"
    go.mkdir()
    script = f"{wait_for('raised')}; {HOG} & {wait_for('lowered')}; exec {HOG}"
    client.start("c", str(rootfs), ["/bin/sh", "-c", script], soft_mib=40, hard_mib=48, volumes=[f"{go}:/go:ro"])
    supervisor.engine("update", "--hard-mib", "1000", "c")
    client.update("c", soft_mib=64)
    (go / "raised").touch()
    grown_to(supervisor, "c", 88)
    held = client.stats("c")["Wherry"]["Memory"]
    assert 88 * MIB <= held["Rss"] <= held["Peak"] < 1000 * MIB
    client.update("c", hard_mib=136)
    (go / "lowered").touch()
    assert (client.wait("c"), client.ps()[0].reason) == (137, "hard_limit")
    found = client.inspect("c")["Wherry"]
    assert (found["SoftLimit"], found["HardLimit"], found["MemoryDeath"]["Limit"]) == (64 * MIB, 136 * MIB, 136 * MIB)
    soft = client.events(since_ns=1, until_ns=time.time_ns(), filters={"event": "soft-limit"})
    assert [event.attributes["limit"] for event in soft] == [str(64 * MIB)]


def test_a_limit_that_it_was_not_started_with(supervisor: Supervisor, rootfs: Path) -> None:
    client = supervisor.client
    client.start("plain", str(rootfs), ["/bin/sleep", "1000"])
    client.start("soft", str(rootfs), ["/bin/sleep", "1000"], soft_mib=64)
    changes: list[tuple[str, str, Changes]] = [
        ("plain", "soft", {"soft_mib": 100, "nice": 5}),
        ("soft", "hard", {"hard_mib": 100, "nice": 5}),
    ]
    for name, what, change in changes:
        with pytest.raises(NotSupported, match=f"{name} runs without a {what} limit"):
            client.update(name, **change)
        entry = client.inspect(name)
        assert (entry["Wherry"]["Nice"], entry["Wherry"]["HardLimit"]) == (0, None)
        assert supervisor.control_file(name, "cpu", "cpu.shares", "cpu.weight") in {"1024", "100"}
