"""docker exec and docker-py's exec_run, against our socket."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker as docker_library
import pytest
from tests.patience import PATIENCE
from tests.root.harness import Supervisor
from tests.waiting import wait_until

DOCKER = shutil.which("docker")
pytestmark = pytest.mark.root
with_docker = pytest.mark.docker


@pytest.fixture
def docker(supervisor: Supervisor, rootfs: Path) -> Supervisor:
    supervisor.client.start("c", str(rootfs), ["/bin/sleep", "1000"], working_dir="/tmp")
    return supervisor


@with_docker
def test_the_docker_client_as_a_filter(docker: Supervisor) -> None:
    data = os.urandom(4 << 20)
    command = [str(DOCKER), "-H", f"unix://{docker.socket}", "exec", "-i", "c"]

    def filtered(*words: str) -> tuple[int, bytes, bytes]:
        done = subprocess.run([*command, *words], input=data, check=False, capture_output=True, timeout=PATIENCE)
        return done.returncode, done.stdout, done.stderr

    code, out, err = filtered("cat")
    assert (code, hashlib.sha256(out).digest(), err) == (0, hashlib.sha256(data).digest(), b"")
    assert filtered("sh", "-c", "cat > /tmp/it; wc -c < /tmp/it; exit 5") == (5, b"4194304\n", b"")
    assert filtered("sh", "-c", "echo bye; exit 3")[:2] == (3, b"bye\n")  # without reading
    code, out, _ = filtered("frobnicate")
    assert (code, b"execute frobnicate: no such file" in out) == (127, True)


def execute(supervisor: Supervisor, *words: str) -> tuple[int, str, str]:
    command = [str(DOCKER), "-H", f"unix://{supervisor.socket}", "exec", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


@with_docker
def test_the_docker_client(docker: Supervisor) -> None:
    assert execute(docker, "c", "sh", "-c", "echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")
    assert execute(docker, "-e", "A=1", "-w", "/etc", "-u", "5:6", "c", "sh", "-c", "echo $A; pwd; id -u; id -g") == (
        0,
        "1\n/etc\n5\n6\n",
        "",
    )
    assert execute(docker, "c", "sh", "-c", "kill -9 $$")[0] == 137
    code, out, _ = execute(docker, "c", "sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x")
    assert (code, len(out)) == (0, 1_000_000)
    code, out, _ = execute(docker, "c", "frobnicate")
    assert (code, "execute frobnicate: no such file" in out) == (127, True)
    assert execute(docker, "c", "/etc/passwd")[0] == 126
    code, out, _ = execute(docker, "-u", "nobody-knows", "c", "true")
    assert "is not in the rootfs's /etc/passwd" in out
    assert code not in (0, None)
    assert execute(docker, "-d", "c", "touch", "/tmp/made") == (0, "", "")
    wait_until(lambda: execute(docker, "c", "test", "-e", "/tmp/made")[0] == 0)
    code, _, err = execute(docker, "-t", "c", "cat")
    assert (code != 0, "terminals" in err) == (True, True)
    docker.engine("stop", "-t", "0", "c")
    code, _, err = execute(docker, "c", "true")
    assert (code, "container c is not running" in err) == (1, True)


@pytest.fixture
def container(docker: Supervisor) -> Iterator[Any]:
    client = docker_library.DockerClient(base_url=f"unix://{docker.socket}")
    yield client.containers.get("c")
    client.close()
    with warnings.catch_warnings():  # docker-py leaves the sockets that it has taken over to the collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_docker_py(container: Any) -> None:
    assert container.exec_run(["sh", "-c", "echo out; exit 3"]) == (3, b"out\n")
    code, output = container.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True)
    assert (code, output) == (0, (b"out\n", b"err\n"))
    code, output = container.exec_run("sh -c 'echo $A; pwd; id -u'", environment={"A": "1"}, workdir="/etc", user="5")
    assert (code, output) == (0, b"1\n/etc\n5\n")
    code, stream = container.exec_run(["sh", "-c", "for n in 1 2 3; do echo $n; done"], stream=True)
    assert (code, b"".join(stream)) == (None, b"1\n2\n3\n")
    assert container.exec_run(["touch", "/tmp/detached"], detach=True).output == ""
    wait_until(lambda: container.exec_run(["test", "-e", "/tmp/detached"]).exit_code == 0)
    code, text = container.exec_run("frobnicate")
    assert (code, b"frobnicate" in text) == (127, True)
    with pytest.raises(docker_library.errors.APIError, match="terminals"):
        container.exec_run("cat", tty=True)


def test_docker_py_with_input(container: Any) -> None:
    code, stream = container.exec_run(["sh", "-c", "cat; echo end"], stdin=True, socket=True)
    assert code is None
    with stream._sock as connection:
        connection.sendall(b"some\n")
        assert received(connection, 13) == b"\1\0\0\0\0\0\0\5some\n"
        connection.shutdown(socket.SHUT_WR)
        assert received(connection, 12) == b"\1\0\0\0\0\0\0\4end\n"
        assert connection.recv(1) == b""
    api = container.client.api
    made = api.exec_create("c", ["cat"], stdin=True)["Id"]
    assert api.exec_inspect(made)["OpenStdin"] is True
    with pytest.raises(docker_library.errors.APIError, match="Upgrade: tcp"):
        api._raise_for_status(api._post_json(api._url("/exec/{0}/start", made), data={"Detach": False}))
    assert api.exec_inspect(made)["Running"] is False
    api.exec_start(made, detach=True)  # nobody feeds it
    wait_until(lambda: api.exec_inspect(made)["ExitCode"] == 0)


def received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def test_the_three_calls(docker: Supervisor, container: Any) -> None:
    api = container.client.api
    made = api.exec_create("c", ["sh", "-c", "exit 4"], stderr=False)["Id"]
    found = api.exec_inspect(made)
    assert (found["Running"], found["ExitCode"], found["Pid"], found["OpenStderr"]) == (False, None, 0, False)
    assert found["ContainerID"] == container.id
    assert found["ProcessConfig"]["entrypoint"] == "sh"
    api.exec_start(made)
    found = api.exec_inspect(made)
    assert (found["Running"], found["ExitCode"]) == (False, 4)
    with pytest.raises(docker_library.errors.APIError, match="has been started already"):
        api.exec_start(made)
    for call in (api.exec_start, api.exec_inspect):
        with pytest.raises(docker_library.errors.NotFound, match="No such exec instance"):
            call("0" * 64)
    with pytest.raises(docker_library.errors.APIError, match="No exec command specified"):
        api.exec_create("c", [])
    events = docker.client.events(since_ns=1, until_ns=time.time_ns(), filters={"container": "c"})
    told = [event.kind for event in events if event.kind.startswith("exec")]
    assert told == ["exec_create", "exec_start", "exec_die"]
