"""The life of a container over HTTP, in Docker's statuses and shapes."""

from __future__ import annotations

import re
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.api.conftest import config

from wherry import errors

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.44"])
def test_ping_tells_the_version_with_and_without_a_prefix(api: Api, prefix: str) -> None:
    for method, body in (("GET", b"OK"), ("HEAD", b"")):
        reply = api.request(method, prefix + "/_ping")
        assert (reply.status, reply.body) == (200, body)
        assert reply.headers["Api-Version"] == "1.44"
        assert reply.headers["Ostype"] == "linux"
        assert reply.headers["Server"].startswith("wherry/")
        assert reply.headers["Docker-Experimental"] == "false"


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.45", "client version 1.45 is too new. Maximum supported API version is 1.44"),
        ("2.0", "client version 2.0 is too new. Maximum supported API version is 1.44"),
        ("1.23", "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade"),
        ("0.99", "client version 0.99 is too old"),
    ],
)
def test_versions_that_are_not_spoken_are_refused(api: Api, version: str, message: str) -> None:
    reply = api.request("GET", f"/v{version}/_ping")
    assert reply.status == 400
    assert reply.json()["message"].startswith(message)


def test_info_and_version_describe_the_engine(api: Api) -> None:
    api.start("alpha", "sleep")
    info = api.request("GET", "/info").json()
    assert (info["Containers"], info["ContainersRunning"], info["NCPU"]) == (1, 1, 2)
    assert info["Wherry"]["ShimPid"] == 2
    version = api.request("GET", "/version").json()
    assert (version["ApiVersion"], version["MinAPIVersion"], version["Version"]) == ("1.44", "1.24", "0.1")


def test_a_container_from_create_to_remove(api: Api) -> None:
    container_id = api.create("alpha", "sleep")
    assert api.request("GET", "/containers/alpha/json").json()["State"]["Status"] == "created"
    assert api.request("POST", "/containers/alpha/start").status == 204
    assert api.request("POST", "/containers/alpha/start").status == 304
    running = api.request("GET", f"/containers/{container_id[:12]}/json").json()
    assert running["State"]["Running"] is True
    assert running["State"]["Pid"] >= 1000
    assert api.request("DELETE", "/containers/alpha").status == 409
    assert api.request("POST", "/containers/alpha/stop?t=3").status == 204
    assert api.request("POST", "/containers/alpha/stop").status == 304
    assert api.engine.stop_calls == [3.0, None]
    assert api.request("POST", "/containers/alpha/kill").status == 409
    ended = api.request("GET", "/containers/alpha/json").json()
    assert ended["State"]["ExitCode"] == 128 + 15
    assert RFC3339.fullmatch(ended["State"]["FinishedAt"])
    assert (ended["Wherry"]["Reason"], ended["Wherry"]["Signal"], ended["Wherry"]["ExitCode"]) == ("stopped", 15, None)
    assert api.request("DELETE", "/containers/alpha?v=1").status == 204
    gone = api.request("GET", "/containers/alpha/json")
    assert (gone.status, gone.json()) == (404, {"message": "No such container: alpha", "code": "not_found"})


def test_a_name_with_dockers_slash_is_found(api: Api) -> None:
    api.create("alpha")
    assert api.request("GET", "/containers/%2Falpha/json").status == 200


@pytest.mark.parametrize(
    ("query", "number"),
    [("", 9), ("?signal=TERM", 15), ("?signal=sigusr1", 10), ("?signal=2", 2), ("?signal=RTMIN%2B1", 35)],
)
def test_kill_takes_names_and_numbers(api: Api, query: str, number: int) -> None:
    api.start("alpha", "sleep")
    assert api.request("POST", f"/containers/alpha/kill{query}").status == 204
    assert api.engine.kill_calls == [number]


@pytest.mark.parametrize("signal", ["0", "65", "9" * 21, "NOPE", "SIG_IGN", "RTMIN%2B31", "RTMAX%2B1", "-9"])
def test_kill_refuses_signals_that_do_not_exist(api: Api, signal: str) -> None:
    api.start("alpha", "sleep")
    reply = api.request("POST", f"/containers/alpha/kill?signal={signal}")
    assert (reply.status, reply.json()["message"][:15]) == (400, "invalid signal:")
    assert api.engine.kill_calls == []


@pytest.mark.parametrize(("t", "seconds"), [("-1", -1.0), ("0", 0.0), ("1.5", 1.5)])
def test_stop_passes_the_time_on(api: Api, t: str, seconds: float) -> None:
    api.start("alpha", "sleep")
    assert api.request("POST", f"/containers/alpha/stop?t={t}").status == 204
    assert api.engine.stop_calls == [seconds]


def test_restart_passes_time_and_signal_on(api: Api) -> None:
    api.start("alpha", "sleep")
    assert api.request("POST", "/containers/alpha/restart?t=2&signal=INT").status == 204
    assert api.engine.stop_calls == [2.0]
    assert api.request("POST", "/containers/alpha/restart?t=x").status == 400
    assert api.request("POST", "/containers/nope/restart").status == 404


def test_pause_and_unpause(api: Api) -> None:
    api.start("alpha", "sleep")
    assert api.request("POST", "/containers/alpha/unpause").status == 409
    assert api.request("POST", "/containers/alpha/pause").status == 204
    assert api.request("POST", "/containers/alpha/pause").status == 409
    state = api.request("GET", "/containers/alpha/json").json()["State"]
    assert (state["Status"], state["Running"], state["Paused"], state["Pid"] > 0) == ("paused", True, True, True)
    (shown,) = api.request("GET", "/containers/json").json()
    assert (shown["State"], shown["Status"]) == ("paused", "Up Less than a second (Paused)")
    assert len(api.request("GET", '/containers/json?filters={"status":["paused"]}').json()) == 1
    assert api.request("GET", '/containers/json?filters={"status":["running"]}').json() == []
    info = api.request("GET", "/info").json()
    assert (info["Containers"], info["ContainersRunning"], info["ContainersPaused"]) == (1, 0, 1)
    assert api.request("POST", "/containers/alpha/unpause").status == 204
    assert api.request("POST", "/containers/nope/pause").status == 404


def test_rename(api: Api) -> None:
    api.create("alpha")
    api.create("beta")
    assert api.request("POST", "/containers/alpha/rename?name=/gamma").status == 204
    assert api.request("GET", "/containers/gamma/json").json()["Name"] == "/gamma"
    assert api.request("POST", "/containers/alpha/rename?name=x").status == 404
    taken = api.request("POST", "/containers/gamma/rename?name=beta")
    assert (taken.status, taken.json()["code"]) == (409, "name_in_use")


@pytest.mark.parametrize("query", ["", "?name=", "?name=/", "?name=a/b", "?name=-a", "?name=" + "a" * 129, "?name=%00"])
def test_rename_refuses_what_is_no_name(api: Api, query: str) -> None:
    api.create("alpha")
    reply = api.request("POST", f"/containers/alpha/rename{query}")
    assert (reply.status, "name" in reply.json()["message"]) == (400, True)
    assert api.request("GET", "/containers/alpha/json").status == 200


def test_top_passes_the_options_of_ps_on(api: Api) -> None:
    api.start("alpha", "sleep")
    reply = api.request("GET", "/containers/alpha/top?ps_args=aux%20-ww")
    assert reply.json() == {"Titles": ["PID", "CMD"], "Processes": [["1000", "sleep aux -ww"]]}


@pytest.mark.parametrize("t", ["abc", "1e5", "nan", "inf", "--1", "9" * 30, "%00"])
def test_stop_refuses_what_is_no_time(api: Api, t: str) -> None:
    api.start("alpha", "sleep")
    assert api.request("POST", f"/containers/alpha/stop?t={t}").status == 400
    assert api.engine.stop_calls == []


def test_errors_keep_their_wire_code(api: Api) -> None:
    api.create("alpha")
    reply = api.request("POST", "/containers/create?name=alpha", {"Cmd": ["true"], "Wherry": {"Rootfs": "/srv"}})
    assert (reply.status, reply.json()["code"]) == (409, "name_in_use")
    assert isinstance(errors.from_wire(reply.json()["code"], ""), errors.NameInUse)


def test_a_fault_of_the_engine_is_a_500_and_the_server_lives(api: Api) -> None:
    reply = api.request("POST", "/wherry/run?name=x", {"Cmd": ["broken"], "Wherry": {"Rootfs": "/srv"}})
    assert (reply.status, reply.json()["code"]) == (500, "internal")
    assert "RuntimeError" in reply.json()["message"]
    assert api.request("GET", "/_ping").status == 200


def test_run_without_stream_answers_once_it_is_started(api: Api) -> None:
    reply = api.request("POST", "/wherry/run?name=alpha&stream=0", {"Cmd": ["true"], "Wherry": {"Rootfs": "/srv"}})
    assert reply.status == 201
    assert reply.json() == {"Id": api.engine.get("alpha").id, "Name": "alpha", "Pid": 1000}
    assert len(reply.json()["Id"]) == 64


def test_a_name_is_made_up_when_none_is_given(api: Api) -> None:
    reply = api.request("POST", "/wherry/run", {"Cmd": ["true"], "Wherry": {"Rootfs": "/srv"}})
    assert re.fullmatch(r"[a-z]+_[a-z]+", reply.json()["Name"])


def test_a_start_that_fails_leaves_no_container(api: Api) -> None:
    reply = api.request("POST", "/wherry/run?name=a&stream=1", {"Cmd": ["missing"], "Wherry": {"Rootfs": "/srv"}})
    assert (reply.status, reply.json()["code"]) == (400, "command_not_found")
    assert api.engine.entries == {}


def test_two_starts_of_one_name_give_one_container(api: Api) -> None:
    api.engine.slow = 0.05
    statuses: list[int] = []

    def run() -> None:
        body = {"Cmd": ["sleep"], "Wherry": {"Rootfs": "/srv"}}
        statuses.append(api.request("POST", "/wherry/run?name=alpha", body).status)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] + [409] * 7


def wait_request(query: str = "") -> bytes:
    return f"POST /containers/alpha/wait{query} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n".encode()


def test_wait_answers_with_headers_before_the_end(api: Api) -> None:
    api.start("alpha", "sleep")
    with api.connect() as sock:
        sock.sendall(wait_request())
        head = sock.recv(65536)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.endswith(b"\r\n\r\n")
        assert api.request("POST", "/containers/alpha/kill").status == 204
        rest = b"".join(iter(lambda: sock.recv(65536), b""))
    assert b'{"StatusCode":137,"Error":null}' in rest


def test_wait_registers_before_its_headers_leave(api: Api) -> None:
    """docker run: create, wait for next-exit, start. A command that ends at once must not slip through."""
    api.create("alpha", "false")
    with api.connect() as sock:
        sock.sendall(wait_request("?condition=next-exit"))
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        assert api.request("POST", "/containers/alpha/start").status == 204
        assert b'"StatusCode":1' in b"".join(iter(lambda: sock.recv(65536), b""))


def test_wait_for_a_removal(api: Api) -> None:
    api.create("alpha", "true", HostConfig={"AutoRemove": True})
    with api.connect() as sock:
        sock.sendall(wait_request("?condition=removed"))
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        assert api.request("POST", "/containers/alpha/start").status == 204
        assert b'"StatusCode":0' in b"".join(iter(lambda: sock.recv(65536), b""))
    assert api.engine.entries == {}


def test_wait_says_at_once_what_is_known(api: Api) -> None:
    assert api.request("POST", "/containers/nobody/wait").status == 404
    assert api.request("POST", "/containers/nobody/wait?condition=never").status == 400
    api.start("alpha", "false")
    reply = api.request("POST", "/containers/alpha/wait")
    assert (reply.json(), reply.headers["Content-Length"]) == ({"StatusCode": 1, "Error": None}, str(len(reply.body)))


def test_a_client_that_leaves_stops_waiting_but_not_what_it_began(api: Api) -> None:
    api.start("alpha", "sleep")
    waiters = api.engine.entries["alpha"].waiters["next-exit"]
    sock = api.connect()
    sock.sendall(b"POST /containers/alpha/wait HTTP/1.1\r\nHost: d\r\n\r\n")
    api.until(lambda: len(waiters) == 1)
    sock.close()
    api.until(waiters[0].cancelled)
    api.engine.slow = 0.2
    with api.connect() as sock:
        sock.sendall(b"POST /containers/alpha/stop HTTP/1.1\r\nHost: d\r\n\r\n")
        api.until(lambda: api.engine.entries["alpha"].record.stop_requested)
        # the client is gone with a reset, in the middle of the stop
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    api.until(lambda: api.engine.get("alpha").state == "exited")


def _names(api: Api, query: str) -> list[str]:
    reply = api.request("GET", f"/containers/json{query}")
    assert reply.status == 200, reply.body
    return [entry["Names"][0] for entry in reply.json()]


def test_list_shows_what_docker_shows(api: Api) -> None:
    api.create("one")
    api.start("two", "sleep")
    api.start("three", "false")
    assert _names(api, "") == ["/two"]
    assert _names(api, "?all=True") == ["/three", "/two", "/one"]
    assert _names(api, "?all=false") == ["/two"]
    assert _names(api, "?limit=2") == ["/three", "/two"]
    assert _names(api, "?limit=-1&all=1&size=0&trunc_cmd=0") == ["/three", "/two", "/one"]
    assert api.request("GET", "/containers/json?limit=x").status == 400
    assert api.request("GET", "/containers/json?size=1").status == 400


def test_an_entry_of_the_list(api: Api) -> None:
    wherry = {"Rootfs": "/srv/rootfs", "SoftLimit": 3 << 20, "SoftAction": "reclaim", "HardLimit": 6 << 20, "Nice": 5}
    container_id = api.start("alpha", "mixed", "a b", Labels={"k": "v"}, Wherry=wherry)
    (entry,) = api.request("GET", "/containers/json?all=1").json()
    assert entry["Id"] == container_id
    assert (entry["Image"], entry["Command"], entry["State"]) == ("/srv/rootfs", "mixed a b", "exited")
    assert entry["Status"] == "Exited (3) Less than a second ago"
    assert entry["Labels"] == {"k": "v"}
    ours: dict[str, Any] = entry["Wherry"]
    for time in ("Created", "Started", "Finished"):
        assert RFC3339.fullmatch(ours.pop(time))
    assert ours == {
        "Name": "alpha",
        "State": "exited",
        "BeingKilled": False,
        "Reason": "exited",
        "ExitCode": 3,
        "Signal": None,
        "Error": "",
        "Pid": 0,
        "SoftLimit": 3 << 20,
        "HardLimit": 6 << 20,
        "Nice": 5,
        "SchedPolicy": "other",
        "SoftAction": "reclaim",
        "Timeout": None,
        "MergeStreams": False,
        "Rootfs": "/srv/rootfs",
        "Command": ["mixed", "a b"],
        "LogPath": "",
        "LogError": "",
        "PeakMemory": None,
        "PeakPids": None,
        "PeakRss": None,
        "Enforcer": "",
        "Backstop": None,
        "NotCounted": [],
        "OomChildren": 0,
        "MemoryDeath": None,
    }
    created = api.request("GET", f"/containers/{api.create('beta')}/json").json()
    assert (created["Wherry"]["Started"], created["Wherry"]["SoftLimit"]) == ("", None)
    assert created["State"]["StartedAt"] == "0001-01-01T00:00:00Z"


def test_inspect_gives_back_what_was_asked_for(api: Api) -> None:
    host = {
        "Binds": ["/a:/b:ro", "/c:/d"],
        "Tmpfs": {"/run": "size=1m"},
        "NanoCpus": 1_500_000_000,
        "PidsLimit": 7,
        "Memory": 8 << 20,
        "MemoryReservation": 7 << 20,
        "MemorySwap": 9 << 20,
        "NetworkMode": "host",
        "Init": True,
        "ReadonlyRootfs": True,
        "Ulimits": [{"Name": "core", "Soft": 1, "Hard": 2}],
        "OomScoreAdj": 5,
        "ShmSize": 1 << 20,
        "GroupAdd": ["audio"],
        "ExtraHosts": ["a:10.0.0.1"],
        "Dns": ["10.0.0.2"],
        "DnsSearch": ["example.org"],
        "DnsOptions": ["ndots:1"],
        "CapAdd": ["CAP_NET_RAW"],
        "CapDrop": ["ALL"],
        "Sysctls": {"kernel.msgmax": "5"},
    }
    fields = {"Env": ["A=1"], "User": "1:1", "WorkingDir": "/w", "Hostname": "h", "StopSignal": "INT", "StopTimeout": 3}
    api.create("alpha", "sh", "-c", "x", HostConfig=host, **fields)
    shown = api.request("GET", "/containers/alpha/json").json()
    assert {key: shown["HostConfig"][key] for key in host} == host
    assert {key: shown["Config"][key] for key in fields} == fields
    assert (shown["Path"], shown["Args"], shown["Name"]) == ("sh", ["-c", "x"], "/alpha")
    assert [(mount["Source"], mount["RW"]) for mount in shown["Mounts"]] == [("/a", False), ("/c", True)]


def test_start_by_our_own_path_says_what_runs(api: Api) -> None:
    """Case 31: POST /wherry/start answers as POST /wherry/run does."""
    container_id = api.create("alpha", "sleep")
    first = api.request("POST", "/wherry/start?name=alpha")
    again = api.request("POST", f"/wherry/start?name={container_id[:12]}")
    assert [reply.status for reply in (first, again)] == [201, 201]
    pid = api.engine.entries["alpha"].record.pid
    fields = {"Id": container_id, "Name": "alpha", "Pid": pid}
    assert [reply.json() for reply in (first, again)] == [fields | {"WasRunning": False}, fields | {"WasRunning": True}]
    for path, status in (("/wherry/start", 400), ("/wherry/start?name=nobody", 404), ("/wherry/start?nome=alpha", 400)):
        assert api.request("POST", path).status == status


def test_run_replaces_when_it_is_asked_to(api: Api) -> None:
    """Case 31."""
    old = api.start("alpha", "sleep")
    assert api.request("POST", "/wherry/run?name=alpha&stream=0", config("sleep")).status == 409
    assert api.request("POST", "/wherry/run?name=alpha&stream=0&replace=0", config("sleep")).status == 409
    assert api.request("POST", "/wherry/run?name=alpha&stream=0&replace=1", config("sleep")).status == 201
    assert api.engine.entries["alpha"].record.id != old


def test_wait_tells_the_reason_to_who_asks(api: Api) -> None:
    """Case 6: docker's two fields, and ours by a parameter of our own."""
    container_id = api.start("alpha", "mixed")
    plain = api.request("POST", "/containers/alpha/wait").json()
    full = api.request("POST", "/containers/alpha/wait?wherry=1").json()
    assert plain == {"StatusCode": 3, "Error": None}
    ours = full.pop("Wherry")
    assert full == plain
    assert (ours["Id"], ours["Name"], ours["Reason"], ours["ExitCode"]) == (container_id, "alpha", "exited", 3)
    assert ours["Started"] <= ours["Finished"]
