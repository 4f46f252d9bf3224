"""POST /containers/X/update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

# What `docker update --cpus 1.5 X` sends: everything else says nothing.
DOCKERS = {
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 1_500_000_000,
    "CgroupParent": "",
    "BlkioWeight": 0,
    "BlkioWeightDevice": None,
    "CpuPeriod": 0,
    "CpuQuota": 0,
    "CpusetCpus": "",
    "CpusetMems": "",
    "Devices": None,
    "KernelMemory": 0,
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": None,
    "PidsLimit": None,
    "Ulimits": None,
    "RestartPolicy": {"Name": "", "MaximumRetryCount": 0},
}


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (DOCKERS, {"cpus": 1.5}),
        ({}, {}),
        ({"NanoCpus": -1, "PidsLimit": -1}, {"cpus": None, "pids_limit": None}),
        (
            {"Wherry": {"Nice": 0, "SoftLimit": 4096, "HardLimit": 8192}},
            {"nice": 0, "soft_bytes": 4096, "hard_bytes": 8192},
        ),
        ({"PidsLimit": 0}, {"pids_limit": None}),
        ({"Wherry": None}, {}),
        (
            {"CpuShares": 2, "CpusetCpus": "0-1", "BlkioWeight": 10, "PidsLimit": 5},
            {"cpu_shares": 2, "cpuset_cpus": "0-1", "io_weight": 10, "pids_limit": 5},
        ),
    ],
)
def test_what_is_changed(api: Api, body: dict[str, Any], changes: dict[str, Any]) -> None:
    api.start("alpha", "sleep")
    reply = api.request("POST", "/v1.41/containers/alpha/update", body)
    assert (reply.status, reply.json()) == (200, {"Warnings": []})
    assert api.engine.update_calls == [changes]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"Memory": 1 << 30}, 400, "cannot be updated: Memory"),
        ({"RestartPolicy": {"Name": "often"}}, 400, "invalid restart policy: unknown policy 'often'"),
        (
            {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}},
            400,
            "a maximum of retries is for on-failure only",
        ),
        ({"Wherry": {"Rootfs": "/"}}, 400, "cannot be updated: Wherry.Rootfs"),
        ({"a\nb": 1}, 400, r"cannot be updated: 'a\nb'"),
        ({"CpuShares": "5"}, 400, "invalid resources: Expected `int | null`, got `str` - at `$.CpuShares`"),
        ({"CpuShares": 1}, 400, "invalid CPU shares: 1"),
        ({"CpuShares": 5, "Wherry": {"Nice": 5}}, 400, "nice and CPU shares both"),
        ({"Wherry": {"Nice": 20}}, 400, "invalid nice value: 20"),
        ({"NanoCpus": 1}, 400, "range of CPUs"),
        ({"CpusetCpus": "x"}, 400, "invalid list of CPUs: 'x'"),
        ([], 400, "expected a JSON object"),
    ],
)
def test_what_is_refused_changes_nothing(api: Api, body: Any, status: int, message: str) -> None:
    api.start("alpha", "sleep")
    before = api.request("GET", "/containers/alpha/json").json()["HostConfig"]
    reply = api.request("POST", "/containers/alpha/update", body)
    assert reply.status == status
    assert message in reply.json()["message"]
    assert api.request("GET", "/containers/alpha/json").json()["HostConfig"] == before


def test_nice_and_shares_take_each_others_place(api: Api) -> None:
    api.start("alpha", "sleep")
    for body, nice, shares in (({"CpuShares": 99}, 0, 99), ({"Wherry": {"Nice": 3}}, 3, 0), ({"CpuShares": 98}, 0, 98)):
        assert api.request("POST", "/containers/alpha/update", body).status == 200
        found = api.request("GET", "/containers/alpha/json").json()
        assert (found["Wherry"]["Nice"], found["HostConfig"]["CpuShares"]) == (nice, shares)


def test_no_such_container(api: Api) -> None:
    assert api.request("POST", "/containers/nope/update", {}).status == 404
