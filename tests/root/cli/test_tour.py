"""The main job through the command line, as the README tells it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry.supervisor.memory_watch.memory import backstop

pytestmark = pytest.mark.root


def test_start_and_logs(supervisor: Supervisor, rootfs: Path) -> None:
    started = supervisor.engine("start", "alpha", rootfs, "/bin/hostname")
    pid = json.loads(supervisor.engine("inspect", "alpha").stdout)[0]["Wherry"]["Pid"]
    assert started.stdout.startswith("OK: alpha started, pid=")
    assert pid == 0 or started.stdout == f"OK: alpha started, pid={pid}\n"
    assert supervisor.engine("logs", "-f", "alpha").stdout == "alpha\n"


def test_ps_by_filters(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.run("one", str(rootfs), ["/bin/true"], labels={"app": "a"})
    supervisor.client.run("two", str(rootfs), ["/bin/false"], labels={"app": "a"})
    supervisor.client.start("three", str(rootfs), ["/bin/sleep", "1000"])

    def names(*words: str) -> list[str]:
        return supervisor.engine("ps", "--format", "{{.Name}}", *words).stdout.split()

    assert names("-f", "label=app=a") == ["two", "one"]
    assert names("-f", "label=app=a", "-f", "exited=0") == ["one"]
    assert names("-n", "2") == ["three", "two"]
    assert names("-l", "--running") == ["three"]
    assert names("-f", "status=exited", "-l") == ["two"]
    refused = supervisor.engine("ps", "-f", "colour=red", check=False)
    assert (refused.returncode, "invalid filter 'colour'" in refused.stderr) == (1, True)


def test_run_shows_its_own_namespace_and_returns_the_exit_code(supervisor: Supervisor, rootfs: Path) -> None:
    script = "echo $$; ps | wc -l; ls /proc/1/exe; exit 7"
    done = supervisor.engine("run", "c", rootfs, "/bin/sh", "-c", script, check=False)
    pid, processes, exe = done.stdout.splitlines()
    assert (pid, exe, done.returncode) == ("1", "/proc/1/exe", 7)
    assert int(processes) <= 4


def test_run_keeps_the_streams_apart(supervisor: Supervisor, rootfs: Path) -> None:
    done = supervisor.engine("run", "c", rootfs, "/bin/sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_a_signal_becomes_128_and_its_number(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.engine("start", "sleeper", rootfs, "/bin/sleep", "1000")
    supervisor.engine("kill", "sleeper", "-s", "KILL")
    assert supervisor.engine("wait", "sleeper").stdout.strip() == "137"
    (entry,) = supervisor.ps()
    assert (entry["state"], entry["reason"], entry["signal"]) == ("exited", "signaled", signal.SIGKILL)


def test_limits_at_the_end_of_the_command_line(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.engine(
        *("start", "memtest", rootfs, "/bin/sleep", "1000", "--soft-mib", "3", "--hard-mib", "6", "--nice", "5")
    )
    (entry,) = supervisor.ps()
    assert (entry["soft_bytes"], entry["hard_bytes"], entry["nice"]) == (3 << 20, 6 << 20, 5)
    assert entry["command"] == ["/bin/sleep", "1000"]
    if supervisor.info()["enforcer"] != "cgroup":
        stop = backstop(6 << 20) // 4096 * 4096
        assert supervisor.control_file("memtest", "memory", "memory.limit_in_bytes", "memory.max") == str(stop)
    assert os.getpriority(os.PRIO_PROCESS, entry["pid"]) == 5


def test_a_hard_limit_holds(supervisor: Supervisor, rootfs: Path) -> None:
    done = supervisor.engine("run", "hog", rootfs, "/memory_hog", "8", "1", "200", "--hard-mib", "32", check=False)
    assert done.returncode == 137
    (entry,) = supervisor.ps()
    assert (entry["reason"], entry["exit_code"]) == ("hard_limit", 137)
    assert "exited (hard limit)" in supervisor.engine("ps").stdout
    shown = supervisor.client.inspect("hog")
    death = shown["Wherry"]["MemoryDeath"]
    assert (shown["State"]["OOMKilled"], death["Limit"]) == (True, 32 << 20)
    assert death["Peak"] <= 33 << 20  # to a huge page, which does not fit into what is left


def test_stop_does_not_wait_for_a_process_that_would_never_hear(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.engine("start", "deaf", rootfs, "/bin/sleep", "1000")
    supervisor.engine("stop", "deaf", timeout=PATIENCE)  # test_stop_times.py shows that SIGTERM is not even sent
    (entry,) = supervisor.ps()
    assert (entry["reason"], entry["exit_code"]) == ("stopped", 137)


def test_stop_lets_a_handler_finish(supervisor: Supervisor, rootfs: Path) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
    supervisor.engine("start", "polite", rootfs, "/bin/sh", "-c", script)
    wait_until(lambda: "ready" in supervisor.engine("logs", "polite").stdout)
    supervisor.engine("stop", "polite", timeout=PATIENCE)
    (entry,) = supervisor.ps()
    assert (entry["reason"], entry["exit_code"]) == ("stopped", 3)
    assert supervisor.engine("logs", "polite").stdout == "ready\nbye\n"


def test_stop_kills_after_its_time(supervisor: Supervisor, rootfs: Path) -> None:
    script = "trap 'echo no' TERM; echo ready; while :; do sleep 0.01; done"
    supervisor.engine("start", "stubborn", rootfs, "/bin/sh", "-c", script)
    wait_until(lambda: "ready" in supervisor.engine("logs", "stubborn").stdout)
    supervisor.engine("kill", "-s", "TERM", "stubborn")
    wait_until(lambda: "no" in supervisor.engine("logs", "stubborn").stdout)
    supervisor.engine("stop", "--time", "1", "stubborn", timeout=PATIENCE)
    (entry,) = supervisor.ps()
    assert (entry["reason"], entry["signal"]) == ("stopped", signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_run_stops_the_container_and_waits(supervisor: Supervisor, rootfs: Path, number: int) -> None:
    script = "trap 'echo stopping; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
    with supervisor.popen("run", "job", rootfs, "/bin/sh", "-c", script) as client:
        wait_until(lambda: "ready" in supervisor.engine("logs", "job", check=False).stdout)
        client.send_signal(number)
        output, _ = client.communicate(timeout=PATIENCE)
    assert (client.returncode, output) == (5, "ready\nstopping\n")
    assert supervisor.ps()[0]["reason"] == "stopped"


def test_rm_removes_record_log_and_layer(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.engine("run", "c", rootfs, "/bin/sh", "-c", "echo hello > /file")
    assert (supervisor.state_dir / "logs/c.log").exists()
    written = list(supervisor.state_dir.glob("containers/*/upper/file"))
    assert [path.read_text() for path in written] == ["hello\n"]
    supervisor.engine("rm", "c")
    assert supervisor.ps() == []
    assert not written[0].exists()
    assert list((supervisor.state_dir / "logs").iterdir()) == []
    assert not (rootfs / "file").exists()


def test_rm_refuses_a_running_container_unless_forced(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.engine("start", "busy", rootfs, "/bin/sleep", "1000")
    refused = supervisor.engine("rm", "busy", check=False)
    assert refused.returncode == 1
    assert "is running" in refused.stderr
    supervisor.engine("rm", "-f", "busy")
    assert supervisor.ps() == []


def test_automatic_removal(supervisor: Supervisor, rootfs: Path) -> None:
    done = supervisor.engine("run", "--rm", "once", rootfs, "/bin/sh", "-c", "echo x; exit 4", check=False)
    assert (done.stdout, done.returncode) == ("x\n", 4)
    assert supervisor.ps() == []
    assert list((supervisor.state_dir / "logs").iterdir()) == []


def test_fifty_at_once_and_nothing_left_after_the_supervisor(supervisor: Supervisor, rootfs: Path) -> None:
    for number in range(50):
        supervisor.client.start(f"c{number}", str(rootfs), ["/bin/sleep", "1000"])
    entries = supervisor.ps()
    assert {entry["name"] for entry in entries} == {f"c{number}" for number in range(50)}
    assert {entry["state"] for entry in entries} == {"running"}
    assert len(supervisor.engine("ps").stdout.splitlines()) == 51
    pids = [entry["pid"] for entry in entries]
    supervisor.stop(signal.SIGINT)  # Ctrl-C; the fixture compares what is left
    assert not any(_is_sleeping(pid) for pid in pids)


def _is_sleeping(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    except OSError:
        return False


def test_two_starts_of_one_name_give_one_container(supervisor: Supervisor, rootfs: Path) -> None:
    clients = [supervisor.popen("start", "twin", rootfs, "/bin/sleep", "1000") for _ in range(6)]
    outcomes = [(client.communicate(timeout=PATIENCE), client.returncode) for client in clients]
    assert sorted(code for _, code in outcomes) == [0] + [125] * 5
    assert all("name in use: twin" in error for (_, error), code in outcomes if code)
    assert [entry["name"] for entry in supervisor.ps()] == ["twin"]


def test_the_python_api(supervisor: Supervisor, rootfs: Path) -> None:
    result = supervisor.client.run("job", str(rootfs), ["/bin/sh", "-c", "echo out; echo err >&2; exit 9"])
    assert (result.exit_code, result.stdout, result.stderr, result.reason) == (9, b"out\n", b"err\n", "exited")
    assert [(container.name, container.exit_code) for container in supervisor.client.ps()] == [("job", 9)]
    assert b"".join(data for stream, data in supervisor.client.logs("job") if stream == 2) == b"err\n"


def test_a_second_supervisor_is_refused(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sock"
    same_state = supervisor.engine(
        *("supervisor", rootfs, "--state-dir", supervisor.state_dir, "--socket", other), check=False
    )
    same_socket = supervisor.engine(
        *("supervisor", rootfs, "--state-dir", tmp_path / "state", "--socket", supervisor.socket), check=False
    )
    assert (same_state.returncode, same_socket.returncode) == (1, 1)
    assert "in use by another supervisor" in same_state.stderr
    assert "in use by another supervisor" in same_socket.stderr
    assert supervisor.ps() == []
    assert not other.exists()


def test_docker_style_create_and_start(supervisor: Supervisor, rootfs: Path) -> None:
    """A created container can be started again; its layer and log go on."""
    body = {"Cmd": ["/bin/sh", "-c", "n=$(cat /n 2>/dev/null)x; echo $n | tee /n"], "Wherry": {"Rootfs": str(rootfs)}}
    curl = ["curl", "-sS", "--fail-with-body", "--unix-socket", str(supervisor.socket), "-XPOST"]
    create = [*curl, "-HContent-Type: application/json", "-d", json.dumps(body), "http://d/containers/create?name=two"]
    identity = json.loads(subprocess.run(create, check=True, capture_output=True).stdout)["Id"]
    for _ in range(3):
        subprocess.run([*curl, f"http://d/containers/{identity}/start"], check=True)
        supervisor.engine("wait", "two")
    assert supervisor.engine("logs", "two").stdout == "x\nxx\nxxx\n"
