"""Docker's container configuration as a CreateRequest: what is understood, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.api.translating import translate

from wherry import defaults
from wherry.api.docker.create import create_request
from wherry.errors import InvalidRequest, NotFound, NotSupported, WherryError
from wherry.supervisor.containers.request import CreateRequest, Volume, check

DEEP: dict[str, Any] = {}
for _ in range(300):
    DEEP = {"IPAMConfig": DEEP}
# What docker 28.2.2 sends for "docker create --name x IMAGE true" at API 1.41, nothing asked for.
DOCKER_CLI: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": True,
    "AttachStderr": True,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": ["true"],
    "Image": "/srv/rootfs",
    "Volumes": {},
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": {},
    "HostConfig": {
        "Binds": None,
        "ContainerIDFile": "",
        "LogConfig": {"Type": "", "Config": {}},
        "NetworkMode": "default",
        "PortBindings": {},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "VolumeDriver": "",
        "VolumesFrom": None,
        "ConsoleSize": [24, 80],
        "CapAdd": None,
        "CapDrop": None,
        "CgroupnsMode": "",
        "Dns": [],
        "DnsOptions": [],
        "DnsSearch": [],
        "ExtraHosts": None,
        "GroupAdd": None,
        "IpcMode": "",
        "Cgroup": "",
        "Links": None,
        "OomScoreAdj": 0,
        "PidMode": "",
        "Privileged": False,
        "PublishAllPorts": False,
        "ReadonlyRootfs": False,
        "SecurityOpt": None,
        "UTSMode": "",
        "UsernsMode": "",
        "ShmSize": 0,
        "Isolation": "",
        "CpuShares": 0,
        "Memory": 0,
        "NanoCpus": 0,
        "CgroupParent": "",
        "BlkioWeight": 0,
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": [],
        "Devices": [],
        "DeviceCgroupRules": None,
        "DeviceRequests": None,
        "MemoryReservation": 0,
        "MemorySwap": 0,
        "MemorySwappiness": -1,
        "OomKillDisable": False,
        "PidsLimit": 0,
        "Ulimits": [],
        "CpuCount": 0,
        "MaskedPaths": None,
        "ReadonlyPaths": None,
    },
    "NetworkingConfig": {
        "EndpointsConfig": {
            "default": {"IPAMConfig": None, "Links": None, "Aliases": None, "MacAddress": "", "IPPrefixLen": 0}
        }
    },
}


def test_what_the_docker_client_sends_asks_for_nothing_unknown() -> None:
    request = create_request({**DOCKER_CLI, "Wherry": {"Rootfs": "/srv/rootfs"}})
    assert request == CreateRequest(rootfs="/srv/rootfs", command=("true",))


def test_nulls_are_dockers_way_of_saying_nothing() -> None:
    fields = dict.fromkeys(("Hostname", "Env", "Entrypoint", "Labels", "Tty", "Healthcheck", "StopTimeout", "Runtime"))
    host = dict.fromkeys(("Binds", "Tmpfs", "PidsLimit", "NanoCpus", "Init", "Mounts"))
    expected = CreateRequest(rootfs="/srv/rootfs", command=("true",), pids_limit=defaults.PIDS_LIMIT)
    assert translate(host, **fields) == expected


def test_everything_that_is_understood() -> None:
    host = {
        "AutoRemove": True,
        "ReadonlyRootfs": True,
        "Binds": ["/a:/b", "/c:/d/../e//f/:ro"],
        "Tmpfs": {"/run/": "size=1m,mode=1777,noexec"},
        "NetworkMode": "host",
        "PidsLimit": 5,
        "NanoCpus": 500_000_000,
        "Init": True,
        "Memory": 8 << 20,
        "MemoryReservation": 7 << 20,
        "MemorySwap": 9 << 20,
        "CpusetCpus": "0",
        "BlkioWeight": 10,
    }
    ours = {
        "RwRootfs": True,
        "SoftLimit": 3 << 20,
        "HardLimit": 6 << 20,
        "SoftAction": "throttle",
        "Nice": -5,
        "SchedPolicy": "batch",
    }
    request = translate(
        host,
        ours,
        Hostname="h",
        Domainname="d.org",
        User="1000:100",
        Env=["A=1", "B=2", "A=3", "B"],
        Entrypoint="/entry",
        Cmd=["a", ""],
        WorkingDir="/w",
        Labels={"k": ""},
        StopSignal="SIGINT",
        StopTimeout=0,
    )
    assert request == CreateRequest(
        rootfs="/srv/rootfs",
        command=("/entry", "a", ""),
        entrypoint=("/entry",),
        rw_rootfs=True,
        env=("A=3",),
        working_dir="/w",
        user="1000:100",
        hostname="h",
        domainname="d.org",
        read_only=True,
        init=True,
        auto_remove=True,
        volumes=(
            Volume(source="/a", destination="/b"),
            Volume(source="/c", destination="/e/f", read_only=True),
        ),
        tmpfs={"/run": "size=1m,mode=1777,noexec"},
        network="host",
        pids_limit=5,
        cpus=0.5,
        soft_bytes=3 << 20,
        hard_bytes=6 << 20,
        soft_action="throttle",
        memory_bytes=8 << 20,
        memory_reservation_bytes=7 << 20,
        memory_swap_bytes=9 << 20,
        nice=-5,
        cpuset_cpus="0",
        sched_policy="batch",
        io_weight=10,
        stop_signal="SIGINT",
        stop_seconds=0,
        labels={"k": ""},
    )


def test_unlimited_pids_and_stop_for_ever() -> None:
    """Case 28: docker's API says that 0 and -1 are no limit, and null is the default."""
    for none in (0, -1):
        assert translate({"PidsLimit": none}).pids_limit is None
    assert translate({"PidsLimit": None}).pids_limit == translate().pids_limit == 2048
    body = {"Cmd": ["true"], "Wherry": {"Rootfs": "/r"}}
    assert [create_request(body, limit).pids_limit for limit in (7, None)] == [7, None]
    assert create_request({**body, "HostConfig": {"PidsLimit": 0}}, 7).pids_limit is None
    assert translate(StopTimeout=-1).stop_seconds == -1


def test_there_are_no_images() -> None:
    with pytest.raises(NotFound, match=r"No such image: 'bb:1'"):
        create_request({"Image": "bb:1", "Cmd": ["true"]})
    with pytest.raises(InvalidRequest, match="contradict"):
        translate(Image="bb:1")
    with pytest.raises(InvalidRequest, match=r"Wherry\.Rootfs is missing"):
        create_request({"Cmd": ["true"]})


@pytest.mark.parametrize(
    ("host", "fields", "named"),
    [
        ({"Privileged": True}, {}, "HostConfig.Privileged"),
        ({"PortBindings": {"80/tcp": []}}, {}, "HostConfig.PortBindings"),
        ({"Mounts": [{}]}, {}, "HostConfig.Mounts"),
        ({"MemorySwappiness": 10}, {}, "HostConfig.MemorySwappiness"),
        ({"IpcMode": "host"}, {}, "HostConfig.IpcMode"),
        ({"MaskedPaths": []}, {}, "HostConfig.MaskedPaths"),
        ({"ReadonlyPaths": []}, {}, "HostConfig.ReadonlyPaths"),
        ({"NewInDocker99": "x"}, {}, "HostConfig.NewInDocker99"),
        ({}, {"Tty": True}, "Tty"),
        ({}, {"AttachStdin": 1}, "AttachStdin"),
        ({}, {"AttachStdin": "yes"}, "AttachStdin"),
        ({}, {"Volumes": {"/data": {}}}, "Volumes"),
        ({}, {"ExposedPorts": {"80/tcp": {}}}, "ExposedPorts"),
        ({}, {"Healthcheck": {"Test": ["CMD", "true"]}}, "Healthcheck"),
        ({}, {"NetworkingConfig": {"EndpointsConfig": {"mynet": {}}}}, "NetworkingConfig"),
        ({}, {"NetworkingConfig": {"EndpointsConfig": {"default": {"Aliases": ["db"]}}}}, "NetworkingConfig"),
        ({}, {"NetworkingConfig": {"Other": 1}}, "NetworkingConfig"),
        ({"NetworkMode": []}, {"NetworkingConfig": {"EndpointsConfig": {"x": {}}}}, "NetworkingConfig"),
        ({"NetworkMode": {"a": 1}}, {"NetworkingConfig": {"EndpointsConfig": {"x": {}}}}, "NetworkingConfig"),
        ({}, {"NetworkingConfig": {"EndpointsConfig": {"default": DEEP}}}, "NetworkingConfig"),
        ({}, {"hostname": "x"}, "hostname"),
        ({}, {"Wherry": {"Rootfs": "/srv", "Hardlimit": 1}}, "Wherry.Hardlimit"),
        ({}, {"evil\x1b[31m": 1}, r"'evil\x1b[31m'"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(host: dict[str, Any], fields: dict[str, Any], named: str) -> None:
    with pytest.raises(NotSupported) as caught:
        translate(host, **fields)
    assert str(caught.value) == f"not supported: {named}"


@pytest.mark.parametrize(
    ("host", "fields"),
    [
        ({"RestartPolicy": {"Name": ""}}, {}),
        ({"LogConfig": {"Type": "json-file", "Config": None}}, {}),
        ({"IpcMode": "private", "CgroupnsMode": "private", "ShmSize": 67108864}, {}),
        ({"NetworkMode": "none"}, {"NetworkingConfig": {"EndpointsConfig": {"none": {}}}}),
        ({}, {"NetworkingConfig": {"EndpointsConfig": None}}),
        ({}, {"Healthcheck": {"Test": ["NONE"]}}),
    ],
)
def test_what_happens_anyway_may_be_asked_for(host: dict[str, Any], fields: dict[str, Any]) -> None:
    assert translate(host, **fields).command == ("true",)


def test_the_check_holds_for_requests_that_do_not_come_from_json() -> None:
    with pytest.raises(InvalidRequest, match="range of CPUs"):
        check(CreateRequest(rootfs="/", command=("x",), cpus=float("nan")))
    with pytest.raises(InvalidRequest, match="not valid UTF-8"):
        check(CreateRequest(rootfs="/", command=("x\ud800",)))


@pytest.mark.parametrize("body", [None, [], "x", 1, {"HostConfig": []}, {"Wherry": 1}, {"HostConfig": {"Binds": {}}}])
def test_a_body_of_another_shape_is_refused(body: Any) -> None:
    with pytest.raises(WherryError) as caught:
        create_request(body)
    assert caught.value.status in (400, 404)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELD = st.sampled_from([*DOCKER_CLI, "Wherry"])
HOST_FIELD = st.sampled_from([*DOCKER_CLI["HostConfig"], "Tmpfs", "Init", "Sysctls"])
OUR_FIELD = st.sampled_from(["Rootfs", "RwRootfs", "SoftLimit", "HardLimit", "SoftAction", "Nice"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no bug
@given(
    st.dictionaries(FIELD, JSON, max_size=4),
    st.dictionaries(HOST_FIELD, JSON, max_size=4),
    st.dictionaries(OUR_FIELD, JSON, max_size=2),
)
def test_whatever_comes_is_a_valid_request_or_one_line_for_a_person(
    fields: dict[str, Any], host: dict[str, Any], ours: dict[str, Any]
) -> None:
    base = {"Cmd": ["true"], "HostConfig": host, "Wherry": {"Rootfs": "/srv", **ours}}
    problem: WherryError | None = None
    try:
        request = create_request({**base, **fields})
    except WherryError as error:
        problem = error
    if problem is None:
        assert check(request) is request
    else:
        assert problem.status in (400, 404)
        assert str(problem)
        assert "\n" not in str(problem)


def test_standard_input() -> None:
    base = {"Cmd": ["cat"], "Wherry": {"Rootfs": "/srv"}}
    for fields, expected in (
        ({}, (False, False)),
        ({"OpenStdin": True, "AttachStdin": True}, (True, False)),
        ({"OpenStdin": True, "StdinOnce": True}, (True, True)),
        ({"StdinOnce": True}, (False, False)),
    ):
        request = create_request({**base, **fields})
        assert (request.stdin, request.stdin_once) == expected
