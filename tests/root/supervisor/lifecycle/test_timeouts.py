"""``--timeout``: the end of a container whose time is over, whatever it does about that."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry import InvalidRequest

pytestmark = pytest.mark.root

STUBBORN = "trap '' TERM INT HUP; setsid sleep 1000 & echo up; while :; do sleep 1; done"


def test_all_of_it_is_killed_and_its_output_kept(supervisor: Supervisor, rootfs: Path) -> None:
    result = supervisor.client.run("c", str(rootfs), ["/bin/sh", "-c", STUBBORN], timeout=0.5)
    assert (result.reason, result.exit_code, result.stdout) == ("timed_out", 137, b"up\n")
    done = supervisor.engine("run", "--timeout", "0.2", "d", rootfs, "/bin/sleep", "1000", check=False)
    assert (done.returncode, done.stderr) == (137, "engine: d: killed: its time was over\n")
    assert "exited (timed out)" in supervisor.engine("ps").stdout
    assert supervisor.client.inspect("c")["Wherry"]["Timeout"] == 500_000_000
    quick = supervisor.client.run("e", str(rootfs), ["/bin/true"], timeout=1000)
    assert (quick.reason, quick.exit_code) == ("exited", 0)


def test_it_holds_over_supervisors(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.start("c", str(rootfs), ["/bin/sh", "-c", STUBBORN], timeout=1)
    supervisor.kill()
    supervisor.restart()
    wait_until(lambda: [entry["reason"] for entry in supervisor.ps()] == ["timed_out"])


def test_what_is_no_time_is_refused_and_leaves_nothing(supervisor: Supervisor, rootfs: Path) -> None:
    for word in ("0", "-1", "soon"):
        done = supervisor.engine("run", f"--timeout={word}", "c", rootfs, "/bin/true", check=False)
        assert done.returncode == 125
        assert "is not a number of seconds above 0" in done.stderr
    with pytest.raises(InvalidRequest, match="timeout: expected a number of seconds above 0"):
        supervisor.client.run("c", str(rootfs), ["/bin/true"], timeout=0)
    assert supervisor.ps() == []
