"""Restart, rename, top, and waiting for several with a limit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry.errors import Conflict, InvalidRequest, NameInUse, NotFound, WaitTimeout

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

STOPS = "trap 'exit 7' TERM; echo begun; while :; do /bin/sleep 0.05; done"


def start(supervisor: Supervisor, name: str = "job", script: str = STOPS, **options: object) -> None:
    command = ["/bin/sh", "-c", script]
    supervisor.client.start(name, str(supervisor.rootfs), command, **options)  # type: ignore[arg-type]
    wait_until(lambda: "begun" in supervisor.engine("logs", name).stdout)


def pid_of(supervisor: Supervisor, name: str = "job") -> int:
    return int(supervisor.client.inspect(name)["State"]["Pid"])


def kinds(supervisor: Supervisor) -> list[str]:
    with supervisor.client.events(since_ns=1, until_ns=time.time_ns()) as events:
        return [event.kind for event in events]


@pytest.mark.parametrize("rm", [False, True])
def test_restart(supervisor: Supervisor, rm: bool) -> None:
    """Also of one that is removed when it ends: nobody has asked for an end."""
    start(supervisor, rm=rm)
    before = pid_of(supervisor)
    assert supervisor.engine("restart", "job").stdout == "job\n"
    assert pid_of(supervisor) not in (0, before)
    wait_until(lambda: supervisor.engine("logs", "job").stdout == "begun\nbegun\n")
    assert kinds(supervisor) == ["create", "start", "kill", "die", "stop", "start", "restart"]
    supervisor.client.stop("job")
    wait_until(lambda: len(supervisor.ps()) == (0 if rm else 1))


def test_restart_of_one_that_does_not_run_or_is_paused(supervisor: Supervisor) -> None:
    supervisor.client.run("job", str(supervisor.rootfs), ["/bin/true"])
    supervisor.client.restart("job")
    assert supervisor.client.wait("job") == 0
    start(supervisor, "other")
    supervisor.client.pause("other")
    supervisor.client.restart("other")
    assert supervisor.client.inspect("other")["State"]["Status"] == "running"


def test_a_restart_whose_start_fails_leaves_what_has_ended(supervisor: Supervisor, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho begun\nexec /bin/sleep 1000\n")
    program.chmod(0o755)
    volumes = [f"{program}:/program:ro"]
    for name, rm in (("job", False), ("gone", True)):
        supervisor.client.start(name, str(supervisor.rootfs), ["/program"], volumes=volumes, rm=rm)
    program.unlink()
    refused = supervisor.engine("restart", "job", "gone", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count(str(program)) == 2
    (left,) = supervisor.ps()
    assert (left["name"], left["state"], left["reason"]) == ("job", "exited", "start_failed")


def test_a_restart_that_is_cut_off(supervisor: Supervisor) -> None:
    """The next supervisor has it stopped, or running; a container that nobody knows there is none."""
    start(supervisor)
    process = supervisor.popen("restart", "job")
    wait_until(lambda: "kill" in kinds(supervisor))
    supervisor.kill()
    process.communicate()
    supervisor.start()
    wait_until(lambda: supervisor.ps()[0]["state"] in ("exited", "running"))
    supervisor.client.restart("job")
    assert supervisor.ps()[0]["state"] == "running"


def test_rename(supervisor: Supervisor) -> None:
    start(supervisor)
    start(supervisor, "other")
    supervisor.engine("rename", "job", "new")
    assert pid_of(supervisor, "new")
    with pytest.raises(NotFound):
        supervisor.client.inspect("job")
    with pytest.raises(NameInUse, match="name in use: other"):
        supervisor.client.rename("new", "other")
    with pytest.raises(InvalidRequest, match="new is the container's name already"):
        supervisor.client.rename("new", "new")
    for wrong in ("", "a/b", "../x", "-x"):
        with pytest.raises(InvalidRequest, match="name"):
            supervisor.client.rename("new", wrong)
    assert kinds(supervisor)[-1] == "rename"


def test_a_name_that_is_free_again_has_a_log_of_its_own(supervisor: Supervisor) -> None:
    """The log of a renamed container stays where it is."""
    start(supervisor)
    supervisor.client.rename("job", "old")
    start(supervisor, script="echo begun again; exec /bin/sleep 1000")
    assert supervisor.engine("logs", "old").stdout == "begun\n"
    assert supervisor.engine("logs", "job").stdout == "begun again\n"
    supervisor.kill()
    supervisor.start()
    assert {entry["name"] for entry in supervisor.ps()} == {"old", "job"}
    assert supervisor.engine("logs", "old").stdout == "begun\n"
    assert supervisor.engine("logs", "job").stdout == "begun again\n"
    supervisor.client.rm("old", force=True)
    assert supervisor.engine("logs", "job").stdout == "begun again\n"
    start(supervisor, "old")
    paths = [entry["log_path"] for entry in supervisor.ps()]
    assert len(set(paths)) == 2
    supervisor.client.rm("job", force=True)
    supervisor.client.rm("old", force=True)
    assert os.listdir(supervisor.state_dir / "logs") == []


def test_a_renamed_container_is_waited_for_and_remembered_by_its_new_name(supervisor: Supervisor) -> None:
    start(supervisor, rm=True)
    supervisor.client.rename("job", "new")
    before = supervisor.connections()
    waiting = supervisor.popen("wait", "new")
    wait_until(lambda: supervisor.connections() > before)
    supervisor.client.stop("new")
    assert waiting.communicate()[0] == "7\n"
    assert supervisor.client.wait("new") == 7
    with pytest.raises(NotFound):
        supervisor.client.wait("job")


def test_top(supervisor: Supervisor) -> None:
    start(supervisor, script="echo begun; /bin/sleep 1000 & exec /bin/sleep 2000")
    table = supervisor.client.top("job")
    assert table.titles[:2] == ("UID", "PID")
    wait_until(lambda: {row[-1] for row in supervisor.client.top("job").rows} == {"/bin/sleep 1000", "/bin/sleep 2000"})
    assert str(pid_of(supervisor)) in {row[1] for row in table.rows}
    shown = supervisor.engine("top", "job", "-o", "pid,args").stdout.splitlines()
    assert shown[0].split() == ["PID", "COMMAND"]
    assert sorted(line.split(None, 1)[1] for line in shown[1:]) == ["/bin/sleep 1000", "/bin/sleep 2000"]
    supervisor.client.pause("job")
    assert len(supervisor.client.top("job", "aux").rows) == 2
    for options, text in (("--nosuch", "ps refuses"), ("-o comm", "no column PID")):
        with pytest.raises(InvalidRequest, match=text):
            supervisor.client.top("job", options)


def test_top_of_what_does_not_run(supervisor: Supervisor) -> None:
    supervisor.client.run("job", str(supervisor.rootfs), ["/bin/true"])
    with pytest.raises(Conflict, match="job is not running"):
        supervisor.client.top("job")
    with pytest.raises(NotFound):
        supervisor.client.top("nobody")


def test_a_process_cannot_write_to_the_terminal_by_its_name(supervisor: Supervisor) -> None:
    """Nor make a row of its own, which would look like another process's."""
    evil = "\x1b]0;owned\x07\x1b[2J\n0 1 root 1 fake\u2028\x9b31m"
    script = "while :; do /bin/sleep 1; done"
    supervisor.client.start("job", str(supervisor.rootfs), ["/bin/sh", "-c", script, evil, "\r"])
    for options in ((), ("aux",), ("-eo", "pid,comm,args")):
        shown = supervisor.engine("top", "job", *options).stdout
        assert shown.count("\n") in (2, 3)  # the title, the shell, and perhaps its sleep
        assert not set("\x1b\x07\r\x9b\u2028") & set(shown)


def test_wait_for_several_with_a_limit(supervisor: Supervisor) -> None:
    start(supervisor)
    supervisor.client.run("done", str(supervisor.rootfs), ["/bin/sh", "-c", "exit 3"])
    late = supervisor.engine("wait", "--timeout", "0.2", "job", "done", check=False)
    assert (late.returncode, late.stdout) == (124, "3\n")
    assert late.stderr == "engine: job has not ended within 0.2 s\n"
    with pytest.raises(WaitTimeout):
        supervisor.client.wait("job", timeout=0)
    before = supervisor.connections()
    waiting = supervisor.popen("wait", "--timeout", "100", "job", "done", "job")
    wait_until(lambda: supervisor.connections() > before)
    supervisor.client.kill("job")
    assert waiting.communicate()[0] == "137\n3\n137\n"


def test_waiting_for_several_is_interrupted_at_once(supervisor: Supervisor) -> None:
    start(supervisor)
    before = supervisor.connections()
    waiting = supervisor.popen("wait", "job", "job")
    wait_until(lambda: supervisor.connections() >= before + 2)
    waiting.send_signal(signal.SIGINT)
    complaints = waiting.communicate()[1]
    assert (waiting.returncode, complaints) == (130, "")
