"""What differs with the version of docker's API that a client asks for."""

from __future__ import annotations

from signal import SIGINT
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


@pytest.mark.parametrize(("version", "kind"), [("/v1.24", RAW), ("/v1.41", RAW), ("/v1.42", MULTIPLEXED)])
def test_streams_have_their_media_type_since_1_42(api: Api, version: str, kind: str) -> None:
    api.create("new")
    api.start("alpha", "mixed")
    for path in ("new/logs?stdout=1", "alpha/logs?stdout=1", "alpha/logs?stdout=1&follow=1"):
        assert api.request("GET", f"{version}/containers/{path}").headers["Content-Type"] == kind, path


def test_the_newest_is_what_a_path_without_a_version_means(api: Api) -> None:
    api.start("alpha", "mixed")
    assert api.request("GET", "/containers/alpha/logs?stdout=1").headers["Content-Type"] == MULTIPLEXED
    assert "VirtualSize" not in api.request("GET", "/images/json").json()[0]


def test_ping_tells_builder_and_swarm(api: Api) -> None:
    for method in ("GET", "HEAD"):
        headers = api.request(method, "/_ping").headers
        assert (headers["Builder-Version"], headers["Swarm"], headers["Pragma"]) == ("1", "inactive", "no-cache")
    assert "Swarm" not in api.request("GET", "/version").headers


@pytest.mark.parametrize(
    ("version", "size", "tags"), [("1.42", True, ["<none>:<none>"]), ("1.43", True, []), ("1.44", False, [])]
)
def test_images_lose_fields(api: Api, version: str, size: bool, tags: list[str]) -> None:
    api.create("alpha")
    (image,) = api.request("GET", f"/v{version}/images/json").json()
    assert ("VirtualSize" in image, image["RepoTags"]) == (size, tags)
    details = api.request("GET", f"/v{version}/images/{image['Id']}/json").json()
    assert ("VirtualSize" in details, details["RepoTags"]) == (size, [])
    archives = api.request("GET", f"/v{version}/system/df").json()["Images"]
    assert [("VirtualSize" in each, each["RepoTags"]) for each in archives] == [(size, tags)] * 2


def test_df_by_type(api: Api) -> None:
    api.create("alpha")
    assert "BuilderSize" in api.request("GET", "/v1.41/system/df").json()
    assert "BuilderSize" not in api.request("GET", "/v1.42/system/df").json()
    some = api.request("GET", "/system/df?type=container&type=volume").json()
    assert (some["Images"], len(some["Containers"]), some["Volumes"], some["BuildCache"]) == (None, 1, [], None)
    assert (some["LayersSize"], api.request("GET", "/system/df?type=image").json()["LayersSize"]) == (0, 5000)
    refused = api.request("GET", "/system/df?type=volume&type=toy")
    assert (refused.status, refused.json()["message"]) == (400, "unknown object type: 'toy'")


def test_info(api: Api) -> None:
    old, newer, new = (api.request("GET", f"/v{version}/info").json() for version in ("1.41", "1.42", "1.44"))
    assert ("KernelMemory" in old, "KernelMemory" in newer) == (True, False)
    assert ("CDISpecDirs" in newer, new["CDISpecDirs"]) == (False, [])
    assert "name=no-new-privileges" in new["SecurityOptions"]


def test_stop_with_a_signal(api: Api) -> None:
    api.start("alpha", "sleep")
    refused = api.request("POST", "/containers/alpha/stop?signal=SIGFOO")
    assert (refused.status, refused.json()["message"]) == (400, "invalid signal: 'SIGFOO'")
    assert api.request("POST", "/containers/alpha/stop?signal=SIGINT&t=3").status == 204
    assert (api.engine.stop_calls, api.engine.stop_signals) == ([3.0], [SIGINT])


def test_a_bad_condition_to_wait_for(api: Api) -> None:
    api.start("alpha", "sleep")
    refused = api.request("POST", "/containers/alpha/wait?condition=lunch")
    assert (refused.status, refused.json()["message"]) == (400, "invalid condition: 'lunch'")


def creating(api: Api, query: str = "", version: str = "", **host: Any) -> tuple[int, str]:
    body = {"Cmd": ["true"], "HostConfig": host, "Wherry": {"Rootfs": "/srv/rootfs"}}
    reply = api.request("POST", f"{version}/containers/create{query}", body)
    return reply.status, reply.json().get("message", "")


def test_the_platform_of_an_image(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wherry.api.docker.platforms.architecture", lambda: "amd64")
    for right in ("linux", "linux/amd64", "linux/x86_64", "Linux%2Famd64"):
        assert creating(api, f"?platform={right}") == (201, "")
    for wrong in ("linux/arm64", "windows", "linux/amd64/v9"):
        message = f"platform '{wrong}' is not supported: this machine is linux/amd64"
        assert creating(api, f"?platform={wrong}") == (400, message)
    for bad in ("linux/", "a/b/c/d", "linux%20", "%1b"):
        assert creating(api, f"?platform={bad}")[1].startswith("invalid platform: ")


def test_kernel_memory_is_ignored_since_1_42(api: Api) -> None:
    assert creating(api, version="/v1.41", KernelMemory=1 << 20)[0] == 400
    assert creating(api, version="/v1.42", KernelMemory=1 << 20)[0] == 201
    api.start("alpha", "sleep")
    body = {"KernelMemory": 1 << 20, "CpuShares": 512}
    assert api.request("POST", "/v1.41/containers/alpha/update", body).status == 400
    assert api.request("POST", "/v1.42/containers/alpha/update", body).status == 200
    assert api.engine.update_calls == [{"cpu_shares": 512}]


def test_annotations(api: Api) -> None:
    """Since 1.43. Those of our own make the runtime do things: nobody else may give them."""
    api.create("alpha", HostConfig={"Annotations": {"a.b": "1", "c": ""}})
    assert api.request("GET", "/containers/alpha/json").json()["HostConfig"]["Annotations"] == {"a.b": "1", "c": ""}
    assert creating(api, Annotations={"": "x"}) == (400, "invalid annotation: its name is empty")
    for name in ("io.wherry.root-itself", "io.wherry.name-file./etc/passwd"):
        status, message = creating(api, Annotations={name: "true"})
        assert (status, message.startswith(f"invalid annotation: '{name}'")) == (400, True)
    assert creating(api, Annotations={"a": "\0"})[0] == 400
    assert "the most is 65536" in creating(api, Annotations={"a": "x" * 65536})[1]


def test_health_checks_are_refused_by_name(api: Api) -> None:
    for check in ({"Test": ["NONE"]}, {"Test": [], "StartInterval": 0}, {"Test": None}):
        assert api.request("POST", "/containers/create", config(check)).status == 201
    for check in ({"Test": ["CMD", "true"]}, {"Test": ["NONE"], "StartInterval": 5}):
        reply = api.request("POST", "/containers/create", config(check))
        assert (reply.status, reply.json()["message"]) == (400, "not supported: Healthcheck")


def config(check: dict[str, Any]) -> dict[str, Any]:
    return {"Cmd": ["true"], "Wherry": {"Rootfs": "/srv/rootfs"}, "Healthcheck": check}


def test_inspect_has_the_addresses_that_clients_look_for(api: Api) -> None:
    api.create("alpha")
    settings = api.request("GET", "/containers/alpha/json").json()["NetworkSettings"]
    assert (settings["Ports"], settings["Gateway"], settings["SandboxKey"]) == ({}, "", "")
    assert settings["Networks"]["none"]["DNSNames"] is None
