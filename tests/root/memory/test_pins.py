"""``--pin-enforcer``: hard limits go on when supervisor and shim die together, and nothing is left in the end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.root.harness import Traces
from tests.root.patched import Patched
from tests.root.supervisor.lifecycle.test_enforcement_takeover import HARD, Hog
from tests.waiting import wait_until

from wherry.memory.pins import Pins

pytestmark = pytest.mark.root


@pytest.fixture
def bpffs(tmp_path: Path, leftovers: Traces) -> Iterator[Path]:
    path = tmp_path / "bpf"
    path.mkdir()
    leftovers.mounts.add(str(path))
    subprocess.run(["mount", "-t", "bpf", "-o", "mode=1777", "bpf", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.fixture
def supervisor(tmp_path: Path, rootfs: Path, leftovers: Traces, bpffs: Path) -> Iterator[Patched]:
    """In the end nothing is pinned any more."""
    options = ("--memory-enforcer", "bpf", "--pin-enforcer", bpffs)
    instance = Patched(tmp_path, rootfs, leftovers, *options)
    with instance.serving():
        yield instance
    assert list(bpffs.glob("wherry-*")) == []


def kill_both(supervisor: Patched) -> None:
    shim = int(supervisor.info()["shim_pid"])
    supervisor.kill()
    os.kill(shim, signal.SIGKILL)


def pinned(bpffs: Path) -> list[str]:
    return sorted(path.name for path in bpffs.glob("wherry-*/set-*/*"))


@pytest.mark.parametrize("is_newer", [False, True])
def test_limits_hold_while_nobody_lives(supervisor: Patched, rootfs: Path, is_newer: bool) -> None:
    hog, other = Hog(supervisor, rootfs, "hog", pace=1), Hog(supervisor, rootfs, "other")
    kill_both(supervisor)
    hog.go()
    wait_until(lambda: hog.reached() > HARD // 4 and hog.grower() is None)
    assert hog.reached() <= HARD // 2 + (256 << 10)
    if is_newer:
        supervisor.upgrade()
    supervisor.restart()
    reasons = {entry["name"]: entry["reason"] for entry in supervisor.ps()}
    assert reasons == {"hog": "lost" if is_newer else "hard_limit", "other": "lost"}
    wait_until(lambda: not hog.is_alive() and not other.is_alive())


def test_pins_are_there_while_something_is_limited(supervisor: Patched, rootfs: Path, bpffs: Path) -> None:
    supervisor.client.start("c", str(rootfs), ["/bin/sleep", "1000"], hard_mib=64)
    before = pinned(bpffs)
    assert {name.split("-", 1)[1] for name in before} >= {"containers", "mms", "rss_stat", "@bss"}
    (directory,) = bpffs.glob("wherry-*")
    assert directory.stat().st_mode & 0o777 == 0o700
    supervisor.kill()
    supervisor.restart()
    assert pinned(bpffs) == before  # and one set of them
    supervisor.client.rm("c", force=True)
    wait_until(lambda: not pinned(bpffs))


def test_without_the_option_what_was_pinned_goes(supervisor: Patched, rootfs: Path, bpffs: Path) -> None:
    """Where pins usually are; elsewhere nobody looks."""
    supervisor.client.start("c", str(rootfs), ["/bin/sleep", "1000"], hard_mib=64)
    kill_both(supervisor)
    prelude = f"from wherry.supervisor.memory_watch import keeping\nkeeping.BPFFS = {str(bpffs)!r}\n"
    options, supervisor.options = supervisor.options, ()
    supervisor.prelude = prelude
    supervisor.restart()
    assert pinned(bpffs) == []
    supervisor.options = options


def test_a_directory_of_somebody_else_is_not_used(supervisor: Patched, rootfs: Path, bpffs: Path) -> None:
    instance = str(supervisor.info()["cgroup_parent"]).rpartition("/")[2]
    directory = bpffs / f"wherry-{instance}"
    wait_until(lambda: not directory.exists())  # the self-test was the last that had a limit
    directory.mkdir()
    directory.chmod(0o777)
    supervisor.client.start("c", str(rootfs), ["/bin/sleep", "1000"], hard_mib=64)
    assert pinned(bpffs) == []
    assert "memory limits cannot be pinned" in supervisor.log.read_text()
    supervisor.client.rm("c", force=True)
    directory.rmdir()


def test_what_is_no_bpffs_is_refused(tmp_path: Path, rootfs: Path, leftovers: Traces) -> None:
    supervisor = Patched(tmp_path, rootfs, leftovers)
    words = ("supervisor", rootfs, "--state-dir", tmp_path / "s", "--pin-enforcer", tmp_path)
    done = supervisor.engine(*words, check=False)
    assert done.returncode == 1
    assert f"--pin-enforcer: {tmp_path} is no bpffs" in done.stderr
    assert "mount -t bpf" in done.stderr
    supervisor._notices.close()


def test_a_set_that_was_not_completed_is_not_read(bpffs: Path) -> None:
    """Its supervisor was killed while it made it; it goes with what is next said."""
    pins = Pins(str(bpffs), "x")
    own = bpffs / "wherry-x"
    own.mkdir(mode=0o700)
    (own / "new-1").mkdir()
    assert pins.open_all() == {}
    pins.replace({})
    assert not own.exists()
