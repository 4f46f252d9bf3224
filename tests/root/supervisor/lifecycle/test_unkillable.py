"""Case 4: a process that SIGKILL does not end. Nobody waits for it for ever, and everybody is told what it is.

The process is really unkillable: it waits in the kernel for a file system that does not answer (``hanging``).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
from tests.root.harness import Supervisor
from tests.root.supervisor.lifecycle.hanging import HangingFileSystem
from tests.waiting import wait_until

from wherry.errors import NotKilled, WherryError

pytestmark = [
    pytest.mark.root,
    pytest.mark.host_variant,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="this kernel has no FUSE"),
]

STATE = r"pid \d+ \('cat'\) is in state D \(disk sleep\)"


@pytest.fixture
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HangingFileSystem]:
    """Outside of the test's own directory, in which the supervisor's fixture looks for traces."""
    instance = HangingFileSystem(tmp_path_factory.mktemp("hanging") / "mount")
    with contextlib.closing(instance):
        yield instance


def hang(supervisor: Supervisor, hanging: HangingFileSystem, name: str = "c") -> None:
    """A container whose only process cannot be killed."""
    supervisor.engine("start", "-v", f"{hanging.path}:/v", name, supervisor.rootfs, "/bin/cat", "/v/hang")
    assert hanging.is_hanging.wait(20)


def test_stop_and_rm_say_what_does_not_end(hanging: HangingFileSystem, supervisor: Supervisor) -> None:
    hang(supervisor, hanging)
    (pid,) = (entry["pid"] for entry in supervisor.ps())
    with pytest.raises(NotKilled, match=f"c does not end: .*{STATE}.*control group /wherry/") as caught:
        supervisor.client.stop("c", 0)
    assert f"pid {pid} " in str(caught.value)
    done = supervisor.engine("rm", "-f", "c", check=False, timeout=60)
    assert done.returncode == 1
    assert "state D (disk sleep)" in done.stderr
    supervisor.engine("kill", "c")  # returns at once
    assert [(entry["state"], entry["being_killed"]) for entry in supervisor.ps()] == [("running", True)]
    assert "running (being killed)" in supervisor.engine("ps").stdout
    assert supervisor.client.inspect("c")["State"]["Status"] == "running"
    hanging.let_go()
    assert supervisor.client.wait("c") == 137
    assert supervisor.ps()[0]["reason"] == "stopped"
    supervisor.engine("rm", "c")


@pytest.mark.docker
def test_dockers_client_shows_it(hanging: HangingFileSystem, supervisor: Supervisor) -> None:
    hang(supervisor, hanging)
    supervisor.engine("kill", "c")
    listing = supervisor.command(
        "docker", "-H", f"unix://{supervisor.socket}", "ps", "--format", "{{.Names}} {{.Status}}"
    )
    assert listing.startswith("c Up ")
    assert listing.endswith("(being killed)\n")
    hanging.let_go()
    assert supervisor.client.wait("c") == 137


def test_the_end_of_the_supervisor_is_bounded(hanging: HangingFileSystem, supervisor: Supervisor) -> None:
    """It says what remains, which stays with the shim; the next one goes on with it."""
    hang(supervisor, hanging)
    supervisor.engine("start", "other", supervisor.rootfs, "/bin/sleep", "1000")
    pids = {entry["name"]: entry["pid"] for entry in supervisor.ps()}
    assert supervisor.process is not None
    supervisor.process.send_signal(signal.SIGTERM)
    assert supervisor.process.wait(60) == 1
    log = supervisor.log.read_text()
    assert "left behind: c does not end" in log
    assert f"pid {pids['c']} ('cat') is in state D" in log
    assert not os.path.exists(f"/proc/{pids['other']}")
    supervisor.kill()
    supervisor.restart()
    entries = {entry["name"]: entry for entry in supervisor.ps()}
    assert (entries["other"]["state"], entries["other"]["reason"]) == ("exited", "stopped")
    assert (entries["c"]["state"], entries["c"]["being_killed"], entries["c"]["pid"]) == ("running", True, pids["c"])
    hanging.let_go()
    assert supervisor.client.wait("c") == 137


def test_a_start_that_hangs_does_not_hang_stop_or_the_end(hanging: HangingFileSystem, supervisor: Supervisor) -> None:
    """The first process is set up, and sits in the kernel: a working directory that does not answer."""
    words = ["start", "-v", f"{hanging.path}:/v", "-w", "/v/hang", "c", str(supervisor.rootfs), "/bin/true"]
    with supervisor.popen(*words) as starting:
        assert hanging.is_hanging.wait(20)
        try:
            with pytest.raises(WherryError, match="a start, pause, change or removal of it has not come to its end"):
                supervisor.client.stop("c", 0)
        finally:
            hanging.let_go()
        assert starting.wait(30) != 0
    wait_until(lambda: supervisor.ps() == [])
