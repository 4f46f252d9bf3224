"""Docker's container configuration field by field: what its values become, and which are refused."""

from __future__ import annotations

import os
from typing import Any

import pytest
from tests.unit.api.translating import translate

from wherry.errors import InvalidRequest, NotSupported, WherryError
from wherry.logs import LogOptions
from wherry.supervisor.containers.process_limits import Ulimit
from wherry.supervisor.containers.request import CreateRequest

LOG_CONFIG = {"mode": "non-blocking", "max-buffer-size": "4m", "max-size": "10k", "max-file": "3"}


def test_log_options_are_dockers() -> None:
    request = translate({"LogConfig": {"Type": "json-file", "Config": LOG_CONFIG}})
    expected = LogOptions(mode="non-blocking", buffer_bytes=4 << 20, max_bytes=10 << 10, max_files=3)
    assert request.log == expected
    assert translate({"LogConfig": {"Type": "local", "Config": {"max-size": "-1"}}}).log == LogOptions(max_bytes=0)
    assert translate({"LogConfig": {"Type": "", "Config": {}}}).log == LogOptions()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "lossy"}, "log mode 'lossy'"),
        ({"max-size": "big"}, "log option max-size: 'big'"),
        ({"max-size": "1m1"}, "log option max-size: '1m1'"),
        ({"max-size": "100"}, "log size: 100 bytes"),
        ({"max-buffer-size": "1k"}, "log buffer size: 1024 bytes"),
        ({"max-buffer-size": "17m"}, "log buffer size"),
        ({"max-file": "0"}, "number of log files: 0"),
        ({"max-file": "-1"}, "log option max-file: '-1'"),
        ({"max-file": "1001"}, "number of log files: 1001"),
        ({"compress": "true"}, "log option 'compress' is not supported"),
    ],
)
def test_wrong_log_options_are_named(changed: dict[str, str], message: str) -> None:
    with pytest.raises(WherryError, match=message):
        translate({"LogConfig": {"Type": "local", "Config": {**LOG_CONFIG, **changed}}})


def test_a_log_driver_that_sends_logs_elsewhere_is_refused() -> None:
    with pytest.raises(NotSupported, match=r"HostConfig\.LogConfig\.Type 'syslog' is not supported"):
        translate({"LogConfig": {"Type": "syslog"}})


WORLD: dict[str, Any] = {
    "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": -1}],
    "OomScoreAdj": -5,
    "ShmSize": 1 << 20,
    "GroupAdd": ["audio", "7"],
    "ExtraHosts": ["a:10.0.0.1", "b=[::1]"],
    "Dns": ["10.0.0.2"],
    "DnsSearch": ["example.org"],
    "DnsOptions": ["ndots:1"],
    "CapAdd": ["net_raw", "CAP_KILL"],
    "CapDrop": ["ALL"],
    "Sysctls": {"net.ipv4.ip_forward": "1"},
}


def test_what_a_container_is_to_find() -> None:
    request = translate(WORLD)
    assert request == CreateRequest(
        rootfs="/srv/rootfs",
        command=("true",),
        pids_limit=2048,
        ulimits=(Ulimit(name="nofile", soft=5, hard=-1),),
        oom_score_adj=-5,
        shm_bytes=1 << 20,
        group_add=("audio", "7"),
        extra_hosts=("a:10.0.0.1", "b=[::1]"),
        dns=("10.0.0.2",),
        dns_search=("example.org",),
        dns_options=("ndots:1",),
        cap_add=("CAP_NET_RAW", "CAP_KILL"),
        cap_drop=("ALL",),
        sysctls={"net.ipv4.ip_forward": "1"},
    )


BAD_WORLD: list[tuple[dict[str, Any], str]] = [
    ({"Ulimits": [{"Name": "locks", "Soft": 1, "Hard": 1}]}, "invalid ulimit: 'locks' is not one of as?|core"),
    ({"Ulimits": [{"Name": "core", "Soft": 2, "Hard": 1}]}, "core: soft 2 is above hard 1"),
    ({"Ulimits": [{"Name": "core", "Soft": -1, "Hard": 1}]}, "core: soft -1 is above hard 1"),
    ({"Ulimits": [{"Name": "core", "Soft": -2, "Hard": 1}]}, "core: -2 is not between -1"),
    ({"Ulimits": [{"Name": "core", "Soft": 1, "Hard": 1 << 63}]}, "core: 9223372036854775808 is not between"),
    ({"Ulimits": [{"Name": "core", "Soft": 1, "Hard": 1}] * 2}, "core is given twice"),
    ({"Ulimits": [{"Name": "core"}]}, "Ulimits"),
    ({"OomScoreAdj": -1001}, "invalid OOM score adjustment: -1001"),
    ({"ShmSize": -1}, "invalid size of /dev/shm: -1"),
    ({"ShmSize": 1 << 63}, "invalid size of /dev/shm"),
    ({"GroupAdd": ["a:b"]}, "invalid group: 'a:b'"),
    ({"GroupAdd": [""]}, "invalid group: ''"),
    ({"GroupAdd": ["7"] * 257}, "too many groups: there are 257"),
    ({"ExtraHosts": ["a"]}, "'a' is not NAME:IP"),
    ({"ExtraHosts": [":::1"]}, "is not NAME:IP"),
    ({"ExtraHosts": ["a b:10.0.0.1"]}, "is not NAME:IP"),
    ({"ExtraHosts": ["a:10.0.0.1\n10.0.0.2 b"]}, "is not NAME:IP"),
    ({"ExtraHosts": ["a:10.0.0.256"]}, "is not NAME:IP"),
    ({"ExtraHosts": ["a:::1"] * 1025}, "too many extra hosts: there are 1025"),
    ({"Dns": ["example.org"]}, "invalid DNS server: 'example.org'"),
    ({"Dns": ["::1"] * 65}, "too many DNS servers"),
    ({"Dns": ["fe80::1%a\nb"]}, "invalid DNS server"),
    ({"DnsSearch": ["a b"]}, "invalid DNS search domain: 'a b'"),
    ({"DnsOptions": ["ndots 5"]}, "invalid DNS option: 'ndots 5'"),
    ({"CapAdd": ["WISH"]}, "invalid capability: 'WISH'"),
    ({"CapDrop": ["\n"]}, "invalid capability"),
    ({"CapAdd": ["SYS_ADMIN"]}, "capability CAP_SYS_ADMIN cannot be added"),
    ({"CapAdd": ["all"]}, "capability ALL cannot be added"),
    ({"CapAdd": ["NET_ADMIN"], "NetworkMode": "host"}, "cannot be added on the host's network"),
    ({"Sysctls": {"vm.swappiness": "1"}}, "sysctl 'vm.swappiness' is not supported"),
    ({"Sysctls": {"net.x": "1"}, "NetworkMode": "host"}, "shares that namespace"),
    ({"Sysctls": {"net.x": "\n"}}, "is not one line"),
]


@pytest.mark.parametrize(("host", "message"), BAD_WORLD)
def test_what_it_cannot_find_is_refused_by_name(host: dict[str, Any], message: str) -> None:
    with pytest.raises(WherryError, match=message) as caught:
        translate(host)
    assert caught.value.status == 400
    assert str(caught.value).isprintable()


def test_dockers_memory_is_the_groups_and_not_the_hard_limit() -> None:
    request = translate({"Memory": 8 << 20, "MemorySwap": -1}, {"HardLimit": 4 << 20})
    assert (request.memory_bytes, request.memory_swap_bytes, request.hard_bytes) == (8 << 20, -1, 4 << 20)


BAD_CPU_LISTS = ("a", "1-", "-1", "3-1", "0,,1", "0-3 ", "8192", "99999", "1-2-3", ",", "0;1")
BAD_POLICIES = ("fifo", "fifo:0", "fifo:100", "rr", "deadline", "IDLE", "batch:1", "fifo:-1", "rr:1 ")


def test_scheduling() -> None:
    request = translate({"CpuShares": 512, "CpusetCpus": "0-1,3", "BlkioWeight": 1000}, {"SchedPolicy": "fifo:99"})
    assert (request.cpu_shares, request.cpuset_cpus, request.io_weight) == (512, "0-1,3", 1000)
    assert request.sched_policy == "fifo:99"


BAD_MEMORY: dict[str, dict[str, Any]] = {
    "the minimum is 6MB": {"Memory": 1},
    "invalid memory limit: -5": {"Memory": -5},
    "invalid memory reservation": {"MemoryReservation": 1},
    "can not be less than memory reservation": {"Memory": 8 << 20, "MemoryReservation": 9 << 20},
    "should always set the memory limit": {"MemorySwap": -1},
    "should be larger than memory limit": {"Memory": 8 << 20, "MemorySwap": 7 << 20},
}


@pytest.mark.parametrize(("message", "host"), BAD_MEMORY.items(), ids=BAD_MEMORY.keys())
def test_memory_that_contradicts_itself_is_refused(message: str, host: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=message):
        translate(host)


@pytest.mark.parametrize(
    ("host", "ours", "fields", "message"),
    [
        ({}, {}, {"Cmd": []}, "no command specified"),
        ({}, {}, {"Cmd": None}, "no command specified"),
        ({}, {}, {"Cmd": [""]}, "first word is empty"),
        ({}, {}, {"Cmd": ["a\0b"]}, r"invalid command: 'a\\x00b' contains a NUL byte"),
        ({}, {}, {"Cmd": [1]}, r"Expected `str`, got `int` - at `\$.Cmd\[0\]`"),
        ({}, {}, {"Env": ["=x"]}, "invalid environment variable: '=x'"),
        ({}, {}, {"Env": [""]}, "invalid environment variable: ''"),
        ({}, {}, {"Env": ["PATH"]}, "PATH cannot be unset"),
        ({}, {}, {"Env": ["A=\0"]}, "invalid environment"),
        ({}, {}, {"Labels": {"a": "\0"}}, "invalid label"),
        ({}, {}, {"WorkingDir": "relative"}, "needs to be an absolute path"),
        ({}, {}, {"User": "a\nb"}, "invalid user"),
        ({}, {}, {"Hostname": "a b"}, "invalid hostname"),
        ({}, {}, {"Hostname": "a" * 65}, "more than 64"),
        ({}, {}, {"Domainname": "a\n"}, "invalid domainname"),
        ({}, {}, {"StopSignal": "SIGNOPE"}, "invalid signal: 'SIGNOPE'"),
        ({}, {"SoftLimit": -1}, {}, "invalid soft memory limit: -1"),
        ({}, {"HardLimit": 0}, {}, "invalid hard memory limit: 0"),
        ({}, {"HardLimit": 1 << 63}, {}, "invalid hard memory limit"),
        ({}, {"SoftLimit": 2, "HardLimit": 1}, {}, r"soft limit \(2 bytes\) is above the hard limit \(1 bytes\)"),
        ({}, {"SoftAction": "panic"}, {}, "invalid soft action: 'panic' is not one of none, reclaim, throttle"),
        ({}, {"SoftAction": "reclaim", "HardLimit": 1}, {}, "invalid soft action: reclaim needs a soft limit"),
        ({}, {"Nice": 20}, {}, "invalid nice value: 20"),
        ({"CpuShares": 1}, {}, {}, "invalid CPU shares: 1 is not between 2 and 262144"),
        ({"CpuShares": 262145}, {}, {}, "invalid CPU shares: 262145"),
        ({"CpuShares": 512}, {"Nice": 1}, {}, "nice and CPU shares both"),
        ({"CpuShares": 512}, {"SchedPolicy": "idle"}, {}, "contradict"),
        ({}, {"SchedPolicy": "idle", "Nice": 1}, {}, "contradict"),
        *(({"CpusetCpus": text}, {}, {}, "invalid list of CPUs") for text in BAD_CPU_LISTS),
        *(({}, {"SchedPolicy": text}, {}, "invalid scheduling policy") for text in BAD_POLICIES),
        ({"BlkioWeight": 9}, {}, {}, "range of blkio weight is from 10 to 1000, not 9"),
        ({"BlkioWeight": 1001}, {}, {}, "range of blkio weight"),
        ({}, {"Nice": "5"}, {}, r"at `\$.Wherry.Nice`"),
        ({}, {"Rootfs": "relative"}, {}, "is not an absolute path"),
        ({"PidsLimit": -2}, {}, {}, "invalid pids limit"),
        ({"PidsLimit": 1 << 40}, {}, {}, "invalid pids limit"),
        ({"NanoCpus": -1}, {}, {}, "range of CPUs"),
        ({"NanoCpus": 1}, {}, {}, "range of CPUs"),
        ({"NanoCpus": (os.cpu_count() or 1) * 10**9 + 1}, {}, {}, "range of CPUs"),
        ({"NetworkMode": "bridge"}, {}, {}, "only none and host exist"),
        ({"NetworkMode": "container:x"}, {}, {}, "only none and host exist"),
        ({"Binds": ["/a"]}, {}, {}, "expected HOST:CONTAINER"),
        ({"Binds": ["/a:/b:ro:x"]}, {}, {}, "expected HOST:CONTAINER"),
        ({"Binds": ["a/b:/c"]}, {}, {}, "the host path is not absolute"),
        ({"Binds": [":/c"]}, {}, {}, "the host path is not absolute"),
        ({"Binds": ["data:/c"]}, {}, {}, "named volumes are not supported"),
        ({"Binds": ["/a:/b:z"]}, {}, {}, "option 'z' is not supported"),
        ({"Binds": ["/a:/b:ro,rw"]}, {}, {}, "contradict"),
        ({"Binds": ["/a:b"]}, {}, {}, "must be absolute"),
        ({"Binds": ["/a:/x/.."]}, {}, {}, "cannot be '/'"),
        ({"Binds": ["/a:/b", "/c:/b/"]}, {}, {}, "duplicate mount point: '/b'"),
        ({"Binds": ["/a:/b"], "Tmpfs": {"//b": ""}}, {}, {}, "duplicate mount point: '/b'"),
        ({"Tmpfs": {"/b": "", "/b/": ""}}, {}, {}, "duplicate mount point: '/b'"),
        ({"Tmpfs": {"/b": "size=lots"}}, {}, {}, "bad value for size"),
        ({"Tmpfs": {"/b": "mode=999"}}, {}, {}, "bad value for mode"),
        ({"Tmpfs": {"/b": "bind"}}, {}, {}, "invalid tmpfs option 'bind'"),
        ({"Tmpfs": {"/b": "size"}}, {}, {}, "invalid tmpfs option 'size'"),
        ({"Tmpfs": {"/b": "ro=1"}}, {}, {}, "invalid tmpfs option 'ro=1'"),
        ({"Tmpfs": {"/b": "size=1m,,ro"}}, {}, {}, "invalid tmpfs option ''"),
    ],
)
def test_bad_values_are_refused(
    host: dict[str, Any], ours: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        translate(host, ours, **fields)
    assert str(caught.value).isprintable()
