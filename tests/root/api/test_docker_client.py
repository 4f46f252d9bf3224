"""The docker command against our socket (docker client 20.10 to 28)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import docker as docker_library
import pytest
from tests.patience import PATIENCE
from tests.root.harness import Supervisor
from tests.waiting import wait_until

DOCKER = shutil.which("docker")
pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.skipif(DOCKER is None, reason="no docker client")]


def docker(supervisor: Supervisor, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(DOCKER), "-H", f"unix://{supervisor.socket}", *words]
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=PATIENCE)


def test_ps_logs_stop_inspect_rm(supervisor: Supervisor, rootfs: Path) -> None:
    script = "echo out; echo err >&2; sleep 1000"
    supervisor.client.start("web", str(rootfs), ["/bin/sh", "-c", script], memory=64 << 20)
    supervisor.client.run("done", str(rootfs), ["/bin/sh", "-c", "exit 3"])
    listing = docker(supervisor, "ps", "-a", "--format", "{{.Names}} {{.Status}}").stdout
    assert "web Up" in listing
    assert "done Exited (3)" in listing
    assert docker(supervisor, "ps", "-q").stdout.count("\n") == 1
    inspected = json.loads(docker(supervisor, "inspect", "web").stdout)[0]
    assert inspected["State"]["Running"] is True
    assert inspected["HostConfig"]["Memory"] == 64 << 20
    docker(supervisor, "stop", "web")
    logs = docker(supervisor, "logs", "-f", "web")
    assert (logs.stdout, logs.stderr) == ("out\n", "err\n")
    docker(supervisor, "rm", "web", "done")
    assert docker(supervisor, "ps", "-aq").stdout == ""


def test_update(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.start("job", str(rootfs), ["/bin/sleep", "1000"])
    options = (
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
        "--blkio-weight",
        "300",
        "--pids-limit",
        "50",
    )
    assert docker(supervisor, "update", *options, "job").stdout == "job\n"
    config = json.loads(docker(supervisor, "inspect", "job").stdout)[0]["HostConfig"]
    assert (config["NanoCpus"], config["CpuShares"], config["CpusetCpus"]) == (500_000_000, 512, "0")
    assert (config["BlkioWeight"], config["PidsLimit"]) == (300, 50)
    assert supervisor.control_file("job", "cpu", "cpu.shares", "cpu.weight") in {"512", "59"}
    refused = docker(supervisor, "update", "--memory", "64m", "job", check=False)
    assert (refused.returncode, "cannot be updated: Memory" in refused.stderr) == (1, True)


def test_kill_wait_start_version_info(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.start("job", str(rootfs), ["/bin/sleep", "1000"])
    docker(supervisor, "kill", "job")
    assert docker(supervisor, "wait", "job").stdout.strip() == "137"
    docker(supervisor, "start", "job")
    docker(supervisor, "rm", "-f", "job")
    assert "wherry" in docker(supervisor, "version").stdout.lower()
    assert "Containers: 0" in docker(supervisor, "info").stdout
    missing = docker(supervisor, "inspect", "job", check=False)
    assert missing.returncode == 1
    assert "No such" in missing.stderr


STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (.*)")
WAIT_FOR_GO = "while [ ! -e /go/now ]; do usleep 10000; done"


class Running:
    """A docker command at work; its output is in files, so that it can be looked at meanwhile."""

    def __init__(self, supervisor: Supervisor, *words: str) -> None:
        self._files = [supervisor.directory / f"docker-{number}" for number in (1, 2)]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            command = [str(DOCKER), "-H", f"unix://{supervisor.socket}", *words]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def output(self) -> tuple[str, str]:
        out, err = (file.read_text() for file in self._files)
        return out, err

    def end(self) -> tuple[str, str, int]:
        try:
            code = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
        return *self.output(), code


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """To be a volume at /go; the container waits for a file in it."""
    (tmp_path / "go").mkdir()
    return tmp_path / "go" / "now"


def test_logs_follow_tail_and_time_stamps(supervisor: Supervisor, rootfs: Path, go: Path) -> None:
    """Acceptance of the log pipeline: the right lines, with their times, the two streams apart."""
    script = f"for i in $(seq 100); do echo out $i; echo err $i >&2; done; {WAIT_FOR_GO}; echo last; echo end >&2"
    supervisor.client.start("web", str(rootfs), ["/bin/sh", "-c", script], volumes=[f"{go.parent}:/go"])
    captured = supervisor.state_dir / "logs/web.log"
    wait_until(lambda: captured.read_bytes().count(b"\n") == 200)
    last = captured.read_text().splitlines()[-10:]  # in the order in which they were captured
    following = Running(supervisor, "logs", "-f", "--tail", "10", "-t", "web")
    wait_until(lambda: sum(text.count("\n") for text in following.output()) == 10)
    go.touch()
    out, err, code = following.end()
    assert code == 0
    assert unstamped(out) == [line for line in last if line.startswith("out")] + ["last"]
    assert unstamped(err) == [line for line in last if line.startswith("err")] + ["end"]


def unstamped(text: str) -> list[str]:
    matches = [STAMP.fullmatch(line) for line in text.splitlines()]
    assert all(matches), text
    return [match[1] for match in matches if match]


def test_attach_shows_what_comes_and_ends_with_the_container(supervisor: Supervisor, rootfs: Path, go: Path) -> None:
    script = f"echo before; {WAIT_FOR_GO}; echo out; echo err >&2; exit 5"
    supervisor.client.start("web", str(rootfs), ["/bin/sh", "-c", script], volumes=[f"{go.parent}:/go"])
    wait_until(lambda: supervisor.engine("logs", "web").stdout == "before\n")
    attached = Running(supervisor, "attach", "web")
    wait_until(lambda: "web: attach\n" in supervisor.log.read_text())
    go.touch()
    assert attached.end() == ("out\n", "err\n", 5)


def create(supervisor: Supervisor, rootfs: Path, name: str, script: str, **fields: Any) -> None:
    """Docker's own create asks for an image."""
    api = docker_py(supervisor)
    body = {"Cmd": ["/bin/sh", "-c", script], "Wherry": {"Rootfs": str(rootfs)}, **fields}
    api._result(api._post_json(api._url("/containers/create"), body, params={"name": name}), json=True)
    api.close()


def docker_py(supervisor: Supervisor) -> Any:
    return docker_library.APIClient(base_url=f"unix://{supervisor.socket}", version="auto")


def test_start_attached_shows_all_of_the_run_and_only_that(supervisor: Supervisor, rootfs: Path) -> None:
    create(supervisor, rootfs, "job", "echo out; echo err >&2; exit 3")
    for _ in range(2):
        assert Running(supervisor, "start", "-a", "job").end() == ("out\n", "err\n", 3)
    assert docker(supervisor, "logs", "job").stdout == "out\nout\n"


def test_start_attached_with_input(supervisor: Supervisor, rootfs: Path) -> None:
    """What ``docker create -i`` makes. Its input comes before the start, and ends with the client's."""
    create(supervisor, rootfs, "job", "wc -c; exit 3", OpenStdin=True, StdinOnce=True, AttachStdin=True)
    command = [str(DOCKER), "-H", f"unix://{supervisor.socket}", "start", "-ai", "job"]
    done = subprocess.run(command, input=bytes(4 << 20), capture_output=True, check=False, timeout=PATIENCE)
    assert (done.stdout, done.stderr, done.returncode) == (b"4194304\n", b"", 3)


def test_attach_with_input(supervisor: Supervisor, rootfs: Path) -> None:
    """What ``docker run -d -i`` makes stays open for the next."""
    create(supervisor, rootfs, "job", "while read line; do echo got $line; done", OpenStdin=True)
    supervisor.client.start("job")
    for word in ("one", "two"):
        command = [str(DOCKER), "-H", f"unix://{supervisor.socket}", "attach", "--sig-proxy=false", "job"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0) as attached:
            assert attached.stdin is not None
            assert attached.stdout is not None
            attached.stdin.write(f"{word}\n".encode())
            line = b""
            while not line.endswith(b"\n") and (more := attached.stdout.read(100)):
                line += more
            attached.kill()
        assert line == f"got {word}\n".encode()


def test_input_needs_a_connection_of_its_own(supervisor: Supervisor, rootfs: Path) -> None:
    create(supervisor, rootfs, "job", "cat", OpenStdin=True)
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(supervisor.socket))
        plain.sendall(b"POST /containers/job/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        reply = plain.recv(4096)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"Upgrade: tcp" in reply


def test_attaching_with_the_past_only(supervisor: Supervisor, rootfs: Path) -> None:
    """Not by docker-py: it loses what comes together with the head of the reply."""
    supervisor.client.run("job", str(rootfs), ["/bin/sh", "-c", "echo out; echo err >&2"])
    with raw_attach(supervisor, "job", "logs=1&stdout=1") as stream:
        reply = b"".join(iter(lambda: stream.recv(4096), b""))
    assert reply.partition(b"\r\n\r\n")[2] == b"\1\0\0\0\0\0\0\4out\n"
    with raw_attach(supervisor, "job", "logs=1&stdout=1&stderr=1") as stream:
        reply = b"".join(iter(lambda: stream.recv(4096), b""))
    assert reply.count(b"\0\0\0\4") == 2


def test_who_waits_for_the_start_of_what_is_removed_gets_an_end(supervisor: Supervisor, rootfs: Path) -> None:
    create(supervisor, rootfs, "job", "true")
    with raw_attach(supervisor, "job") as stream:
        assert b" 101 UPGRADED" in stream.recv(4096)
        stream.sendall(b"no HTTP\r\n\r\n" * 10_000)  # of no use to anybody
        supervisor.client.rm("job")
        assert stream.recv(1) == b""


def test_who_attached_and_has_gone_is_forgotten(supervisor: Supervisor, rootfs: Path) -> None:
    """A client that half closes goes on hearing; one that closes must not be waited for until the container ends."""
    supervisor.client.start("web", str(rootfs), ["/bin/sleep", "1000"])
    wait_until(lambda: supervisor.info()["spares"] == 2)  # they come in the background, with descriptors of their own
    before = descriptors(supervisor)
    for _ in range(3):
        with raw_attach(supervisor, "web") as stream:
            assert b" 101 UPGRADED" in stream.recv(4096)
            stream.shutdown(socket.SHUT_WR)
            assert descriptors(supervisor) > before
        wait_until(lambda: descriptors(supervisor) <= before)


def test_the_media_type_of_an_attached_stream(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.run("job", str(rootfs), ["/bin/sh", "-c", "echo out"])
    for version, kind in (("/v1.41", b"raw-stream"), ("/v1.42", b"multiplexed-stream"), ("", b"multiplexed-stream")):
        with raw_attach(supervisor, "job", "logs=1&stdout=1", version) as stream:
            head = b"".join(iter(lambda: stream.recv(4096), b"")).partition(b"\r\n\r\n")[0]
        assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
        assert b"Content-Type: application/vnd.docker." + kind in head.split(b"\r\n")
        assert b"Upgrade: tcp" in head.split(b"\r\n")


def raw_attach(supervisor: Supervisor, name: str, query: str = "stream=1&stdout=1", version: str = "") -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(PATIENCE)
    stream.connect(str(supervisor.socket))
    head = f"POST {version}/containers/{name}/attach?{query} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n"
    stream.sendall(f"{head}Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
    return stream


def descriptors(supervisor: Supervisor) -> int:
    """Connections, and what waits for their ends. Not all: overlays are prepared in the background."""
    assert supervisor.process is not None
    folder = Path(f"/proc/{supervisor.process.pid}/fd")
    links = [os.readlink(folder / name) for name in os.listdir(folder) if (folder / name).is_symlink()]
    return sum(link.startswith("socket:") or "eventpoll" in link for link in links)


def test_prune_and_df(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    """Case 26."""
    subprocess.run(["tar", "-C", rootfs, "-cf", tmp_path / "image.tar", "."], check=True)
    supervisor.client.run("one", str(rootfs), ["/bin/true"], labels={"a": "1"})
    supervisor.client.run("two", str(tmp_path / "image.tar"), ["/bin/true"])
    supervisor.client.start("runs", str(rootfs), ["/bin/sleep", "1000"])
    lines = [line.split() for line in docker(supervisor, "system", "df").stdout.splitlines()]
    assert [(line[0], *line[1:3]) for line in lines[1:3]] == [("Images", "1", "1"), ("Containers", "3", "1")]
    assert "two" in docker(supervisor, "system", "df", "-v").stdout
    out = docker(supervisor, "container", "prune", "-f", "--filter", "label=a=1", "--filter", "until=0s").stdout
    assert "Deleted Containers:" in out
    assert docker(supervisor, "ps", "-a", "--format", "{{.Names}}").stdout.split() == ["runs", "two"]
    assert docker(supervisor, "image", "prune", "-f").stdout == "Total reclaimed space: 0B\n"
    out = docker(supervisor, "system", "prune", "-f", "-a").stdout
    assert "Deleted Containers:" in out
    assert "deleted: sha256:" in out
    assert os.listdir(supervisor.state_dir / "rootfs") == []
    assert docker(supervisor, "ps", "-a", "--format", "{{.Names}}").stdout == "runs\n"
    failed = docker(supervisor, "container", "prune", "-f", "--filter", "name=x", check=False)
    assert "invalid filter" in failed.stderr


def test_stop_with_another_signal(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    script = "trap 'exit 7' INT; trap 'exit 8' TERM; touch /out/ready; while :; do usleep 10000; done"
    (tmp_path / "out").mkdir()
    supervisor.client.start("job", str(rootfs), ["/bin/sh", "-c", script], volumes=[f"{tmp_path}/out:/out"])
    wait_until((tmp_path / "out/ready").exists)
    docker(supervisor, "stop", "--signal", "SIGINT", "--time", "-1", "job")
    assert supervisor.client.inspect("job")["State"]["ExitCode"] == 7


def test_what_there_is_not_is_told_by_a_sentence(supervisor: Supervisor) -> None:
    """Never "page not found", which docker's users take for a fault of theirs."""
    assert docker(supervisor, "network", "ls", "--format", "{{.Name}}").stdout.split() == ["host", "none"]
    assert docker(supervisor, "volume", "ls", "-q").stdout == ""
    assert docker(supervisor, "plugin", "ls", "-q").stdout == ""
    assert json.loads(docker(supervisor, "network", "inspect", "none").stdout)[0]["Driver"] == "null"
    assert docker(supervisor, "volume", "prune", "-f").stdout == "Total reclaimed space: 0B\n"
    for words, said in (
        (("commit", "x"), "a container cannot be committed to an image yet"),
        (("network", "create", "lan"), "networks cannot be made or joined yet"),
        (("volume", "create"), "volumes cannot be made yet"),
        (("pull", "alpine"), "there is no store of images yet"),
        (("service", "ls"), "This node is not a swarm manager"),
        (("node", "ls"), "This node is not a swarm manager"),
        (("volume", "rm", "data"), "no such volume"),
        (("network", "rm", "none"), "pre-defined network"),
    ):
        failed = docker(supervisor, *words, check=False)
        assert (failed.returncode != 0, said in failed.stderr) == (True, True), failed


def test_docker_py_sees_the_networks(supervisor: Supervisor) -> None:
    api = docker_py(supervisor)
    try:
        assert api.api_version == "1.44"
        assert [each["Name"] for each in api.networks()] == ["host", "none"]
        assert api.volumes()["Volumes"] == []
        with pytest.raises(docker_library.errors.APIError, match="501"):
            api.create_network("lan")
        with pytest.raises(docker_library.errors.APIError, match="503"):
            api.services()
    finally:
        api.close()


def test_pause_unpause_restart_rename_top(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.start("job", str(rootfs), ["/bin/sleep", "1000"])
    assert docker(supervisor, "pause", "job").stdout == "job\n"
    assert re.search(r"Up .* \(Paused\)", docker(supervisor, "ps", "--format", "{{.Status}}").stdout)
    assert docker(supervisor, "ps", "-q", "--filter", "status=paused").stdout.count("\n") == 1
    assert "Paused: 1" in docker(supervisor, "info").stdout
    assert (
        docker(supervisor, "inspect", "--format", "{{.State.Status}} {{.State.Paused}}", "job").stdout
        == "paused true\n"
    )
    again = docker(supervisor, "pause", "job", check=False)
    assert (again.returncode, "already" in again.stderr) == (1, True)
    table = docker(supervisor, "top", "job", "-o", "pid,args").stdout.splitlines()
    assert [line.split(None, 1)[1].strip() for line in table] == ["COMMAND", "/bin/sleep 1000"]
    assert "/bin/sleep 1000" in docker(supervisor, "top", "job").stdout
    docker(supervisor, "unpause", "job")
    docker(supervisor, "rename", "job", "other")
    pid = docker(supervisor, "inspect", "--format", "{{.State.Pid}}", "other").stdout
    assert docker(supervisor, "restart", "-t", "1", "other").stdout == "other\n"
    assert docker(supervisor, "inspect", "--format", "{{.State.Pid}}", "other").stdout not in (pid, "0\n")
    docker(supervisor, "pause", "other")
    docker(supervisor, "rm", "-f", "other")
    assert supervisor.ps() == []


def test_docker_py_lives_with_containers(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.start("job", str(rootfs), ["/bin/sleep", "1000"])
    with contextlib.closing(docker_library.DockerClient(base_url=f"unix://{supervisor.socket}")) as client:
        container = client.containers.get("job")
        container.pause()
        container.reload()
        assert container.status == "paused"
        container.unpause()
        container.rename("other")
        assert container.top(ps_args="-o pid,args")["Titles"] == ["PID", "COMMAND"]
        container.restart(timeout=1)
        container.reload()
        assert (container.name, container.status) == ("other", "running")
