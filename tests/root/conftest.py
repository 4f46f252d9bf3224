"""A supervisor of its own for each test, and the proof that nothing of it is left on the machine afterwards."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from armed import arm, host, limiter
from harness import REPOSITORY, Supervisor, Traces, wait_until

__all__ = ["arm", "host", "limiter"]


@pytest.fixture(scope="session")
def rootfs() -> Path:
    """build/rootfs, made if need be. Not to be written to: containers run on layers over it."""
    path = REPOSITORY / "build/rootfs"
    if not path.is_dir():
        subprocess.run(["make", "build/stamps/rootfs"], cwd=REPOSITORY, check=True, timeout=600)
    return path


@pytest.fixture
def leftovers(tmp_path: Path) -> Iterator[Traces]:
    """After the test there must be no process, mount, control group or socket of it, when the kernel has cleaned up."""
    traces = Traces(tmp_path)
    assert traces.find() == []
    yield traces
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not traces.find())
    found = traces.find()
    traces.clear()
    assert found == []


@pytest.fixture
def supervisor(tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Supervisor]:
    """Ready to serve; stopped by SIGTERM after the test, where it must exit with 0 and leave nothing."""
    with Supervisor(tmp_path, rootfs, leftovers).serving() as instance:
        yield instance
