"""The auditor: figures of the enforcer against those of the kernel, of containers that run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.root.harness import Traces
from tests.root.patched import Patched
from tests.waiting import wait_until

pytestmark = pytest.mark.root

OFTEN = """
from wherry.supervisor.memory_watch import audit
audit.SECONDS = 0.05
"""
ASTRAY = """
from wherry.memory import bpf, selftest
stat = bpf.BpfLimiter.stat
def astray(self, container_id):
    found = stat(self, container_id)
    return found if container_id == selftest._ID else found._replace(rss_bytes=found.rss_bytes + (64 << 20))
bpf.BpfLimiter.stat = astray
"""


@pytest.fixture
def supervisor(tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Patched]:
    instance = Patched(tmp_path, rootfs, leftovers, "--memory-enforcer", "bpf")
    instance.prelude = OFTEN
    with instance.serving():
        yield instance


def start(supervisor: Patched, rootfs: Path) -> None:
    script = "for i in 1 2 3; do sleep 1000 & done; wait"
    supervisor.client.start("plain", str(rootfs), ["/bin/sh", "-c", script], hard_mib=64)
    supervisor.client.start("init", str(rootfs), ["/bin/sleep", "1000"], hard_mib=64, init=True)
    wait_until(lambda: supervisor.info()["enforcer_drift"] is not None)


def test_figures_that_are_right_are_near_zero(supervisor: Patched, rootfs: Path) -> None:
    """Our init, some 10 MiB that no enforcer counts, is none of them."""
    start(supervisor, rootfs)
    wait_until(lambda: abs(supervisor.info()["enforcer_drift"]) < 4 << 20)
    assert "beside what the kernel shows" not in supervisor.log.read_text()


def test_a_figure_that_has_gone_astray_is_shown_and_logged_once(supervisor: Patched, rootfs: Path) -> None:
    supervisor.stop()
    supervisor.prelude = OFTEN + ASTRAY
    supervisor.restart()
    start(supervisor, rootfs)
    wait_until(lambda: supervisor.info()["enforcer_drift"] > 60 << 20)
    wait_until(lambda: supervisor.log.read_text().count("beside what the kernel shows") == 2)  # of two containers
    assert supervisor.info()["enforcer_drift_of"] in {"plain", "init"}
    assert "bytes beside what the kernel shows of" in supervisor.engine("info").stdout
