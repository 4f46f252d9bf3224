"""wherry.Client against a scripted supervisor on a real UNIX socket."""

from __future__ import annotations

import gc
import json
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from tests.patience import PATIENCE
from tests.unit.fake_supervisor import (
    FakeSupervisor,
    Request,
    empty,
    entry,
    exited,
    failure,
    frame,
    reply,
    started,
    streaming,
)

from wherry import Client, ProcessTable, StartedContainer, errors

# Calls


def test_ping_says_who_answers(fake: FakeSupervisor, client: Client) -> None:
    fake.on("GET", "/_ping", lambda _: [b"HTTP/1.1 200 OK\r\nServer: wherry/9\r\nContent-Length: 2\r\n\r\nOK"])
    assert client.ping() == "wherry/9"


def test_start_sends_the_whole_request_and_returns_the_pid(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/wherry/run", reply({"Id": "ab", "Name": "alpha", "Pid": 12}, 201))
    assert client.start("alpha", "/r", ["/bin/true"], hard_mib=4) == StartedContainer("alpha", "ab", 12)
    request = fake.asked("POST", "/wherry/run")
    assert request.query == {"name": "alpha", "stream": "0"}
    assert request.headers["content-type"] == "application/json"
    assert request.json == {
        "Cmd": ["/bin/true"],
        "Wherry": {"Rootfs": "/r", "HardLimit": 4 << 20},
    }


def test_without_a_name_the_supervisor_makes_one(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/wherry/run", reply({"Id": "ab", "Name": "calm_ferry", "Pid": 12}, 201))
    assert client.start(None, "/r", ["x"]).name == "calm_ferry"
    assert fake.asked("POST", "/wherry/run").query == {"stream": "0"}


def test_an_empty_name_is_not_taken_for_none(client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match="name is empty"):
        client.start("", "/r", ["x"])


def test_text_of_any_language_is_sent_as_utf_8(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/wherry/run", reply({"Id": "ab", "Name": "a", "Pid": 1}, 201))
    client.start("a", "/r", ["echo", "grüße\n\x01\u2028😀"])
    assert fake.asked("POST", "/wherry/run").json["Cmd"] == ["echo", "grüße\n\x01\u2028😀"]


def test_bytes_that_are_not_utf_8_are_refused(fake: FakeSupervisor, client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"not UTF-8.*udcff"):
        client.start("a", "/r", ["echo", b"\xff".decode(errors="surrogateescape")])
    assert fake.requests == []


def test_a_value_of_the_wrong_type_is_refused(client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"user: expected a string, not 1\.5"):
        client.start("a", "/r", ["x"], user=1.5)  # type: ignore[arg-type]


def test_run_collects_the_output_and_the_end(fake: FakeSupervisor, client: Client) -> None:
    pieces = [started(), frame(1, b"out1 "), frame(2, b"err"), frame(1, b"out2"), exited(7)]
    fake.on("POST", "/wherry/run", streaming(pieces))
    result = client.run("alpha", "/r", ["x"])
    assert (result.exit_code, result.reason, result.signal) == (7, "exited", None)
    assert (result.stdout, result.stderr) == (b"out1 out2", b"err")
    assert fake.asked("POST", "/wherry/run").query == {"name": "alpha", "stream": "1"}


def test_run_hands_over_the_output_as_it_comes(fake: FakeSupervisor, client: Client) -> None:
    seen = threading.Event()

    def pieces(_: Request) -> Iterator[bytes]:
        yield started()
        yield frame(1, b"first")
        assert seen.wait(PATIENCE)
        yield frame(2, b"second") + exited(None, "signaled", 9)

    fake.on("POST", "/wherry/run", streaming(pieces))
    got: list[object] = []

    def on_output(stream: int, data: bytes) -> None:
        got.append((stream, data))
        seen.set()

    result = client.run("alpha", "/r", ["x"], on_output=on_output, on_start=got.append)
    assert got == [StartedContainer("alpha", "ab" * 32, 1234), (1, b"first"), (2, b"second")]
    assert (result.exit_code, result.signal, result.stdout, result.stderr) == (137, 9, b"", b"")


def test_run_keeps_its_connection(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/wherry/run", streaming([started(), exited()]))
    client.run("a", "/r", ["x"])
    client.run("b", "/r", ["x"])
    assert fake.connections == 1


def test_an_exception_of_the_caller_ends_the_call(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/wherry/run", streaming([started(), frame(1, b"x"), exited()]))

    def on_output(*_: object) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        client.run("a", "/r", ["x"], on_output=on_output)


def test_a_supervisor_that_dies_meanwhile_is_unavailable(fake: FakeSupervisor, client: Client) -> None:
    def cut(_: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 999\r\n\r\n" + started() + frame(1, b"x")[:5]

    def handler(request: Request) -> Iterator[bytes]:
        yield from cut(request)
        raise ConnectionResetError

    fake.on("POST", "/wherry/run", handler)
    with pytest.raises(errors.Unavailable, match="went away"):
        client.run("a", "/r", ["x"])


def test_a_stream_that_does_not_say_how_it_ended_is_no_success(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/wherry/run", streaming([started(), frame(1, b"x")]))
    with pytest.raises(errors.Unavailable, match="did not say how the container ended"):
        client.run("a", "/r", ["x"])


def test_ps_by_filters_and_up_to_a_limit(fake: FakeSupervisor, client: Client) -> None:
    fake.on("GET", "/containers/json", reply([]))
    client.ps(filters={"label": "a=b", "name": ["x", "y"]}, limit=3)
    client.ps(running=True, limit=1)
    asked = [(each.query["all"], each.query["limit"], json.loads(each.query["filters"])) for each in fake.requests]
    assert asked == [
        ("1", "3", {"label": ["a=b"], "name": ["x", "y"]}),
        ("0", "1", {"status": ["running", "paused", "restarting"]}),
    ]
    wrongs: list[dict[str, Any]] = [
        {"limit": 0},
        {"limit": True},
        {"filters": "x"},
        {"running": True, "filters": {"status": "exited"}},
    ]
    for wrong in wrongs:
        with pytest.raises(errors.InvalidRequest) as refused:
            client.ps(**wrong)
        assert refused.value.argument in wrong
    assert len(fake.requests) == 2


def test_ps_asks_for_all_or_for_the_running(fake: FakeSupervisor, client: Client) -> None:
    fake.on("GET", "/containers/json", reply([entry("b"), entry("a", State="exited", Reason="exited", ExitCode=3)]))
    assert [(each.name, each.exit_code) for each in client.ps()] == [("b", None), ("a", 3)]
    client.ps(running=True)
    assert [request.query for request in fake.requests] == [{"all": "1"}, {"all": "0"}]


def test_logs_are_pairs_of_stream_and_bytes(fake: FakeSupervisor, client: Client) -> None:
    fake.on("GET", "/containers/a/logs", streaming([frame(1, b"one\n"), frame(2, b"two\n")]))
    with client.logs("a", tail=5, since_ns=1_700_000_000_000_000_001, until_ns=5, stdout=False, timestamps=True) as log:
        assert list(log) == [(1, b"one\n"), (2, b"two\n")]
    assert fake.requests[0].query == {
        "stdout": "0",
        "stderr": "1",
        "follow": "0",
        "timestamps": "1",
        "tail": "5",
        "since": "1700000000.000000001",
        "until": "0.000000005",
        "status": "1",
    }


def test_logs_of_an_unknown_container_fail_at_once(client: Client, fake: FakeSupervisor) -> None:
    fake.on("GET", "/containers/a/logs", failure(404, "not_found", "No such container: 'a'"))
    with pytest.raises(errors.NotFound, match="No such container: 'a'"):
        client.logs("a")


def test_a_log_that_is_dropped_lets_go_of_its_connection(fake: FakeSupervisor, client: Client) -> None:
    fake.on("GET", "/containers/a/logs", streaming([frame(1, b"one\n"), frame(2, b"two\n")]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(client.logs("a"))
        client.logs("a")
        gc.collect()


@pytest.mark.parametrize(
    ("seconds", "sent"),
    [(None, {}), (0, {"t": "0"}), (10, {"t": "10"}), (2.5, {"t": "2.5"}), (0.1 + 0.2, {"t": "0.3"})],
)
def test_stop_sends_its_seconds(
    fake: FakeSupervisor, client: Client, seconds: float | None, sent: dict[str, str]
) -> None:
    fake.on("POST", "/containers/a/stop", empty(204))
    assert client.stop("a", seconds) is True
    assert fake.requests[0].query == sent


def test_stop_says_when_there_was_nothing_to_stop(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/containers/a/stop", empty(304))
    assert client.stop("a") is False


@pytest.mark.parametrize("seconds", [-2, float("nan"), float("inf")])
def test_stop_refuses_what_is_no_time(client: Client, seconds: float) -> None:
    with pytest.raises(errors.InvalidRequest, match="seconds"):
        client.stop("a", seconds)


def test_pause_unpause_restart_rename_top(fake: FakeSupervisor, client: Client) -> None:
    for call in ("pause", "unpause", "restart", "rename"):
        fake.on("POST", f"/containers/a/{call}", empty())
    fake.on("GET", "/containers/a/top", reply({"Titles": ["PID", "CMD"], "Processes": [["7", "sh -c x"]]}))
    client.pause("a")
    client.unpause("a")
    client.restart("a", 2.5)
    client.rename("a", "b")
    assert client.top("a", "-o pid,cmd") == ProcessTable(["PID", "CMD"], [["7", "sh -c x"]])
    client.top("a")
    sent = [request.query for request in fake.requests]
    assert sent == [{}, {}, {"t": "2.5"}, {"name": "b"}, {"ps_args": "-o pid,cmd"}, {}]


def test_waiting_ends_in_time_and_the_client_goes_on(fake: FakeSupervisor, client: Client) -> None:
    """The head of the reply comes at once, its body with the end."""
    over = threading.Event()

    def wait(_: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n"
        over.wait(PATIENCE)
        yield b'{"StatusCode":7}'

    fake.on("POST", "/containers/a/wait", wait)
    for seconds in (0, 0.01):
        with pytest.raises(errors.WaitTimeout, match=f"a has not ended within {seconds} s") as late:
            client.wait("a", timeout=seconds)
        assert isinstance(late.value, TimeoutError)
    over.set()
    assert client.wait("a", timeout=PATIENCE) == 7


def test_waiting_ends_in_time_when_nothing_is_answered_at_all(fake: FakeSupervisor, client: Client) -> None:
    over = threading.Event()

    def wait(_: Request) -> Iterator[bytes]:
        over.wait(PATIENCE)
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n"

    fake.on("POST", "/containers/a/wait", wait)
    try:
        with pytest.raises(errors.WaitTimeout, match=r"a has not ended within 0\.1 s"):
            client.wait("a", timeout=0.1)
    finally:
        over.set()


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "3"])
def test_wait_refuses_what_is_no_time(client: Client, seconds: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="timeout"):
        client.wait("a", timeout=seconds)


def test_kill_rm_wait_inspect_info_version(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/containers/a/kill", empty())
    fake.on("DELETE", "/containers/a", empty())
    fake.on("POST", "/containers/a/wait", reply({"StatusCode": 137, "Error": None}))
    fake.on("GET", "/containers/a/json", reply({"Id": "x"}))
    fake.on("GET", "/info", reply({"NCPU": 2}))
    fake.on("GET", "/version", reply({"Version": "9"}))
    client.kill("a", 15)
    client.rm("a", force=True)
    assert client.wait("a", "next-exit") == 137
    assert (client.inspect("a"), client.info(), client.version()) == ({"Id": "x"}, {"NCPU": 2}, {"Version": "9"})
    assert [request.query for request in fake.requests[:3]] == [
        {"signal": "15"},
        {"force": "1"},
        {"condition": "next-exit"},
    ]
    assert fake.connections == 1


# Names in paths


@pytest.mark.parametrize("name", ["a/b", "a b", "a%2Fb", "ä", "a?b", "a#b", "a\nb", "..a"])
def test_a_name_is_one_segment_of_the_path(fake: FakeSupervisor, client: Client, name: str) -> None:
    with pytest.raises(errors.NotFound):
        client.inspect(name)
    (request,) = fake.requests
    assert request.path == f"/containers/{name}/json"
    assert request.raw_target.count("/") == 3


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_make_another_path_is_unknown(fake: FakeSupervisor, client: Client, name: str) -> None:
    with pytest.raises(errors.NotFound, match="No such container"):
        client.rm(name)
    assert fake.requests == []


# Threads


def test_a_call_does_not_wait_for_another_thread(fake: FakeSupervisor, client: Client) -> None:
    """stop() while run() is under way, as the command line does it."""
    stopped = threading.Event()

    def pieces(_: Request) -> Iterator[bytes]:
        yield started()
        assert stopped.wait(PATIENCE)
        yield exited(None, "stopped", 15)

    def stop(_: Request) -> list[bytes]:
        stopped.set()
        return [b"HTTP/1.1 204 No Content\r\n\r\n"]

    fake.on("POST", "/wherry/run", streaming(pieces))
    fake.on("POST", "/containers/alpha/stop", stop)
    stopper: list[threading.Thread] = []

    def on_start(container: StartedContainer) -> None:
        stopper.append(threading.Thread(target=client.stop, args=(container.name,)))
        stopper[0].start()

    result = client.run("alpha", "/r", ["x"], on_start=on_start)
    stopper[0].join(PATIENCE)
    assert (result.reason, result.exit_code) == ("stopped", 143)
