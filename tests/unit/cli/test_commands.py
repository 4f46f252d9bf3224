"""The commands without a file of their own, against a scripted supervisor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.unit.cli.conftest import Engine
from tests.unit.fake_supervisor import (
    FakeSupervisor,
    Handler,
    Request,
    empty,
    failure,
    frame,
    reply,
    streaming,
)

import wherry
from wherry.errors import Conflict


def unknown(name: str) -> Handler:
    return failure(404, "not_found", f"No such container: '{name}'")


# The socket


def test_the_socket_may_stand_before_and_after_the_command(
    fake: FakeSupervisor, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_SOCKET", "/nowhere")
    fake.on("GET", "/containers/json", reply([]))
    path = str(fake.path)
    for words in (
        ["--socket", path, "ps"],
        [f"--socket={path}", "ps"],
        ["ps", "--socket", path],
        ["ps", f"--socket={path}"],
    ):
        assert engine(*words)[0] == 0
    assert engine("--socket", "/nowhere/either", "ps", "--socket", path)[0] == 0
    assert len(fake.requests) == 5


@pytest.mark.parametrize(
    "line", ["ps", "logs a", "stop a b", "kill a", "rm a", "inspect a", "wait a", "info", "start a r c", "run a r c"]
)
def test_no_supervisor_is_one_line_and_1(engine: Engine, tmp_path: Path, line: str) -> None:
    path = f"{tmp_path}/none"
    message = f"engine: no supervisor is running at {path}: start one with `engine supervisor ROOTFS --socket {path}`\n"
    assert engine("--socket", path, *line.split()) == (1, "", message)


def test_a_socket_path_that_is_too_long_is_said(engine: Engine) -> None:
    code, out, err = engine("ps", "--socket", "/" + "x" * 200)
    assert (code, out) == (1, "")
    assert err.startswith("engine: socket path is 201 bytes long, the most is 107: /xxx")


# start


def test_start_says_ok_with_the_pid(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("POST", "/wherry/run", reply({"Id": "ab", "Name": "alpha", "Pid": 1234}, 201))
    assert engine("start", "alpha", "/r", "/bin/true") == (0, "OK: alpha started, pid=1234\n", "")


def test_start_sends_every_option(
    fake: FakeSupervisor, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAKEN", "from the caller")
    monkeypatch.delenv("MISSING", raising=False)
    fake.on("POST", "/wherry/run", reply({"Id": "ab", "Name": "a", "Pid": 1}, 201))
    options = (
        "--soft-mib 3 --hard-mib 6 --soft-action throttle --nice -5 --pids-limit 9 --cpus 0.5 -e A=1 --env TAKEN"
        " -e MISSING -e B= -w /w -u 1:2 --hostname h --init --network host"
        " --read-only --rm --rw-rootfs --tmpfs /t:size=1m --tmpfs /u -v data:/d:ro"
    )
    assert engine("start", *options.split(), "a", "rootfs", "/bin/echo", "-e", "x")[0] == 0
    assert fake.asked("POST", "/wherry/run").json == {
        "Cmd": ["/bin/echo", "-e", "x"],
        "Env": ["A=1", "TAKEN=from the caller", "MISSING", "B="],
        "WorkingDir": "/w",
        "User": "1:2",
        "Hostname": "h",
        "HostConfig": {
            "AutoRemove": True,
            "ReadonlyRootfs": True,
            "Init": True,
            "Binds": [f"{tmp_path}/data:/d:ro"],
            "Tmpfs": {"/t": "size=1m", "/u": ""},
            "NetworkMode": "host",
            "PidsLimit": 9,
            "NanoCpus": 500_000_000,
        },
        "Wherry": {
            "Rootfs": f"{tmp_path}/rootfs",
            "RwRootfs": True,
            "SoftLimit": 3 << 20,
            "HardLimit": 6 << 20,
            "SoftAction": "throttle",
            "Nice": -5,
        },
    }


def test_words_behind_two_dashes_are_the_commands(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("POST", "/wherry/run", reply({"Id": "ab", "Name": "a", "Pid": 1}, 201))
    assert engine("start", "a", "/r", "--", "/bin/echo", "--rm", "--", "--nice", "5")[0] == 0
    assert fake.requests[0].json["Cmd"] == ["/bin/echo", "--rm", "--", "--nice", "5"]


@pytest.mark.parametrize(
    ("line", "entrypoint", "command"),
    [
        ("--entrypoint /e a /r", ["/e"], []),
        ("a /r --entrypoint=/e", ["/e"], []),
        ("--entrypoint /e a /r x -v --rm", ["/e"], ["x", "-v"]),
        ("--entrypoint /e a /r -- --rm", ["/e"], ["--rm"]),
    ],
)
def test_an_entry_point_needs_no_command(
    fake: FakeSupervisor, engine: Engine, line: str, entrypoint: list[str], command: list[str]
) -> None:
    fake.on("POST", "/wherry/run", reply({"Id": "ab", "Name": "a", "Pid": 1}, 201))
    assert engine("start", *line.split())[0] == 0
    sent = fake.requests[0].json
    assert (sent["Entrypoint"], sent["Cmd"]) == (entrypoint, command)


def test_an_entry_point_needs_a_rootfs_still(engine: Engine) -> None:
    code, _, err = engine("run", "--entrypoint", "/e", "a")
    assert (code, err.splitlines()[0]) == (125, "engine run: ROOTFS is missing")
    code, _, err = engine("start", "--entrypoint", "/e", "a")
    assert (code, err.partition(":")[2].strip().partition(" needs")[0]) == (125, "--entrypoint")


START_ERRORS = [
    ("start_failed", "cannot start a: mount /proc: permission denied (EPERM)", 125, ""),
    ("start_failed", "mount /proc: permission denied (EPERM)", 125, "cannot start a: "),
    ("name_in_use", "name in use", 125, "cannot start a: "),
    ("not_executable", "/x: permission denied", 126, "cannot start a: "),
    ("command_not_found", "/x: not found", 127, "cannot start a: "),
    ("invalid_request", "invalid container name", 125, "cannot start a: "),
]


@pytest.mark.parametrize("command", ["start", "run"])
@pytest.mark.parametrize(("code", "message", "exit_code", "prefix"), START_ERRORS)
def test_a_failed_start_says_why_and_has_its_exit_code(
    fake: FakeSupervisor, engine: Engine, command: str, code: str, message: str, exit_code: int, prefix: str
) -> None:
    fake.on("POST", "/wherry/run", failure(500, code, message))
    assert engine(command, "a", "/r", "/x") == (exit_code, "", f"engine: {prefix}{message}\n")


def test_what_the_client_refuses_is_a_failed_start_too(fake: FakeSupervisor, engine: Engine) -> None:
    code, _, err = engine("start", "-v", "nonsense", "a", "/r", "/x")
    assert code == 125
    assert err.startswith("engine: cannot start a: volume 'nonsense' is not HOST:CONTAINER")
    assert fake.requests == []


# stop, kill, rm, wait


def test_names_are_printed_as_they_are_done_and_failures_do_not_stop_the_rest(
    fake: FakeSupervisor, engine: Engine
) -> None:
    fake.on("DELETE", "/containers/a", empty())
    fake.on("DELETE", "/containers/b", failure(409, "conflict", "b is running"))
    fake.on("DELETE", "/containers/c", empty())
    assert engine("rm", "a", "b", "c", "d") == (1, "a\nc\n", "engine: b is running\nengine: page not found\n")
    assert engine("rm", "-f", "a") == (0, "a\n", "")
    assert [request.query["force"] for request in fake.requests] == ["0", "0", "0", "0", "1"]


def test_stop_passes_its_time_on(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("POST", "/containers/a/stop", empty())
    assert engine("stop", "a", "--time", "0.5") == (0, "a\n", "")
    assert engine("stop", "-t", "3", "a") == (0, "a\n", "")
    assert engine("stop", "a") == (0, "a\n", "")
    assert [request.query for request in fake.requests] == [{"t": "0.5"}, {"t": "3"}, {}]


def test_several_are_stopped_at_the_same_time(fake: FakeSupervisor, engine: Engine) -> None:
    all_here = threading.Barrier(3)

    def stop(request: Request) -> list[bytes]:
        all_here.wait(PATIENCE)  # none is answered before all have asked
        if request.path == "/containers/b/stop":
            return list(unknown("b")(request))
        return [b"HTTP/1.1 204 No Content\r\n\r\n"]

    for name in "abc":
        fake.on("POST", f"/containers/{name}/stop", stop)
    assert engine("stop", "a", "b", "c") == (1, "a\nc\n", "engine: No such container: 'b'\n")


def test_a_container_that_was_not_running_is_stopped(fake: FakeSupervisor, engine: Engine) -> None:
    """Case 31: the exit code is docker's, and a line on stderr says that there was nothing to do."""
    fake.on("POST", "/containers/a/stop", empty(304))
    fake.on("POST", "/containers/b/stop", empty(204))
    assert engine("stop", "a", "b") == (0, "a\nb\n", "engine: a was not running\n")


@pytest.mark.parametrize(("words", "signal"), [([], "KILL"), (["-s", "TERM"], "TERM"), (["--signal=9"], "9")])
def test_kill_sends_a_signal(fake: FakeSupervisor, engine: Engine, words: list[str], signal: str) -> None:
    fake.on("POST", "/containers/a/kill", empty())
    assert engine("kill", "a", *words) == (0, "a\n", "")
    assert fake.requests[0].query == {"signal": signal}


def test_kill_of_one_that_does_not_run_fails(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("POST", "/containers/a/kill", failure(409, Conflict.code, "container a is not running"))
    assert engine("kill", "a") == (1, "", "engine: container a is not running\n")


def test_wait_prints_the_exit_code(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("POST", "/containers/a/wait", reply({"StatusCode": 7}))
    fake.on("POST", "/containers/b/wait", reply({"StatusCode": 137}))
    assert engine("wait", "a", "b") == (0, "7\n137\n", "")


@pytest.mark.parametrize("command", ["stop", "kill", "rm", "wait", "inspect", "logs"])
def test_an_unknown_container_is_said_and_1(fake: FakeSupervisor, engine: Engine, command: str) -> None:
    method, path = {"rm": ("DELETE", ""), "inspect": ("GET", "/json"), "logs": ("GET", "/logs")}.get(
        command, ("POST", f"/{command}")
    )
    fake.on(method, f"/containers/nope{path}", unknown("nope"))
    code, out, err = engine(command, "nope")
    assert (code, err) == (1, "engine: No such container: 'nope'\n")
    assert out == ("[]\n" if command == "inspect" else "")


def test_an_error_text_cannot_reach_the_terminal_raw(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("DELETE", "/containers/a", failure(409, "conflict", "\x1b[2Jevil\nline"))
    assert engine("rm", "a") == (1, "", "engine: \\x1b[2Jevil\\nline\n")


# inspect, info, version


def test_inspect_prints_an_array(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("GET", "/containers/a/json", reply({"Id": "1", "Path": "\x1b\x7f"}))
    fake.on("GET", "/containers/c/json", reply({"Id": "3"}))
    code, out, err = engine("inspect", "a", "b", "c")
    assert (code, err) == (1, "engine: page not found\n")
    assert json.loads(out) == [{"Id": "1", "Path": "\x1b\x7f"}, {"Id": "3"}]
    assert out.replace("\n", "").isprintable()


INFO = {
    "ServerVersion": "9",
    "MemTotal": 3 << 30,
    "NCPU": 2,
    "Name": "host\x1b",
    "KernelVersion": "6.1",
    "OperatingSystem": "Debian",
    "Wherry": {
        "StateDir": "/d",
        "Socket": "/s",
        "Pid": 10,
        "ShimPid": 11,
        "CgroupVersion": 2,
        "CgroupParent": "/wherry",
        "Enforcer": "cgroup",
        "Backstop": False,
        "NotCounted": ["huge pages", "page tables"],
        "ContainersRunning": 1,
        "ContainersPaused": 0,
        "ContainersRestarting": 4,
        "ContainersCreated": 2,
        "ContainersExited": 3,
        "Spares": 2,
        "Disk": {"FreeBytes": 5 << 30, "Archives": 2, "ArchiveBytes": 3 << 20, "UnusedArchiveBytes": 1 << 20},
    },
}

INFO_TEXT = """\
Supervisor:       9, pid 10
Shim:             pid 11
Socket:           /s
State directory:  /d
Containers:       1 running, 0 paused, 4 restarting, 2 created, 3 exited
Prepared ahead:   2
Memory limits by: cgroup
Backstop:         no backstop (no memory controller); hard limits do not count huge pages, page tables
Cgroups:          v2, below /wherry
Disk:             5 GiB free; 3 MiB in 2 unpacked archives, 1 MiB of it used by no container
Kernel:           6.1
System:           Debian
Host:             host\\x1b
CPUs:             2
Memory:           3.0 GiB
"""


def test_inspect_by_a_template(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("GET", "/containers/a/json", reply({"Id": "1", "State": {"Pid": 5}, "Args": ["x", "\x1b"]}))
    fake.on("GET", "/containers/b/json", reply({"Id": "2", "State": {"Pid": 6}, "Args": []}))
    text = "{{.State.Pid}} {{range .Args}}<{{.}}>{{end}}"
    assert engine("inspect", "-f", text, "a", "b") == (0, "5 <x><\\x1b>\n6 \n", "")
    lines = engine("inspect", "--format", "json", "a", "b")[1].splitlines()
    assert [json.loads(line)["Id"] for line in lines] == ["1", "2"]
    code, out, err = engine("inspect", "-f", "{{.Nope}}", "a")
    assert (code, out) == (1, "")
    assert err == "engine: template: no field .Nope; there are .Id, .State, .Args\n"
    fake.on("GET", "/containers/c/json", failure(404, "not-found", "No such container: c"))
    code, out, err = engine("inspect", "-f", "{{index .Args 0}}", "b", "c", "a")
    assert (code, out) == (1, "x\n")
    assert err == "engine: No such container: c\nengine: template: index '0' is not in '[]'\n"
    fake.requests.clear()
    code, _, err = engine("inspect", "-f", "{{.Id", "a")
    assert (code, fake.requests) == (2, [])
    assert "'{{' has no counterpart" in err


def test_one_line_of_json_and_templates_everywhere(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("GET", "/info", reply(INFO))
    assert engine("info", "--format", "json")[1].count("\n") == 1
    assert engine("info", "--format", "{{.NCPU}} {{len .Wherry}}")[1].startswith(f"{INFO['NCPU']} ")
    fake.on("GET", "/version", reply({"Version": "9"}))
    assert engine("version", "--format", "{{.Server.Version}}")[1] == "9\n"
    code, out, _ = engine("doctor", "--format", "{{.State}} {{.Subject}}")
    assert (code in (0, 1), out.splitlines()[0].partition(" ")[0] in ("ok", "warning", "problem")) == (True, True)
    finding = json.loads(engine("doctor", "--format", "json")[1].splitlines()[0])
    assert [*finding] == ["State", "Subject", "Found", "Fix"]


def test_info_is_for_people_or_json(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("GET", "/info", reply(INFO))
    assert engine("info") == (0, INFO_TEXT, "")
    assert json.loads(engine("info", "--format", "json")[1]) == INFO


def test_info_of_another_engine_has_question_marks(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("GET", "/info", reply({"NCPU": 2}))
    code, out, err = engine("info")
    assert (code, err) == (0, "")
    assert "CPUs:             2\n" in out
    assert "Socket:           ?\n" in out


VERSIONS = f"""\
Client:     wherry {wherry.__version__}
Supervisor: wherry 9
API:        1.41 (oldest: 1.24)
Kernel:     6.1
"""


def test_version_shows_both_sides(fake: FakeSupervisor, engine: Engine) -> None:
    about = {
        "Platform": {"Name": "Wherry"},
        "Version": "9",
        "ApiVersion": "1.41",
        "MinAPIVersion": "1.24",
        "KernelVersion": "6.1",
    }
    fake.on("GET", "/version", reply(about))
    assert engine("version") == (0, VERSIONS, "")
    shown = json.loads(engine("version", "--format=json")[1])
    assert shown == {"Client": {"Version": wherry.__version__}, "Server": about}


def test_version_without_a_supervisor_shows_the_clients_and_fails(engine: Engine, tmp_path: Path) -> None:
    code, out, err = engine("version", "--socket", f"{tmp_path}/none")
    assert (code, out) == (1, f"Client: wherry {wherry.__version__}\n")
    assert "no supervisor is running" in err
    assert engine("--version") == (0, f"wherry {wherry.__version__}\n", "")


# Output that cannot be written


def shell(script: str, fake: FakeSupervisor) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ENGINE_SOCKET": str(fake.path), "ENGINE": f"{sys.executable} -m wherry.cli.main"}
    return subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_a_closed_pipe_is_no_traceback(fake: FakeSupervisor) -> None:
    fake.on("GET", "/containers/json", reply([]))
    fake.on("GET", "/containers/a/logs", streaming(frame(1, b"x" * 65536) for _ in range(64)))
    done = shell("$ENGINE logs a | head -c 1; echo ${PIPESTATUS[0]}", fake)
    assert (done.stdout, done.stderr) == ("x141\n", "")
    done = shell("$ENGINE ps | true; $ENGINE ps --help | true; sleep 0; echo ${PIPESTATUS[0]}", fake)
    assert done.stderr == ""


@pytest.mark.parametrize("words", ["ps", "logs a", "--help"])
def test_a_full_disk_is_said(fake: FakeSupervisor, words: str) -> None:
    fake.on("GET", "/containers/json", reply([]))
    fake.on("GET", "/containers/a/logs", streaming([frame(1, b"x")]))
    done = shell(f"$ENGINE {words} > /dev/full", fake)
    assert (done.returncode, done.stderr) == (1, "engine: No space left on device\n")


@pytest.mark.parametrize("words", ["ps", "logs a"])
def test_a_closed_stdout_is_said_and_no_socket_takes_its_place(fake: FakeSupervisor, words: str) -> None:
    fake.on("GET", "/containers/json", reply([]))
    fake.on("GET", "/containers/a/logs", streaming([frame(1, b"x")]))
    done = shell(f"$ENGINE {words} >&- <&-", fake)
    assert (done.returncode, done.stderr) == (1, "engine: Bad file descriptor\n")
    assert len(fake.requests) == 1


def test_a_closed_stderr_changes_nothing_else(fake: FakeSupervisor) -> None:
    fake.on("GET", "/containers/a/logs", unknown("a"))
    assert shell("$ENGINE logs a 2>&-", fake).returncode == 1


def test_a_name_that_the_encoding_cannot_show_is_escaped(fake: FakeSupervisor) -> None:
    fake.on("POST", "/wherry/run", reply({"Id": "ab", "Name": "größe", "Pid": 1}, 201))
    done = shell("PYTHONUTF8=0 PYTHONIOENCODING=ascii $ENGINE start a /r /x", fake)
    assert done.stdout == "OK: gr\\xf6\\xdfe started, pid=1\n"


def test_interrupting_a_follower_is_quiet(fake: FakeSupervisor) -> None:
    going = threading.Event()

    def forever(_: Request) -> Iterator[bytes]:
        yield frame(1, b"x")
        going.wait(PATIENCE)

    fake.on("GET", "/containers/a/logs", streaming(forever))
    command = [sys.executable, "-m", "wherry.cli.main", "logs", "-f", "a", "--socket", str(fake.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        assert follower.stdout
        assert follower.stdout.read(1) == b"x"
        follower.send_signal(2)
        assert follower.communicate(timeout=PATIENCE) == (b"", b"")
        assert follower.returncode == 130
    going.set()
