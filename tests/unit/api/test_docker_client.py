"""Real clients against the server: the docker command line, and docker-py."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.patience import PATIENCE

from wherry.supervisor.events import Action

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

Docker = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def docker_env(api: Api, tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{api.path}", "DOCKER_CONFIG": str(tmp_path)}


@pytest.fixture
def docker(docker_env: dict[str, str]) -> Docker:
    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = ["docker", *words]
        done = subprocess.run(command, env=docker_env, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == code, done
        return done

    return run


@pytest.mark.docker
def test_docker_version_and_info(api: Api, docker: Docker) -> None:
    api.start("alpha", "sleep")
    version = docker("version").stdout
    assert "Wherry" in version
    assert "API version:      1.44 (minimum version 1.24)" in version
    info = docker("info")
    for line in (
        " Containers: 1",
        "  Running: 1",
        " Server Version: 0.1",
        " Cgroup Version: 1",
        " Default Runtime: wherry",
    ):
        assert line in info.stdout.splitlines()
    assert "ERROR" not in info.stdout + info.stderr


@pytest.mark.docker
def test_docker_ps(api: Api, docker: Docker) -> None:
    container_id = api.start("alpha", "sleep", "1000", Labels={"app": "web"})
    api.start("beta", "mixed")
    api.create("gamma")
    running = docker("ps").stdout.splitlines()
    assert len(running) == 2
    for part in (container_id[:12], "/srv/rootfs", '"sleep 1000"', "Up Less than a second", "alpha"):
        assert part in running[1]
    names = docker("ps", "-a", "--format", "{{.Names}} {{.State}} {{.Status}}").stdout.splitlines()
    assert [name.split()[:2] for name in names] == [["gamma", "created"], ["beta", "exited"], ["alpha", "running"]]
    assert names[1].startswith("beta exited Exited (3)")
    for words, found in (
        (["-aq", "--no-trunc", "-f", "id=" + container_id[:10]], [container_id]),
        (["-a", "-f", "name=^/beta$", "--format", "{{.Names}}"], ["beta"]),
        (["-f", "label=app=web", "--format", "{{.Names}}"], ["alpha"]),
        (["-f", "status=exited", "-f", "exited=3", "--format", "{{.Names}}"], ["beta"]),
        (["-n", "1", "--format", "{{.Names}} {{.Networks}}"], ["gamma none"]),
    ):
        assert docker("ps", *words).stdout.split("\n")[:-1] == found
    assert "invalid filter 'colour'" in docker("ps", "-f", "colour=red", code=1).stderr


@pytest.mark.docker
def test_docker_logs(api: Api, docker: Docker) -> None:
    api.start("alpha", "mixed")
    for words in (
        ["logs", "alpha"],
        ["logs", "-f", "alpha"],
        ["logs", "--since", "10m", "--until", "2099-01-01T00:00:00Z", "alpha"],
    ):
        done = docker(*words)
        assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert docker("logs", "--tail", "1", "alpha").stdout == ""
    stamped = docker("logs", "-t", "alpha").stdout
    assert stamped.endswith("Z out\n")
    assert len(stamped) == len("2023-11-14T22:13:20.000000000Z out\n")
    assert "No such container: nobody" in docker("logs", "nobody", code=1).stderr


@pytest.mark.docker
def test_docker_logs_follows_until_the_end(api: Api, docker_env: dict[str, str]) -> None:
    api.start("alpha", "sleep")
    log = api.engine.entries["alpha"].log
    with subprocess.Popen(["docker", "logs", "-f", "alpha"], env=docker_env, stdout=subprocess.PIPE) as following:
        api.until(lambda: log.followers == 1)
        assert following.stdout is not None
        for word in (b"one\n", b"two\n"):
            api.call(partial(log.write, 1, word))
            assert following.stdout.readline() == word
        assert api.request("POST", "/containers/alpha/stop").status == 204
        assert following.stdout.read() == b""
        assert following.wait(PATIENCE) == 0


@pytest.mark.docker
def test_docker_drives_a_container_through_its_life(api: Api, docker: Docker) -> None:
    api.create("alpha", "sleep")
    assert docker("start", "alpha").stdout == "alpha\n"
    assert docker("start", "alpha").stdout == "alpha\n"
    assert "is running" in docker("rm", "alpha", code=1).stderr
    assert docker("kill", "-s", "USR1", "alpha").stdout == "alpha\n"
    assert api.engine.kill_calls == [10]
    assert "is not running" in docker("kill", "alpha", code=1).stderr
    assert docker("wait", "alpha").stdout == "138\n"
    docker("start", "alpha")
    assert docker("stop", "-t", "3", "alpha").stdout == "alpha\n"
    docker("stop", "alpha")
    assert api.engine.stop_calls == [3.0, None]
    docker("start", "alpha")
    assert docker("rm", "-f", "alpha").stdout == "alpha\n"
    assert api.engine.entries == {}
    assert "No such container: alpha" in docker("rm", "alpha", code=1).stderr


@pytest.mark.docker
def test_docker_wait_sees_an_end_that_comes_later(api: Api, docker_env: dict[str, str]) -> None:
    api.start("alpha", "sleep")
    waiters = api.engine.entries["alpha"].waiters["next-exit"]
    with subprocess.Popen(["docker", "wait", "alpha"], env=docker_env, stdout=subprocess.PIPE) as waiting:
        api.until(lambda: len(waiters) == 1)
        api.do(api.engine.stop("alpha"))
        assert waiting.stdout is not None
        assert waiting.stdout.read() == b"143\n"


@pytest.mark.docker
def test_docker_inspect(api: Api, docker: Docker) -> None:
    container_id = api.start("alpha", "mixed", HostConfig={"Binds": ["/a:/b:ro"]})
    (shown,) = json.loads(docker("inspect", "alpha").stdout)
    assert (shown["Id"], shown["Name"], shown["State"]["ExitCode"]) == (container_id, "/alpha", 3)
    assert docker("inspect", "-f", "{{.State.Status}} {{.HostConfig.Binds}}", "alpha").stdout == "exited [/a:/b:ro]\n"
    assert shown["Wherry"]["Reason"] == "exited"
    assert "No such object: nobody" in docker("inspect", "nobody", code=1).stderr


@pytest.mark.docker
def test_docker_create_and_run_say_why_not(docker: Docker) -> None:
    assert "No such image: 'bb:1'" in docker("create", "--pull", "never", "bb:1", "true", code=1).stderr
    assert "not supported: HostConfig.Privileged" in docker("create", "--privileged", "bb:1", "true", code=1).stderr


@pytest.fixture
def client(api: Api) -> Iterator[Any]:
    docker_py = pytest.importorskip("docker")
    client = docker_py.DockerClient(base_url=f"unix://{api.path}", version="auto", timeout=PATIENCE)
    yield client
    client.close()


def config(*command: str, **host: Any) -> dict[str, Any]:
    return {"Cmd": list(command), "Wherry": {"Rootfs": "/srv/rootfs"}, "HostConfig": host}


def test_docker_py_creates_through_the_low_level_api(client: Any) -> None:
    created = client.api.create_container_from_config(config("mixed"), "alpha")
    container = client.containers.get(created["Id"])
    assert (container.name, container.status) == ("alpha", "created")
    container.start()
    assert container.wait() == {"StatusCode": 3, "Error": None}
    assert container.logs() == b"out\nerr\n"
    assert container.logs(stderr=False) == b"out\n"
    assert list(container.logs(stream=True, follow=True)) == [b"out\n", b"err\n"]
    container.reload()
    assert (container.status, container.attrs["State"]["ExitCode"]) == ("exited", 3)
    container.remove()
    assert client.containers.list(all=True) == []


def test_docker_py_is_told_what_cannot_be_done(client: Any) -> None:
    import docker.errors  # noqa: PLC0415 (importorskip above)

    with pytest.raises(docker.errors.ImageNotFound, match="No such image: 'bb:1'"):
        client.api.create_container("bb:1", ["true"])
    with pytest.raises(docker.errors.APIError, match=r"not supported: Tty, HostConfig.Privileged"):
        client.api.create_container("bb:1", ["true"], tty=True, host_config={"Privileged": True})
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("nobody")


def test_docker_py_lists_with_its_own_shape_of_filters(client: Any) -> None:
    for name in ("alpha", "beta"):
        client.api.create_container_from_config(config("sleep") | {"Labels": {"app": name}}, name)
        client.containers.get(name).start()
    assert [found.name for found in client.containers.list()] == ["beta", "alpha"]
    assert [found.name for found in client.containers.list(filters={"label": ["app=alpha"]})] == ["alpha"]
    assert [found.name for found in client.containers.list(filters={"name": "bet"})] == ["beta"]
    assert client.containers.list(filters={"status": "exited"}) == []


def test_docker_py_stops_kills_and_removes(client: Any) -> None:
    for name in ("alpha", "beta", "gamma"):
        client.api.create_container_from_config(config("sleep"), name)
        client.containers.get(name).start()
    client.containers.get("alpha").stop(timeout=1)
    client.containers.get("beta").kill(signal="SIGINT")
    client.containers.get("gamma").remove(force=True, v=True)
    states = {found.name: found.attrs["State"]["ExitCode"] for found in client.containers.list(all=True)}
    assert states == {"alpha": 143, "beta": 130}


def test_docker_py_waits_for_an_end_that_comes_later(api: Api, client: Any) -> None:
    client.api.create_container_from_config(config("sleep", AutoRemove=True), "alpha")
    container = client.containers.get("alpha")
    container.start()
    results: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: results.append(container.wait(condition="removed")))
    waiting.start()
    removed = api.engine.entries["alpha"].waiters["removed"]
    api.until(lambda: len(removed) == 1)
    api.do(api.engine.stop("alpha"))
    waiting.join(PATIENCE)
    assert results == [{"StatusCode": 143, "Error": None}]


def test_docker_py_asks_for_version_and_info(client: Any) -> None:
    assert client.ping()
    assert client.version()["ApiVersion"] == "1.44"
    assert client.info()["Wherry"]["Enforcer"] == "cgroup"


@pytest.mark.docker
def test_docker_events(api: Api, docker: Docker) -> None:
    begin = time.time_ns()
    api.start("alpha", "true")
    record = api.engine.entries["alpha"].record
    api.call(lambda: api.engine.told.emit(Action.DIE, record, {"exitCode": "0", "reason": "exited"}))
    end = time.time_ns()
    times = [f"--{name}={ns // 10**9}.{ns % 10**9:09}" for name, ns in (("since", begin), ("until", end))]
    shown = docker("events", *times, "--filter", "event=die", "--format", "{{.Action}} {{.Actor.Attributes.reason}}")
    assert shown.stdout == "die exited\n"
    assert f"container die {record.id} (exitCode=0, " in docker("events", *times).stdout
