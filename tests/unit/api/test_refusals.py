"""Every path of docker's API has an answer: it is served, or refused with a sentence."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.unit.api.conftest import UnixConnection

from wherry.api import refusals
from wherry.api.server import ROUTES

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

PATHS = (Path(__file__).parent / "docker_paths.txt").read_text().split("\n")[:-1]
"""Of docker's swagger: 1.41's, and what came until 1.44."""
BODIES = {"POST": b"{}", "PUT": b"x" * 100_000}


@pytest.mark.parametrize("version", ["", "/v1.24", "/v1.41", "/v1.44"])
def test_every_path_of_docker_has_an_answer(api: Api, version: str) -> None:
    """On one connection: whoever gets a refusal is not cut off, whatever came as a body."""
    with contextlib.closing(UnixConnection(api.path)) as connection:
        for place in PATHS:
            method, _, path = place.partition(" ")
            if path == "/events":
                continue  # no end: test_events.py
            path = re.sub(r"\{\w+\}", "nobody", path)
            headers = {"Content-Type": "application/json"}
            connection.request(method, version + path, BODIES.get(method), headers)
            reply = connection.getresponse()
            body = reply.read()
            assert reply.status != 405, place
            assert b"page not found" not in body, place
            assert reply.status < 500 or reply.status in (501, 503), (place, body)
            assert not reply.will_close, place


def test_no_path_is_served_and_refused() -> None:
    refused = {**refusals.NOT_THERE, **refusals.NO_SWARM}
    assert len(refused) == len(refusals.NOT_THERE) + len(refusals.NO_SWARM)
    for place in refused:
        method, path = refusals.segments(place)
        assert method not in ROUTES.get(path, {}), f"{place} is served: take it out of refusals.py"
    with pytest.raises(ValueError, match=r"served and refused: GET /swarm"):
        refusals.routes({("swarm",): {"GET": ROUTES["version",]["GET"]}})


def test_what_is_refused_is_a_path_of_docker() -> None:
    """A slip of the pen in the table would refuse nothing. /grpc is docker's too, but in no swagger."""
    assert {*refusals.NOT_THERE, *refusals.NO_SWARM} - {"POST /grpc"} <= set(PATHS)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/commit?container=x", 501, "a container cannot be committed to an image yet"),
        ("DELETE", "/images/registry.example/a/b:1", 501, "there is no store of images yet"),
        ("GET", "/distribution/a/b/json", 501, "there is no client for registries yet"),
        ("POST", "/images/a/b/tag", 501, "there is no store of images yet"),
        ("GET", "/swarm", 503, "This node is not a swarm manager"),
        ("GET", "/services/x/logs", 503, "This node is not a swarm manager"),
        ("POST", "/swarm/leave", 503, "This node is not part of a swarm"),
        ("GET", "/volumes/data", 404, "get data: no such volume"),
        ("DELETE", "/volumes/data", 404, "get data: no such volume"),
        ("DELETE", "/plugins/a/b:latest", 404, "plugin 'a/b:latest' not found"),
        ("POST", "/plugins/a/b:latest/enable", 404, "plugin 'a/b:latest' not found"),
        ("GET", "/networks/lan", 404, "network lan not found"),
        ("DELETE", "/networks/none", 403, "none is a pre-defined network and cannot be removed"),
        ("GET", "/volumes?filters=%7B%22colour%22:[%22x%22]%7D", 400, "invalid filter 'colour'"),
        ("GET", "/volumes?filters=%7B%22dangling%22:[%22x%22]%7D", 400, "invalid filter 'dangling='x''"),
        ("GET", "/plugins?filters=%7B%22enabled%22:[%221%22,%220%22]%7D", 400, "invalid filter 'enabled='1''"),
    ],
)
def test_refusals_say_what_is_wrong(api: Api, method: str, path: str, status: int, message: str) -> None:
    reply = api.request(method, path)
    assert (reply.status, reply.json()["message"].startswith(message)) == (status, True), reply


def test_what_there_is_none_of_is_an_empty_list(api: Api) -> None:
    assert api.request("GET", "/volumes").json() == {"Volumes": [], "Warnings": []}
    assert api.request("GET", "/plugins").json() == []
    assert api.request("DELETE", "/volumes/data?force=1").status == 204


def test_networks(api: Api) -> None:
    """none and host: what every container is in."""
    api.start("alpha", "sleep")
    api.start("beta", "sleep", HostConfig={"NetworkMode": "host"})
    api.start("gone", "true")
    listed = api.request("GET", "/networks").json()
    assert [(each["Name"], each["Driver"], each["Containers"]) for each in listed] == [
        ("host", "host", {}),
        ("none", "null", {}),
    ]
    inspected = api.request("GET", "/containers/alpha/json").json()
    assert inspected["NetworkSettings"]["Networks"]["none"]["NetworkID"] == listed[1]["Id"]
    for name in ("none", listed[1]["Id"], listed[1]["Id"][:12]):
        found = api.request("GET", f"/networks/{name}").json()
        assert [each["Name"] for each in found["Containers"].values()] == ["alpha"]
    for filters, names in (
        ('{"name":{"no":true}}', ["none"]),
        ('{"type":["custom"]}', []),
        ('{"type":["builtin"],"driver":["host"]}', ["host"]),
        ('{"dangling":["true"]}', []),
        ('{"dangling":["false"],"scope":["local"]}', ["host", "none"]),
        ('{"label":["com.docker.compose.project=x"]}', []),
        (f'{{"id":["{listed[0]["Id"][:5]}"]}}', ["host"]),
    ):
        reply = api.request("GET", "/networks?filters=" + filters.replace('"', "%22"))
        assert [each["Name"] for each in reply.json()] == names, filters
    assert api.request("GET", '/networks?filters={"type":["x"]}'.replace('"', "%22")).status == 400
    assert api.request("GET", "/networks/none?scope=swarm").status == 404


def test_a_wrong_method_says_which_are_right(api: Api) -> None:
    reply = api.request("PATCH", "/containers/x/archive")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD, PUT")
    assert "Allow" not in api.request("GET", "/nothing").headers
