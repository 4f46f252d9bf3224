"""Case 26: /system/df and docker's prune calls over the socket."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from wherry.api.docker.durations import moment

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

NS = 10**9


def prune(api: Api, kind: str, filters: object = None) -> object:
    query = "" if filters is None else "?filters=" + quote(json.dumps(filters))
    reply = api.request("POST", f"/v1.41/{kind}/prune{query}")
    assert reply.status == 200, reply
    return reply.json()


def test_df_shows_archives_as_images(api: Api) -> None:
    identity = api.create("one", "true")
    found = api.request("GET", "/v1.41/system/df").json()
    assert found["LayersSize"] == 5000
    assert [(image["Id"], image["Size"], image["Containers"]) for image in found["Images"]] == [
        ("sha256:" + "a" * 64, 5000, 1),
        ("sha256:" + "b" * 64, 0, 0),
    ]
    assert [(each["Id"], each["State"], each["SizeRw"]) for each in found["Containers"]] == [(identity, "created", 100)]
    ours = found["Wherry"]
    assert (ours["FreeBytes"], ours["ReserveBytes"], ours["CacheLimitBytes"]) == (1 << 30, 1 << 20, 1000)
    assert ours["Archives"][0] | {"UsedAt": ""} == {
        "Id": "sha256:" + "a" * 64,
        "Source": "/a.tar",
        "Bytes": 5000,
        "Entries": 7,
        "UsedAt": "",
        "Users": 1,
    }
    assert ours["Containers"] == [
        {"Id": identity, "Name": "one", "State": "created", "LayerBytes": 100, "LogBytes": 10}
    ]
    assert (found["Volumes"], found["BuildCache"]) == ([], [])


def test_info_has_it_in_brief(api: Api) -> None:
    assert api.request("GET", "/info").json()["Wherry"]["Disk"] == {
        "FreeBytes": 1 << 30,
        "ReserveBytes": 1 << 20,
        "CacheLimitBytes": 1000,
        "Archives": 2,
        "ArchiveBytes": 5000,
        "UnusedArchiveBytes": 0,
    }


def test_containers_by_dockers_filters(api: Api) -> None:
    one = api.create("one", "true", Labels={"a": "1", "b": "2"})
    two = api.create("two", "true", Labels={"a": "2"})
    assert prune(api, "containers") == {"ContainersDeleted": [one, two], "SpaceReclaimed": 220}
    for filters, wanted in (
        ({"label": ["a"]}, [one, two]),
        ({"label": {"a=1": True}}, [one]),
        ({"label": ["a", "b"]}, [one]),
        ({"label!": ["b"]}, [two]),
        ({"label!": {"a": True}}, []),
        ({"until": {"1h": True}}, []),
        ({"until": [str(int(time.time()) + 60)]}, [one, two]),
        ({"until": ["1h"], "label": ["a"]}, []),
    ):
        assert prune(api, "containers", filters) == {
            "ContainersDeleted": wanted,
            "SpaceReclaimed": 110 * len(wanted),
        }, filters


def test_images_are_archives_that_nobody_uses(api: Api) -> None:
    gone = {"ImagesDeleted": [{"Deleted": "sha256:" + "b" * 64}], "SpaceReclaimed": 0}
    nothing = {"ImagesDeleted": [], "SpaceReclaimed": 0}
    assert prune(api, "images") == prune(api, "images", {"dangling": {"false": True}}) == gone
    assert prune(api, "images", {"label!": ["a"]}) == prune(api, "images", {"until": ["1s"]}) == gone
    assert prune(api, "images", {"label": ["a"]}) == nothing


def test_what_there_is_not_is_not_removed(api: Api) -> None:
    assert prune(api, "networks", {"until": ["1h"]}) == {"NetworksDeleted": []}
    assert prune(api, "volumes") == {"VolumesDeleted": [], "SpaceReclaimed": 0}
    assert prune(api, "build") == {"CachesDeleted": [], "SpaceReclaimed": 0}


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"name": ["x"]}, "invalid filter 'name'"),
        ({"until": ["1h", "2h"]}, "filter 'until' may be given once"),
        ({"until": ["yesterday"]}, "invalid filter 'until=yesterday': no duration, RFC 3339 time, date or UNIX time"),
        ({"until": ["99999-01-01"]}, "invalid filter 'until=99999-01-01'"),
        ({"until": "x"}, "invalid filters"),
    ],
)
@pytest.mark.parametrize("kind", ["containers", "images"])
def test_wrong_filters(api: Api, kind: str, filters: object, message: str) -> None:
    api.create("one", "true")
    reply = api.request("POST", f"/{kind}/prune?filters=" + quote(json.dumps(filters)))
    assert reply.status == 400
    assert message.replace("'", "") in reply.json()["message"].replace("'", "").replace('"', "")
    assert len(api.request("GET", "/containers/json?all=1").json()) == 1


def test_a_container_may_be_called_prune(api: Api) -> None:
    api.create("prune", "true")
    assert api.request("DELETE", "/containers/prune").status == 204


def test_moments() -> None:
    before = time.time_ns()
    assert before - 5400 * NS <= moment("1h30m") <= time.time_ns() - 5400 * NS
    assert moment("1769853600.25") == 1769853600 * NS + NS // 4
    assert moment("2026-01-31T10:00:00Z") == moment("2026-01-31T11:00:00+01:00") == 1769853600 * NS
    assert moment("1970-01-02") - moment("1970-01-01") == 86400 * NS
    for text in ("", "h", "1x", "2026", "2026-W05-6", "2026-13-01", "-5", "1h 5m", "2026-01-31Tx"):
        if text == "2026":
            continue  # seconds since the epoch
        with pytest.raises(ValueError, match=r".*"):
            moment(text)
