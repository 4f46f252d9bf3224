"""Starting what is there already: by its name alone, or in the place of another."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry import Client, CommandNotFound, InvalidRequest, NotFound

pytestmark = pytest.mark.root


def test_a_name_alone_starts_what_has_ended_as_it_was_made(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 31."""
    script = "echo $A >> /count; wc -l < /count; [ $(wc -l < /count) = 1 ] || sleep 1000"
    client = supervisor.client
    client.run("job", str(rootfs), ["/bin/sh", "-c", script], env={"A": "x"}, hard_mib=64)
    identity = client.inspect("job")["Id"]
    said = supervisor.engine("start", "job").stdout
    (entry,) = supervisor.ps()
    assert said == f"OK: job started, pid={entry['pid']}\n"
    assert (entry["id"], entry["hard_bytes"]) == (identity, 64 << 20)
    wait_until(lambda: supervisor.engine("logs", "job").stdout == "1\n2\n")
    again = client.start(identity[:12])
    assert (again.name, again.id, again.pid, again.was_running) == ("job", identity, entry["pid"], True)
    assert supervisor.engine("start", "job").stdout == f"OK: job was running already, pid={entry['pid']}\n"
    with pytest.raises(NotFound):
        client.start("nobody")
    with pytest.raises(InvalidRequest, match="memory needs rootfs and command"):
        client.start("job", memory="64m")
    stopped = supervisor.engine("stop", "job")
    assert (stopped.stdout, stopped.stderr) == ("job\n", "")
    stopped = supervisor.engine("stop", "job")
    assert (stopped.stdout, stopped.stderr, stopped.returncode) == ("job\n", "engine: job was not running\n", 0)


def test_a_start_by_name_that_fails_says_why(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    """Case 31."""
    (tmp_path / "v").mkdir()
    supervisor.client.run("job", str(rootfs), ["/bin/true"], volumes=[f"{tmp_path}/v:/v"])
    (tmp_path / "v").rmdir()
    failed = supervisor.engine("start", "job", check=False)
    assert failed.returncode == 125
    assert failed.stderr.startswith("engine: cannot start job: ")
    (tmp_path / "v").mkdir()
    assert supervisor.engine("start", "job").stdout.startswith("OK: job started")


@pytest.mark.parametrize("state", ["running", "ended", "removes itself", "none"])
def test_replace_stops_and_removes_who_has_the_name(supervisor: Supervisor, rootfs: Path, state: str) -> None:
    """Case 31."""
    client = supervisor.client
    script = "trap 'exit 3' TERM; echo old; while :; do sleep 0.05; done"
    old = ""
    if state != "none":
        old = client.start("web", str(rootfs), ["/bin/sh", "-c", script], rm=state == "removes itself").id
        wait_until(lambda: supervisor.engine("logs", "web").stdout == "old\n")
    if state == "ended":
        client.stop("web")
    said = supervisor.engine("start", "--replace", "web", rootfs, "/bin/sh", "-c", "echo new; sleep 1000").stdout
    (entry,) = supervisor.ps()
    assert said == f"OK: web started, pid={entry['pid']}\n"
    wait_until(lambda: supervisor.engine("logs", "web").stdout == "new\n")
    if old:
        assert entry["id"] != old
        assert client.wait(old) == 3  # it was asked to end, and had the time to
    wait_until(lambda: len(list((supervisor.state_dir / "containers").glob("*/upper"))) <= 1 + 2 + 2)
    result = client.run("web", str(rootfs), ["/bin/echo", "newest"], replace=True)
    assert (result.stdout, len(supervisor.ps())) == (b"newest\n", 1)


def test_what_cannot_be_started_does_not_cost_the_old_one(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 31: as far as it can be known before; else the error says what became of the old one."""
    client = supervisor.client
    old = client.start("web", str(rootfs), ["/bin/sleep", "1000"])
    for wrong in ("/no/such/rootfs", str(rootfs / "bin/busybox")):
        with pytest.raises(InvalidRequest, match="rootfs"):
            client.start("web", wrong, ["/bin/true"], replace=True)
    wrong_nice: dict[str, object] = {"Cmd": ["x"], "Wherry": {"Rootfs": str(rootfs), "Nice": 99}}
    with pytest.raises(InvalidRequest, match="nice"):
        client._fetch("POST", "/wherry/run", {"name": "web", "replace": "1"}, wrong_nice)
    assert client.inspect("web")["Id"] == old.id
    assert client.inspect("web")["State"]["Running"] is True
    with pytest.raises(CommandNotFound, match="the container that had the name was stopped and removed before"):
        client.start("web", str(rootfs), ["/no/such"], replace=True)
    assert supervisor.ps() == []
    with pytest.raises(CommandNotFound) as raised:
        client.start("web", str(rootfs), ["/no/such"], replace=True)
    assert "removed before" not in str(raised.value)


def test_replace_needs_a_name(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 31."""
    with pytest.raises(InvalidRequest, match="name"):
        supervisor.client.start(None, str(rootfs), ["/bin/true"], replace=True)
    with pytest.raises(InvalidRequest, match="its name must be given"):
        supervisor.client._fetch(
            "POST", "/wherry/run", {"replace": "1"}, {"Cmd": ["x"], "Wherry": {"Rootfs": str(rootfs)}}
        )


def test_many_that_replace_each_other_leave_one(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 31: nobody gets NameInUse, and nothing is left of the others."""
    failures: list[BaseException] = []

    def start(number: int) -> None:
        try:
            with Client(str(supervisor.socket)) as client:
                client.start("web", str(rootfs), ["/bin/sleep", str(1000 + number)], replace=True)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert [(entry["name"], entry["state"]) for entry in supervisor.ps()] == [("web", "running")]
