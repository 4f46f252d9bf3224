"""What becomes of a container that has a hard limit and takes memory of each kind, with the memory group behind it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.root.harness import REPOSITORY, Supervisor, Traces
from tests.root.memory.contract import SUPERVISED, Promise
from tests.waiting import wait_until

from wherry.kernel import cgroups

pytestmark = pytest.mark.root

ENFORCERS = os.environ.get("WHERRY_ENFORCERS", "bpf cgroup").split()
KINDS = f"{REPOSITORY}/build/workloads/memory_kinds:/kinds:ro"
VERSION = cgroups.detect().version
REASONS = {Promise.HARD_LIMIT: "hard_limit", Promise.OOM: "oom"}


@pytest.fixture(params=ENFORCERS)
def limited(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Supervisor]:
    options = ("--memory-enforcer", request.param)
    with Supervisor(tmp_path, rootfs, leftovers, *options).serving() as supervisor:
        yield supervisor


def test_every_kind_of_memory(limited: Supervisor, rootfs: Path, huge_pages: None) -> None:  # noqa: ARG001
    enforcer = limited.info()["enforcer"]
    column = f"cgroup{VERSION}" if enforcer == "cgroup" else enforcer
    promised = {kind: case.promised(column) for kind, case in SUPERVISED.items()}
    for kind in SUPERVISED:
        limited.client.start(kind, str(rootfs), ["/kinds", kind, "48", "1"], hard_mib=32, volumes=[KINDS])
    for kind, promise in promised.items():
        if promise is Promise.GOES_ON:
            wait_until(lambda kind=kind: "done" in limited.engine("logs", kind).stdout)  # type: ignore[misc]
            limited.client.stop(kind, 0)
        else:
            limited.client.wait(kind)
    found = {entry.name: entry.reason for entry in limited.client.ps()}
    assert found == {kind: REASONS.get(promise, "stopped") for kind, promise in promised.items()}
    assert all("done" not in limited.engine("logs", kind).stdout for kind in SUPERVISED if found[kind] != "stopped")
    for kind in SUPERVISED:
        limited.client.rm(kind)
