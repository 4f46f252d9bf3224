"""GET /events over the real socket, as raw lines and through docker-py."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import docker
import pytest
from tests.patience import PATIENCE
from tests.unit.api.conftest import ROOTFS, Api, UnixConnection

from wherry.supervisor.containers.record import Record
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.events import Action

START = time.time_ns()


def record(name: str, **labels: str) -> Record:
    request = CreateRequest(rootfs=ROOTFS, command=("true",), labels=labels)
    return Record(id=(name.encode().hex() * 40)[:64], name=name, request=request, created_ns=1)


def emit(
    api: Api, action: Action, name: str = "alpha", attributes: dict[str, str] | None = None, **labels: str
) -> None:
    api.call(lambda: api.engine.told.emit(action, record(name, **labels), attributes or {}))


def query(**fields: Any) -> str:
    filters = fields.pop("filters", None)
    return "/events?" + urlencode({**fields, **({"filters": json.dumps(filters)} if filters is not None else {})})


def past(api: Api, filters: Any = None) -> list[dict[str, Any]]:
    until = f"{time.time_ns() / 1e9:.9f}"
    reply = api.request("GET", query(since=f"{START / 1e9:.9f}", until=until, filters=filters))
    assert reply.status == 200, reply.body
    return [json.loads(line) for line in reply.body.splitlines()]


@pytest.fixture
def live(api: Api) -> Iterator[http.client.HTTPResponse]:
    connection = UnixConnection(api.path)
    connection.request("GET", "/v1.41/events")
    yield connection.getresponse()
    connection.close()


def test_a_live_event_has_dockers_shape_and_our_clock(api: Api, live: http.client.HTTPResponse) -> None:
    emit(api, Action.DIE, attributes={"exitCode": "137", "reason": "hard_limit"}, tier="web")
    event = json.loads(live.readline())
    assert live.getheader("Content-Type") == "application/json"
    assert (event["status"], event["Action"], event["Type"], event["scope"]) == ("die", "die", "container", "local")
    assert event["id"] == event["Actor"]["ID"] == record("alpha").id
    attributes = {"exitCode": "137", "reason": "hard_limit", "tier": "web", "name": "alpha", "image": ROOTFS}
    assert event["Actor"]["Attributes"] == attributes
    assert event["time"] == event["timeNano"] // 10**9
    assert abs(event["Wherry"]["MonotonicNano"] - time.monotonic_ns()) < PATIENCE * 1e9


def test_since_and_until_give_the_past_and_end(api: Api) -> None:
    for action in (Action.CREATE, Action.START, Action.DIE):
        emit(api, action)
    assert [event["Action"] for event in past(api)] == ["create", "start", "die"]


def test_until_in_the_future_ends_the_stream_then(api: Api) -> None:
    emit(api, Action.CREATE)
    reply = api.request("GET", query(until=f"{time.time() + 0.2:.6f}"))
    assert (reply.status, reply.body) == (200, b"")


FILTERS = {
    "none": ({}, ["create a", "start a", "create b", "soft-limit b"]),
    "event": ({"event": ["create", "oom"]}, ["create a", "create b"]),
    "docker's own shape": ({"event": {"create": True, "start": False}}, ["create a", "create b"]),
    "container by name": ({"container": ["b"]}, ["create b", "soft-limit b"]),
    "container by id": ({"container": [record("b").id[:12]]}, ["create b", "soft-limit b"]),
    "no container has an empty name": ({"container": [""]}, []),
    "two filters": ({"container": ["a"], "event": ["start"]}, ["start a"]),
    "label": ({"label": ["tier"]}, ["create b", "soft-limit b"]),
    "label and value": ({"label": ["tier=db"]}, []),
    "image": ({"image": [ROOTFS], "event": ["start"]}, ["start a"]),
    "type": ({"type": ["container"], "event": ["start"]}, ["start a"]),
    "another type": ({"type": ["network"]}, []),
}


@pytest.mark.parametrize(("filters", "expected"), FILTERS.values(), ids=FILTERS.keys())
def test_filters(api: Api, filters: Any, expected: list[str]) -> None:
    emit(api, Action.CREATE, "a")
    emit(api, Action.START, "a")
    emit(api, Action.CREATE, "b", tier="web")
    emit(api, Action.SOFT_LIMIT, "b", tier="web")
    found = [f"{event['Action']} {event['Actor']['Attributes']['name']}" for event in past(api, filters)]
    assert found == expected


BAD = {
    "an unknown filter": query(filters={"colour": ["red"]}),
    "a filter that is no JSON": "/events?filters={",
    "a type there is not": query(filters={"type": ["boat"]}),
    "a time that is none": query(since="yesterday"),
    "since after until": query(since="9", until="8"),
    "an unknown parameter": query(colour="red"),
}


@pytest.mark.parametrize("path", BAD.values(), ids=BAD.keys())
def test_bad_requests_are_refused(api: Api, path: str) -> None:
    reply = api.request("GET", path)
    assert (reply.status, bool(reply.json()["message"])) == (400, True)


def test_who_reads_too_slowly_is_told_and_holds_nobody_up(api: Api, live: http.client.HTTPResponse) -> None:
    """More than the socket's buffers and the history (64 events here) hold, while the client reads nothing."""
    number = 20_000

    def flood() -> None:
        for each in range(number):
            api.engine.told.emit(Action.UPDATE, record("alpha"), {"n": str(each), "filler": "x" * 200})

    emit(api, Action.CREATE)
    api.call(flood)
    seen, missed, last = 0, 0, ""
    while last != str(number - 1):
        event = json.loads(live.readline())
        if event["Action"] == "missed":
            assert (event["Type"], event["Actor"]["ID"]) == ("daemon", "")
            missed += int(event["Actor"]["Attributes"]["count"])
        else:
            seen += 1
            last = event["Actor"]["Attributes"].get("n", "")
    assert missed > 0
    assert seen + missed == number + 1


def test_the_end_of_the_server_ends_the_stream_properly(api: Api, live: http.client.HTTPResponse) -> None:
    api.do(api.server.close(1))
    assert live.read() == b""


def test_docker_py_reads_events(api: Api) -> None:
    client = docker.DockerClient(base_url=f"unix://{api.path}", version="auto")
    try:
        events = client.events(decode=True, filters={"event": "die"})
        emit(api, Action.CREATE)
        emit(api, Action.DIE, attributes={"exitCode": "0"})
        event = next(events)
        assert (event["status"], event["Actor"]["Attributes"]["exitCode"]) == ("die", "0")
        events.close()
    finally:
        client.close()
