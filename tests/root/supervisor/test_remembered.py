"""What is still known of containers that are gone, and of what happened before the supervisor was replaced."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import docker as docker_library
import pytest
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry import Client, Conflict, NotFound

pytestmark = pytest.mark.root


def gone(supervisor: Supervisor, name: str) -> bool:
    return all(entry["name"] != name for entry in supervisor.ps())


def test_wait_knows_the_end_of_a_container_that_removed_itself(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 6: `start(rm=True)` then `wait` answered NotFound 2 times in 25."""
    client = supervisor.client
    for number in range(25):
        started = client.start("job", str(rootfs), ["/bin/sh", "-c", f"exit {number}"], rm=True)
        assert client.wait(started.id) == number
        wait_until(lambda: gone(supervisor, "job"))
        for ref in (started.id, started.id[:12], "job"):
            assert client.wait(ref) == number
            assert client.wait(ref, "removed") == number
        with pytest.raises(NotFound):
            client.wait(started.id, "next-exit")  # there will be none
        with pytest.raises(NotFound):
            client.inspect("job")


def test_ends_and_events_outlive_the_supervisor(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 6: also over a restart, by SIGKILL as well as in good order."""
    client = supervisor.client
    begin = time.time_ns()
    ids = [client.start("job", str(rootfs), ["/bin/sh", "-c", "exit 7"], rm=True, labels={"a": "b"}).id]
    assert client.wait(ids[0], "removed") == 7
    supervisor.kill()
    supervisor.restart()
    assert (client.wait(ids[0]), client.wait("job", "removed")) == (7, 7)
    ids.append(client.start("job", str(rootfs), ["/bin/sh", "-c", "exit 8"], rm=True).id)
    assert client.wait("job", "removed") == 8
    supervisor.stop()
    supervisor.restart()
    assert [client.wait(each) for each in (*ids, "job")] == [7, 8, 8]
    events = [event for event in client.events(since_ns=begin, until_ns=time.time_ns()) if event.id in ids]
    kinds = ["create", "start", "die", "destroy"]
    assert [(event.id, event.kind) for event in events] == [(each, kind) for each in ids for kind in kinds]
    assert events[2].attributes == {"a": "b", "exitCode": "7", "reason": "exited", "image": str(rootfs), "name": "job"}
    shown = supervisor.engine("events", "--since", str(begin // 10**9), "--until", "0s", "--format", "json").stdout
    assert [json.loads(line)["kind"] for line in shown.splitlines()] == kinds * 2


def test_a_container_that_ends_while_nobody_is_there_is_told_of_and_removed(
    supervisor: Supervisor, rootfs: Path
) -> None:
    """Case 6."""
    script = "while [ ! -e /go/now ]; do usleep 10000; done; exit 5"
    go = supervisor.directory / "go"
    go.mkdir()
    started = supervisor.client.start("job", str(rootfs), ["/bin/sh", "-c", script], rm=True, volumes=[f"{go}:/go"])
    supervisor.kill()
    (go / "now").touch()
    wait_until(lambda: not Path(f"/proc/{started.pid}").exists())
    supervisor.restart()
    assert supervisor.client.wait(started.id, "removed") == 5
    assert gone(supervisor, "job")
    events = supervisor.client.events(since_ns=1, until_ns=time.time_ns(), filters={"container": started.id})
    assert [event.kind for event in events] == ["create", "start", "die", "destroy"]


def test_the_living_container_has_its_name_and_what_never_ran_has_no_end(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 6."""
    client = supervisor.client
    first = client.run("job", str(rootfs), ["/bin/sh", "-c", "exit 3"])
    old = client.inspect("job")["Id"]
    client.rm("job")
    client.start("job", str(rootfs), ["/bin/sleep", "1000"])
    ended: list[int] = []
    waiting = threading.Thread(target=lambda: ended.append(client.wait("job")))
    waiting.start()
    assert (first.exit_code, client.wait(old)) == (3, 3)
    client.kill("job")
    waiting.join(20)
    assert ended == [137]
    client.rm("job")
    assert client.wait("job") == 137
    api = docker_py(supervisor)
    created = create(api, rootfs, "never", "true")
    client.rm("never")
    for ref in (created, "never", "nobody", "../x"):
        with pytest.raises(NotFound):
            client.wait(ref)
    api.close()


def test_a_prefix_of_two_removed_containers_is_ambiguous(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 6: 17 ids have two that begin with the same digit."""
    client = supervisor.client
    ids = [client.start(None, str(rootfs), ["/bin/true"], rm=True).id for _ in range(17)]
    for each in ids:
        client.wait(each, "removed")
    digit = next(each[0] for each in ids if [other[0] for other in ids].count(each[0]) > 1)
    with pytest.raises(Conflict, match="ambiguous"):
        client.wait(digit)


def docker_py(supervisor: Supervisor) -> Any:
    return docker_library.APIClient(base_url=f"unix://{supervisor.socket}", version="auto")


def create(api: Any, rootfs: Path, name: str, script: str, **host: Any) -> str:
    body = {"Cmd": ["/bin/sh", "-c", script], "Wherry": {"Rootfs": str(rootfs)}, "HostConfig": host}
    reply = api._result(
        api._post_json(api._url("/containers/create"), body, params={"name": name} if name else {}), json=True
    )
    return str(reply["Id"])


@pytest.mark.parametrize(("script", "code"), [("exit 4", 4), (None, 127)])
def test_as_docker_runs_with_rm(supervisor: Supervisor, rootfs: Path, script: str | None, code: int) -> None:
    """Case 6: `docker run --rm` creates, waits for the removal, and starts then; a failed start removes too."""
    api = docker_py(supervisor)
    body = {"Cmd": ["/bin/sh", "-c", script] if script else ["/no/such"], "HostConfig": {"AutoRemove": True}}
    body["Wherry"] = {"Rootfs": str(rootfs)}
    created = api._result(api._post_json(api._url("/containers/create"), body, params={"name": "job"}), json=True)["Id"]
    ends: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: ends.append(docker_py(supervisor).wait(created, condition="removed")))
    before = supervisor.connections()
    waiting.start()
    wait_until(lambda: supervisor.connections() > before)
    if script:
        api.start(created)
    else:
        with pytest.raises(docker_library.errors.APIError, match="no such file"):
            api.start(created)
    waiting.join(20)
    assert [end["StatusCode"] for end in ends] == [code]
    wait_until(lambda: gone(supervisor, "job"))
    assert list((supervisor.state_dir / "logs").iterdir()) == []
    assert api.wait(created)["StatusCode"] == code
    with pytest.raises(docker_library.errors.NotFound):
        api.inspect_container(created)
    api.close()


def test_who_waits_for_the_next_exit_of_what_is_removed_gets_an_answer(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 6: as in docker the removal is the end of waiting."""
    supervisor.client.run("job", str(rootfs), ["/bin/sh", "-c", "exit 6"])
    ended: list[int] = []
    before = supervisor.connections()
    client = Client(str(supervisor.socket))
    waiting = threading.Thread(target=lambda: ended.append(client.wait("job", "next-exit")))
    waiting.start()
    wait_until(lambda: supervisor.connections() > before)
    supervisor.client.rm("job")
    waiting.join(20)
    assert ended == [6]
    client.close()


def test_the_reason_is_told_to_who_asks(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 6: code, reason and times, by our own parameter."""
    client = supervisor.client
    started = client.start("job", str(rootfs), ["/bin/sleep", "1000"], rm=True)
    client.stop("job")
    wait_until(lambda: gone(supervisor, "job"))
    reply = client._fetch("POST", f"/containers/{started.id}/wait", {"wherry": "1"})
    ours = reply["Wherry"]
    assert (ours["Id"], ours["Name"], ours["Reason"]) == (started.id, "job", "stopped")
    assert ours["Started"] < ours["Finished"]
    assert set(client._fetch("POST", "/containers/job/wait")) == {"StatusCode", "Error"}
