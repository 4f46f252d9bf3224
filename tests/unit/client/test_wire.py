"""The client's requests and replies as data: configuration, JSON, raw-stream frames, value objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.fake_supervisor import entry, frame

from wherry.client import jsontext
from wherry.client.config import MAX_MIB, absolute, changes_of, config_of
from wherry.client.http1 import ProtocolError, TruncatedError
from wherry.client.replies import Container, RunResult, StartedContainer, status_from
from wherry.client.stream import MAX_STATUS, frames
from wherry.errors import InternalError, InvalidRequest


def test_only_what_was_asked_for_is_sent() -> None:
    nothing: dict[str, object] = {"rm": False, "env": {}, "volumes": (), "tmpfs": {}, "user": None, "memory": None}
    for options in ({}, nothing):
        assert config_of("run", "/r", ["/bin/true"], options) == {"Cmd": ["/bin/true"], "Wherry": {"Rootfs": "/r"}}
    config = config_of("run", "/r", ["x"], {"nice": 0, "memory": 0})
    assert (config["Wherry"]["Nice"], config["HostConfig"]) == (0, {"Memory": 0})


def test_every_option_has_its_place() -> None:
    options = {
        "soft_mib": 3,
        "hard_mib": 6,
        "soft_action": "reclaim",
        "nice": -5,
        "env": {"A": "1", "B": ""},
        "entrypoint": Path("/entry"),
        "working_dir": "/w",
        "user": "1000:100",
        "hostname": "h",
        "domainname": "d",
        "rm": True,
        "read_only": True,
        "rw_rootfs": True,
        "init": True,
        "volumes": ["/a:/b:ro", "/c:/d"],
        "tmpfs": {"/run": "size=1m", "/tmp": ""},
        "network": "host",
        "pids_limit": 10,
        "cpus": 0.5,
        "cpu_shares": 512,
        "cpuset_cpus": "0-1",
        "sched_policy": "batch",
        "io_weight": 500,
        "ulimits": {"core": 1, "nofile": (2, -1)},
        "oom_score_adj": -7,
        "shm_size": "1m",
        "group_add": ["audio", 7],
        "extra_hosts": {"db": "10.0.0.1"},
        "dns": ["10.0.0.2"],
        "dns_search": ["example.org"],
        "dns_options": ["ndots:1"],
        "cap_add": ["NET_RAW"],
        "cap_drop": ("ALL",),
        "sysctls": {"net.ipv4.ip_forward": 1},
        "labels": {"l": "v"},
        "stop_signal": "INT",
        "stop_seconds": 3,
        "log_mode": "non-blocking",
        "log_buffer_bytes": 1 << 20,
        "log_max_bytes": 0,
        "log_max_files": 2,
        "merge_streams": True,
    }
    config = config_of("run", "/r.tar.gz", ("/bin/sh", "-c", "exit"), options)
    assert config == {
        "Cmd": ["/bin/sh", "-c", "exit"],
        "Env": ["A=1", "B="],
        "Entrypoint": ["/entry"],
        "WorkingDir": "/w",
        "User": "1000:100",
        "Hostname": "h",
        "Domainname": "d",
        "Labels": {"l": "v"},
        "StopSignal": "INT",
        "StopTimeout": 3,
        "HostConfig": {
            "AutoRemove": True,
            "ReadonlyRootfs": True,
            "Init": True,
            "Binds": ["/a:/b:ro", "/c:/d"],
            "Tmpfs": {"/run": "size=1m", "/tmp": ""},
            "NetworkMode": "host",
            "PidsLimit": 10,
            "NanoCpus": 500_000_000,
            "CpuShares": 512,
            "CpusetCpus": "0-1",
            "BlkioWeight": 500,
            "Ulimits": [{"Name": "core", "Soft": 1, "Hard": 1}, {"Name": "nofile", "Soft": 2, "Hard": -1}],
            "OomScoreAdj": -7,
            "ShmSize": 1 << 20,
            "GroupAdd": ["audio", "7"],
            "ExtraHosts": ["db:10.0.0.1"],
            "Dns": ["10.0.0.2"],
            "DnsSearch": ["example.org"],
            "DnsOptions": ["ndots:1"],
            "CapAdd": ["NET_RAW"],
            "CapDrop": ["ALL"],
            "Sysctls": {"net.ipv4.ip_forward": "1"},
            "LogConfig": {
                "Type": "local",
                "Config": {"mode": "non-blocking", "max-buffer-size": "1048576", "max-size": "0", "max-file": "2"},
            },
        },
        "Wherry": {
            "Rootfs": "/r.tar.gz",
            "RwRootfs": True,
            "SoftLimit": 3 << 20,
            "HardLimit": 6 << 20,
            "SoftAction": "reclaim",
            "Nice": -5,
            "SchedPolicy": "batch",
            "MergeStreams": True,
        },
    }


def test_what_an_update_sends() -> None:
    assert changes_of("update", {"nice": 0}) == {"Wherry": {"Nice": 0}}
    assert changes_of("update", {"soft_mib": 1, "hard_mib": 2}) == {
        "Wherry": {"SoftLimit": 1 << 20, "HardLimit": 2 << 20}
    }
    with pytest.raises(InvalidRequest, match="soft limit 3 MiB is above"):
        changes_of("update", {"soft_mib": 3, "hard_mib": 2})
    assert changes_of("update", {"cpus": 0, "pids_limit": -1}) == {"NanoCpus": -1, "PidsLimit": -1}
    assert changes_of("update", {"cpus": 1.5, "cpu_shares": 2, "cpuset_cpus": "0", "io_weight": 10}) == {
        "NanoCpus": 1_500_000_000,
        "CpuShares": 2,
        "CpusetCpus": "0",
        "BlkioWeight": 10,
    }
    with pytest.raises(InvalidRequest, match="nothing to update"):
        changes_of("update", {})
    with pytest.raises(InvalidRequest, match=r"cpus: expected a number of CPUs above 0, such as 0\.5, not nan"):
        changes_of("update", {"cpus": float("nan")})


def test_env_may_be_a_list() -> None:
    assert config_of("run", "/r", ["x"], {"env": ["A=1", "B"]})["Env"] == ["A=1", "B"]


def test_relative_paths_count_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of("run", "r/../s", ["x"], {"volumes": ["data:/d", "./e:/e:ro"]})
    # ".." stays: "r" may be a symbolic link, and then r/.. is not here
    assert config["Wherry"] == {"Rootfs": f"{tmp_path}/r/../s"}
    assert config["HostConfig"] == {"Binds": [f"{tmp_path}/data:/d", f"{tmp_path}/./e:/e:ro"]}


def test_a_working_directory_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InvalidRequest, match="ROOTFS 'r' is relative, and the working directory no longer exists"):
        absolute("r", "ROOTFS")
    assert absolute("/r", "ROOTFS") == "/r"


@pytest.mark.parametrize(
    "of", [lambda options: config_of("run", "/r", ["x"], options), lambda o: changes_of("update", o)]
)
def test_limits_may_be_sizes(of: Callable[[dict[str, object]], dict[str, Any]]) -> None:
    assert of({"soft_limit": "1.5m", "hard_limit": 2 << 20})["Wherry"].items() >= {
        ("SoftLimit", 3 << 19),
        ("HardLimit", 2 << 20),
    }
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"soft_mib": 1, "soft_limit": "1m"}, "soft_mib and soft_limit say the same"),
        ({"hard_limit": 5, "hard_mib": 1}, "hard_limit and hard_mib say the same"),
        ({"soft_limit": "2m", "hard_mib": 1}, "soft limit 2 MiB is above hard limit 1 MiB"),
        ({"soft_limit": 4097, "hard_limit": "4k"}, "soft limit 4097 bytes is above hard limit 4096 bytes"),
        ({"soft_limit": 1.5}, "soft_limit: expected a size"),
    ]
    for options, message in wrong:
        with pytest.raises(InvalidRequest, match=message):
            of(options)


REFUSED = {
    "soft 0": ({"soft_mib": 0}, "soft_mib: expected a whole number of MiB from 1 to"),
    "hard negative": ({"hard_mib": -1}, "hard_mib: expected .*, not -1"),
    "hard too large": ({"hard_mib": MAX_MIB + 1}, f"from 1 to {MAX_MIB}, not {MAX_MIB + 1}"),
    "inverted": ({"soft_mib": 7, "hard_mib": 6}, "soft limit 7 MiB is above hard limit 6 MiB"),
    "cpus 0": ({"cpus": 0}, "cpus: expected .*, not 0"),
    "cpus NaN": ({"cpus": float("nan")}, "cpus: expected .*, not nan"),
    "cpus infinite": ({"cpus": float("inf")}, "cpus: expected .*, not inf"),
    "volume without a target": ({"volumes": ["/a"]}, "volume '/a' is not HOST:CONTAINER"),
    "volume on a relative path": ({"volumes": ["/a:b"]}, "CONTAINER absolute"),
    "volume without a source": ({"volumes": [":/b"]}, "volume ':/b'"),
    "volume with an unknown option": ({"volumes": ["/a:/b:z"]}, "volume '/a:/b:z'"),
    "volume with too many parts": ({"volumes": ["/a:/b:ro:x"]}, "volume '/a:/b:ro:x'"),
    "volumes as one string": ({"volumes": "/a:/b"}, "volumes is one string"),
    "env as one string": ({"env": "A=1"}, "env is one string"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_sent_as_meant_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        config_of("run", "/r", ["x"], options)


def test_a_command_is_not_one_string() -> None:
    with pytest.raises(InvalidRequest, match="command is one string"):
        config_of("run", "/r", "echo hello", {})


def test_an_entry_point_needs_no_command() -> None:
    for entrypoint in ("/e", Path("/e"), ["/e"], ("/e",)):
        body = config_of("run", "/r", [], {"entrypoint": entrypoint})
        assert (body["Cmd"], body["Entrypoint"]) == ([], ["/e"])
    assert config_of("run", "/r", ["a"], {"entrypoint": ["/e", "-x"]})["Entrypoint"] == ["/e", "-x"]
    for wrong in ([], 5, b"/e", ["/e", 1]):
        with pytest.raises(InvalidRequest, match="entrypoint"):
            config_of("run", "/r", ["x"], {"entrypoint": wrong})
    with pytest.raises(InvalidRequest, match="command: expected a program"):
        config_of("run", "/r", [], {"entrypoint": None})


def test_an_empty_rootfs_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="root file system: the path is empty"):
        config_of("run", "", ["x"], {})


def test_an_unknown_option_is_an_error_of_the_caller() -> None:
    with pytest.raises(TypeError, match=r"^run\(\) got an unexpected keyword argument 'colour'$"):
        config_of("run", "/r", ["x"], {"colour": 5})


# JSON

SENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(SENT)
def test_what_is_encoded_is_the_same_for_json(value: object) -> None:
    assert json.loads(jsontext.encode(value)) == value


@given(SENT | st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([None, 1]), st.booleans())
def test_what_json_wrote_is_decoded(value: object, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no UTF-8
    assert jsontext.decode(b" \n" + data + b"\r\n") == json.loads(text)


@given(st.binary(max_size=30) | st.text(alphabet='[]{}",:0123456789truefalsn \\u', max_size=20).map(str.encode))
@example(b"")
@example(b"NaN")
@example(b"1 2")
@example(b'"\n"')
@example(b"-Infinity")
@example(b"[" * 100_000)
def test_decoding_agrees_with_json_on_everything_else(data: bytes) -> None:
    try:
        expected = ("value", json.loads(data.decode(), parse_constant=_refuse))
    except (ValueError, RecursionError):
        expected = ("error", None)
    try:
        found = ("value", jsontext.decode(data))
    except (ValueError, RecursionError):
        found = ("error", None)
    assert found == expected


def _refuse(name: str) -> None:
    raise ValueError(name)


@pytest.mark.parametrize("value", [1.5, b"x", object(), {"a": {1, 2}}, (1,)])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        jsontext.encode(value)


# Frames

FRAMES = st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.binary(max_size=100)), max_size=8)


def pairs(*pieces: bytes) -> Iterator[tuple[int, bytes]]:
    return ((kind, bytes(data)) for kind, data in frames(memoryview(piece) for piece in pieces))


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    places = sorted(place % (len(data) + 1) for place in at)
    for begin, end in zip([0, *places], [*places, len(data)], strict=True):
        yield data[begin:end]


@given(FRAMES, st.lists(st.integers(0, 2000), max_size=10))
def test_frames_survive_however_they_are_cut(sent: list[tuple[int, bytes]], at: list[int]) -> None:
    found = list(pairs(*cut(b"".join(frame(kind, data) for kind, data in sent), at)))
    assert _joined(found) == _joined(sent)
    # a status is JSON and comes whole
    assert [data for kind, data in found if kind == 3] == [data for kind, data in sent if kind == 3 and data]


def _joined(found: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The bytes of both streams in their order, neighbours of one stream put together."""
    joined: list[tuple[int, bytes]] = []
    for kind, data in found:
        if joined and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + data)
        elif data:
            joined.append((kind, data))
    return joined


def test_output_is_passed_on_before_its_frame_is_complete() -> None:
    assert next(pairs(frame(1, b"abcdef")[:10])) == (1, b"ab")


@pytest.mark.parametrize("length", range(1, 12))
def test_an_end_in_the_middle_of_a_frame_is_told(length: int) -> None:
    with pytest.raises(TruncatedError):
        list(pairs(frame(1, b"abcd")[:length]))


@pytest.mark.parametrize(
    "header",
    [
        b"\0\0\0\0\0\0\0\1",
        b"\4\0\0\0\0\0\0\1",
        b"\1\0\1\0\0\0\0\1",
        b"HTTP/1.1",
        b"\3\0\0\0" + (MAX_STATUS + 1).to_bytes(4, "big"),
    ],
)
def test_what_is_no_frame_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(pairs(header + b"x"))


# Replies


def test_a_container_has_the_fields_of_the_api() -> None:
    found = Container(entry("a", SoftLimit=1, HardLimit=2, Nice=3, Pid=0, Finished="2026-01-31T10:00:02.000000000Z"))
    assert found.as_dict() == {
        "name": "a",
        "id": ("61" * 64)[:64],
        "state": "running",
        "being_killed": False,
        "reason": "",
        "exit_code": None,
        "signal": None,
        "error": "",
        "pid": None,
        "created": "2026-01-31T10:00:00.000000001Z",
        "started": "2026-01-31T10:00:01.123456789Z",
        "finished": "2026-01-31T10:00:02.000000000Z",
        "soft_bytes": 1,
        "hard_bytes": 2,
        "nice": 3,
        "rootfs": "/srv/rootfs",
        "command": ("/bin/sleep", "60"),
        "log_path": "/var/lib/wherry/logs/a.log",
        "log_error": None,
        "peak_memory_bytes": None,
        "peak_pids": None,
    }


def test_values_compare_and_show_what_they_hold() -> None:
    assert StartedContainer("a", "b", 1) == StartedContainer("a", "b", 1) != StartedContainer("a", "b", 2)
    assert repr(StartedContainer("a", "b", 1)) == "StartedContainer(name='a', id='b', pid=1)"
    assert StartedContainer("a", "b", 1) != Container(entry("a"))


STATUS = {"Event": "exited", "ExitCode": 7, "Reason": "exited", "Signal": None, "Error": ""}
ENDINGS = {
    "code": (STATUS, RunResult(7, "exited", None, "")),
    "signal": (STATUS | {"ExitCode": None, "Signal": 9, "Reason": "signaled"}, RunResult(137, "signaled", 9, "")),
    "signal with a code": (
        STATUS | {"ExitCode": 143, "Signal": 15, "Reason": "stopped"},
        RunResult(143, "stopped", 15, ""),
    ),
    "lost": (STATUS | {"ExitCode": None, "Reason": "lost", "Error": "x"}, RunResult(255, "lost", None, "x")),
    "an event of a newer supervisor": ({"Event": "soft_limit", "Bytes": 1}, None),
}


@pytest.mark.parametrize(("status", "result"), ENDINGS.values(), ids=ENDINGS.keys())
def test_the_last_frame_says_how_it_ended(status: dict[str, object], result: RunResult | None) -> None:
    assert status_from(status) == result


@pytest.mark.parametrize(
    "status", [[], {}, "x", None, {"Event": "exited"}, STATUS | {"ExitCode": "x"}, {"Event": "started"}]
)
def test_a_senseless_status_is_an_error_of_the_supervisor(status: object) -> None:
    with pytest.raises(InternalError, match="makes no sense"):
        status_from(status)
