"""Root file systems as images: what docker-py and docker's command make of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker as docker_library
import pytest
from tests.unit.api.conftest import ROOTFS

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api


@pytest.fixture
def client(api: Api) -> Iterator[Any]:
    with contextlib.closing(docker_library.DockerClient(base_url=f"unix://{api.path}", version="auto")) as client:
        yield client


def test_docker_py_finds_the_image_of_a_container(api: Api, client: Any) -> None:
    """Case 16: `containers.get(x).image` raised IndexError."""
    api.start("alpha", "sleep")
    container = client.containers.get("alpha")
    image = container.image
    assert image.id == container.attrs["Image"]
    assert image.id.startswith("sha256:")
    assert len(image.id) == 64 + 7
    assert (image.tags, image.attrs["Wherry"], image.labels) == ([], {"Rootfs": ROOTFS}, {})
    assert container.attrs["Config"]["Image"] == ROOTFS
    assert repr(image) == "<Image: ''>"
    (listed,) = client.containers.list()
    assert listed.image == image
    assert client.api.containers()[0]["ImageID"] == image.id


def test_images_are_listed_once_and_stay_the_same(api: Api, client: Any) -> None:
    """Case 16."""
    for name in ("a", "b"):
        api.start(name, "sleep")
    api.create("c", Wherry={"Rootfs": "/srv/other"})
    images = client.images.list()
    assert [image.attrs["Wherry"]["Rootfs"] for image in images] == ["/srv/other", ROOTFS]
    assert [image.attrs["RepoTags"] for image in images] == [[], []]
    assert client.info()["Images"] == 2
    counts = {each["Id"]: each["Containers"] for each in client.api.images()}
    assert list(counts.values()) == [1, 2]
    identity = client.containers.get("a").image.id
    for name in (identity, identity[7:], identity[7:19], identity[:20], ROOTFS):
        assert client.images.get(name).id == identity
    assert client.api.images(filters={"dangling": True}) == []
    assert len(client.api.images(filters={"dangling": False})) == 2
    assert client.images.list(filters={"reference": "alpine"}) == []
    with pytest.raises(docker_library.errors.APIError, match="invalid filter 'colour'"):
        client.api.images(filters={"colour": "red"})


@pytest.mark.parametrize(
    "name", ["alpine", "alpine:3.20", "docker.io/library/alpine", "sha256:00", "/nowhere", "a b", "%"]
)
def test_an_unknown_image_is_said_so_as_docker_does(api: Api, client: Any, name: str) -> None:
    """Case 16: docker-py tells an ImageNotFound by these words."""
    api.start("alpha", "sleep")
    with pytest.raises(docker_library.errors.ImageNotFound, match=f"No such image: {name}"):
        client.images.get(name)


def test_an_unknown_name_reaches_a_terminal_escaped(api: Api) -> None:
    reply = api.request("GET", "/images/%1b%5d0%3bx/json")
    assert (reply.status, reply.json()["message"]) == (404, r"No such image: '\x1b]0;x'")


def test_a_prefix_of_several_is_ambiguous(api: Api) -> None:
    for number in range(17):
        api.create(f"c{number}", Wherry={"Rootfs": f"/srv/{number}"})
    ids = [entry["Id"][7:] for entry in api.request("GET", "/images/json").json()]
    digit = next(each[0] for each in ids if [other[0] for other in ids].count(each[0]) > 1)
    assert api.request("GET", f"/images/{digit}/json").status == 409


def test_no_containers_no_images(api: Api, client: Any) -> None:
    assert client.images.list() == []
    assert api.request("POST", "/images/json").status == 405


@pytest.mark.docker
def test_docker_lists_inspects_and_filters(api: Api, tmp_path: Path) -> None:
    """Case 16."""
    api.start("alpha", "sleep")
    environment = {"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{api.path}", "DOCKER_CONFIG": str(tmp_path)}

    def docker(*words: str) -> str:
        done = subprocess.run(["docker", *words], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        return done.stdout

    identity = docker("inspect", "-f", "{{.Image}}", "alpha").strip()
    assert identity[7:19] in docker("images")
    assert docker("images", "-q", "--no-trunc") == f"{identity}\n"
    for name in (ROOTFS, identity, identity[7:19]):
        assert docker("ps", "-q", "--no-trunc", "--filter", f"ancestor={name}") != ""
        assert docker("image", "inspect", "-f", "{{.Id}}", name) == f"{identity}\n"
    assert docker("ps", "-q", "--filter", "ancestor=alpine") == ""
    assert docker("inspect", "-f", "{{.Id}}", identity) == f"{identity}\n"
    assert docker("ps", "--format", "{{.Image}}") == f"{ROOTFS}\n"
    unknown = subprocess.run(
        ["docker", "image", "inspect", "alpine"], env=environment, capture_output=True, text=True, check=False
    )
    assert (unknown.returncode, "No such image: alpine" in unknown.stderr) == (1, True)
