"""Many containers with limits, one after another, and the death of the process that keeps their limits."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.root.harness import REPOSITORY, Supervisor, Traces
from tests.root.memory.armed import links_of
from tests.waiting import wait_until

from wherry.kernel.polling import readable

pytestmark = [pytest.mark.root, pytest.mark.slow_start]

GROW = f"{REPOSITORY}/build/workloads/memory_grow:/memory_grow:ro"


def descriptors(*pids: int) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def test_a_thousand_cycles_leak_nothing(supervisor: Supervisor, rootfs: Path) -> None:
    client = supervisor.client
    script = "[ $0 = 0 ] && exec /memory_hog 1 0 100; exit 3"

    def cycle(number: int) -> str:
        ends = str(number % 50)
        command = ["/bin/sh", "-c", script, ends]
        return client.run(None, str(rootfs), command, soft_mib=16, hard_mib=24, rm=True).reason

    info = supervisor.info()
    processes = (int(info["pid"]), int(info["shim_pid"]))
    for number in range(20):
        cycle(number)
    before = descriptors(*processes)
    reasons = [cycle(number) for number in range(1000)]
    assert (reasons.count("hard_limit"), reasons.count("exited")) == (20, 980)
    # What is prepared ahead, and connections, come and go; twenty of a thousand would be a leak.
    wait_until(lambda: descriptors(*processes) < before + 20)
    assert supervisor.info()["enforcer_dropped"] == 0


def test_limits_hold_when_the_shim_has_died_and_a_new_one_keeps_them(supervisor: Supervisor, rootfs: Path) -> None:
    client = supervisor.client
    (supervisor.directory / "go").mkdir()
    script = "while [ ! -e /go/go ]; do sleep 0.01; done; exec /memory_grow pages 500 1"
    volumes = [GROW, f"{supervisor.directory}/go:/go:ro"]
    for name in ("now", "later"):
        client.start(name, str(rootfs), ["/bin/sh", "-c", script], volumes=volumes, hard_mib=32)
    shim = int(supervisor.info()["shim_pid"])
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: int(supervisor.info()["shim_pid"]) != shim)
    client.start("new", str(rootfs), ["/bin/sh", "-c", script], volumes=volumes, hard_mib=32)
    (supervisor.directory / "go/go").touch()
    for name in ("now", "later", "new"):
        client.wait(name)
    assert {entry.name: entry.reason for entry in client.ps()} == dict.fromkeys(("now", "later", "new"), "hard_limit")
    # What the new shim keeps is whole: the next supervisor goes on with it.
    supervisor.kill()
    supervisor.restart()
    assert client.run("last", str(rootfs), ["/memory_hog", "1", "0", "500"], hard_mib=32).reason == "hard_limit"


def test_programs_are_attached_only_while_there_is_a_limit(tmp_path: Path, rootfs: Path, leftovers: Traces) -> None:
    """And the shim has them as well whenever a limited container runs, so that the limit outlives the supervisor."""
    with Supervisor(tmp_path, rootfs, leftovers, "--memory-enforcer", "bpf").serving() as supervisor:
        info, client = supervisor.info(), supervisor.client
        pids = (int(info["pid"]), int(info["shim_pid"]))
        wait_until(lambda: [links_of(pid) for pid in pids] == [0, 0])  # the self-test was some time ago
        client.start("free", str(rootfs), ["/bin/sleep", "1000"])
        assert [links_of(pid) for pid in pids] == [0, 0]
        client.start("limited", str(rootfs), ["/bin/sleep", "1000"], hard_mib=32)
        assert links_of(pids[0]) >= 2
        wait_until(lambda: links_of(pids[1]) == links_of(pids[0]))
        client.rm("limited", force=True)
        wait_until(lambda: [links_of(pid) for pid in pids] == [0, 0])
        # The first one after that, whose supervisor does not live to see it grow.
        go = supervisor.directory / "go"
        go.mkdir()
        script = "while [ ! -e /go/go ]; do sleep 0.01; done; exec /memory_hog 1 0 500"
        started = client.start("orphan", str(rootfs), ["/bin/sh", "-c", script], hard_mib=32, volumes=[f"{go}:/go:ro"])
        pidfd = os.pidfd_open(started.pid)
        supervisor.kill()
        (go / "go").touch()
        wait_until(lambda: readable([pidfd], 0))
        os.close(pidfd)
        supervisor.restart()
        client.wait("orphan")
        assert {entry.name: entry.reason for entry in client.ps() if entry.name == "orphan"} == {"orphan": "hard_limit"}
