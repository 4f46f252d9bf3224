"""Arguments of the Python API: what is accepted, and what the error says of what is not."""

from __future__ import annotations

import datetime
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.fake_supervisor import FakeSupervisor, empty, exited, reply, started, streaming

from wherry import Client, InvalidRequest
from wherry.client import arguments
from wherry.client.config import config_of

WRONG_OPTIONS: list[tuple[str, object, str]] = [
    ("soft_mib", "64", "a whole number of MiB from 1 to 8796093022207, not '64' (of type str)"),
    ("hard_mib", "64", "a whole number of MiB from 1 to 8796093022207, not '64' (of type str)"),
    ("hard_mib", 64.0, "a whole number of MiB from 1 to 8796093022207, not 64.0 (of type float)"),
    ("hard_mib", True, "a whole number of MiB from 1 to 8796093022207, not True"),
    ("memory", "64q", """a size: bytes, or text such as "64m" or "1.5g", not '64q' (of type str)"""),
    ("memory", 1.5, """a size: bytes, or text such as "64m" or "1.5g", not 1.5 (of type float)"""),
    ("memory", "", "a size: "),
    ("memory", "9" * 18 + "p", "a size: "),
    ("memory_reservation", -1, "a size: "),
    ("memory_swap", -2, "a size: "),
    ("memory_swap", -1.0, "a size: "),
    ("log_max_bytes", b"1m", "a size: "),
    ("log_buffer_bytes", [], "a size: "),
    ("nice", "5", "a whole number from -20 to 19, not '5' (of type str)"),
    ("nice", 20, "a whole number from -20 to 19, not 20 (of type int)"),
    ("pids_limit", 1 << 70, "a whole number, not 1180591620717411303424 (of type int)"),
    ("cpus", "0.5", "a number of CPUs above 0, such as 0.5, not '0.5' (of type str)"),
    ("cpus", True, "a number of CPUs above 0, such as 0.5, not True"),
    ("cpu_shares", 1.5, "a whole number from 0 up, not 1.5 (of type float)"),
    ("io_weight", "x", "a whole number from 0 up"),
    ("log_max_files", "4", "a whole number from 0 up"),
    ("stop_seconds", 1.5, "a whole number of seconds, or -1, not 1.5 (of type float)"),
    ("stop_signal", b"TERM", 'a signal: a name such as "TERM", or a number from 1 to 64'),
    ("rm", 1, "True or False, not 1 (of type int)"),
    ("init", "no", "True or False"),
    ("read_only", [], "True or False"),
    ("rw_rootfs", 0, "True or False"),
    ("user", 1000, "a string, not 1000 (of type int)"),
    ("user", "", "a string that is not empty (None leaves it out), not ''"),
    ("working_dir", "", "a string that is not empty"),
    ("working_dir", b"/w", "a path as string or os.PathLike, not b'/w' (of type bytes)"),
    ("hostname", "", "a string that is not empty"),
    ("domainname", 5, "a string"),
    ("network", False, "a string, not False"),
    ("cpuset_cpus", 0, "a string, not 0 (of type int)"),
    ("sched_policy", "", "a string that is not empty"),
    ("log_mode", 1, "a string"),
    ("soft_action", True, "a string, not True"),
    ("tmpfs", ["/run"], "a mapping of strings to strings, not ['/run'] (of type list)"),
    ("labels", "a=b", "a mapping of strings to strings"),
    ("ulimits", ["nofile=1"], 'a mapping such as {"nofile": (1024, 4096)}, not'),
    ("oom_score_adj", 1001, "a whole number from -1000 to 1000, not 1001"),
    ("shm_size", "much", "a size: "),
    ("group_add", 7, "a list of names or numbers, not 7"),
    ("extra_hosts", 7, "a list of strings, not 7"),
    ("dns", {"a": "b"}, "a list of strings"),
    ("sysctls", ["a=b"], 'a mapping such as {"net.ipv4.ip_forward": 1}, not'),
    ("env", 5, "a list of strings, not 5 (of type int)"),
    ("env", {"A"}, "a list of strings"),
    ("volumes", {"/a": "/b"}, "a list of strings"),
]
WRONG_ITEMS: list[tuple[str, object, str, str]] = [
    (
        "env",
        {"A": None},
        "env['A']",
        "a string, a whole number or a path (leave the variable out to have none), not None",
    ),
    (
        "env",
        {"A": b"x"},
        "env['A']",
        "a string, a whole number or a path (leave the variable out to have none), not b'x'",
    ),
    ("env", {"A": True}, "env['A']", "a string, a whole number or a path"),
    ("env", {"A": 1.5}, "env['A']", "a string, a whole number or a path"),
    ("env", {5: "x"}, "env name", "a string that is not empty and has no '=', not 5 (of type int)"),
    ("env", {"A=B": "x"}, "env name", "a string that is not empty and has no '='"),
    ("env", ["A=1", None], "env[1]", "a string (or os.PathLike), not None"),
    ("env", ["=1"], "env[0]", "\"NAME=VALUE\", not '=1'"),
    ("env", {"A": "x\0y"}, "env['A']", "text without a NUL character"),
    ("volumes", [("/a", "/b")], "volumes[0]", "a string (or os.PathLike), not ('/a', '/b') (of type tuple)"),
    ("tmpfs", {"/run": None}, "tmpfs['/run']", "a string (or os.PathLike), not None"),
    ("ulimits", {"core": "x"}, "ulimits['core']", "a whole number, or two: soft, hard, not 'x'"),
    ("ulimits", {"core": (1, None)}, "ulimits['core']", "a whole number, or two: soft, hard, not None"),
    ("ulimits", {5: 1}, "ulimits key", "a string, not 5"),
    ("group_add", [True], "group_add[0]", "a string (or os.PathLike), not True"),
    ("sysctls", {"a": None}, "sysctls['a']", "a string, a whole number or a path"),
    ("labels", {1: "x"}, "labels key", "a string that is not empty, not 1 (of type int)"),
    ("labels", {"a": 1}, "labels['a']", "a string (or os.PathLike), not 1 (of type int)"),
]


def refused(call: Callable[[], object]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        call()
    return raised.value


@pytest.mark.parametrize(("name", "value", "expected"), WRONG_OPTIONS)
def test_a_wrong_option_is_named_with_what_is_expected(
    fake: FakeSupervisor, client: Client, name: str, value: object, expected: str
) -> None:
    """Case 15."""
    options: Any = {name: value}
    for call in (client.run, client.start):
        error = refused(lambda call=call: call("a", "/r", ["x"], **options))  # type: ignore[misc]
        assert str(error).startswith(f"{name}: expected {expected}")
        assert (error.argument, error.value) == (name, value)
    assert fake.requests == []


@pytest.mark.parametrize(("name", "value", "argument", "expected"), WRONG_ITEMS)
def test_a_wrong_item_of_an_option_is_named(
    fake: FakeSupervisor, client: Client, name: str, value: object, argument: str, expected: str
) -> None:
    """Case 15: `env={"A": None}` set the text "None", bytes set "b'x'"."""
    options: Any = {name: value}
    error = refused(lambda: client.run("a", "/r", ["x"], **options))
    assert str(error).startswith(f"{argument}: expected {expected}")
    assert error.argument == argument
    assert fake.requests == []


WRONG_CALLS: dict[str, tuple[Callable[[Client], object], str]] = {
    "command": (lambda c: c.run("a", "/r", ["echo", 1]), "command[1]: expected a string (or os.PathLike), not 1"),  # type: ignore[list-item]
    "bytes": (lambda c: c.run("a", "/r", [b"echo"]), "command[0]: expected a string (or os.PathLike), not b'echo'"),  # type: ignore[list-item]
    "one string": (lambda c: c.run("a", "/r", "echo hi"), "command is one string; a list of strings is expected"),
    "no command": (lambda c: c.start("a", "/r", []), "command: expected a program and its arguments, not []"),
    "None": (lambda c: c.start("a", "/r", None), "command: expected a list of strings, not None"),
    "rootfs": (lambda c: c.run("a", b"/r", ["x"]), "rootfs: expected a path as string or os.PathLike, not b'/r'"),  # type: ignore[arg-type]
    "name": (lambda c: c.run(5, "/r", ["x"]), "name: expected a string, not 5"),  # type: ignore[arg-type]
    "empty name": (lambda c: c.run("", "/r", ["x"]), "the container's name is empty"),
    "on_output": (lambda c: c.run("a", "/r", ["x"], on_output=1), "on_output: expected a function, not 1"),  # type: ignore[arg-type]
    "on_soft_limit": (lambda c: c.start("a", "/r", ["x"], on_soft_limit=1), "on_soft_limit: expected a function"),  # type: ignore[arg-type]
    "update": (lambda c: c.update("a", hard_mib="64"), "hard_mib: expected a whole number of MiB"),  # type: ignore[arg-type]
    "update cpus": (lambda c: c.update("a", cpus=-1), "cpus: expected a number of CPUs"),
    "no update": (lambda c: c.update("a", nice=None), "nothing to update"),
    "since": (lambda c: c.logs("a", since_ns=1.5e18), "since_ns: expected a whole number of nanoseconds"),  # type: ignore[arg-type]
    "until": (lambda c: c.logs("a", until_ns="now"), "until_ns: expected a whole number of nanoseconds"),  # type: ignore[arg-type]
    "datetime": (
        lambda c: c.events(since_ns=datetime.datetime(2026, 1, 31)),  # type: ignore[arg-type]  # noqa: DTZ001
        "since_ns: expected a whole number of nanoseconds since the epoch, as time.time_ns() gives, not datetime",
    ),
    "events until": (lambda c: c.events(until_ns=1.0), "until_ns: expected"),  # type: ignore[arg-type]
    "tail": (lambda c: c.logs("a", tail="all"), "tail: expected a whole number of lines from 0 up, or None, not 'all'"),  # type: ignore[arg-type]
    "tail -1": (lambda c: c.logs("a", tail=-1), "tail: expected a whole number of lines from 0 up, or None, not -1"),
    "follow": (lambda c: c.logs("a", follow="no"), "follow: expected True or False, not 'no'"),  # type: ignore[arg-type]
    "filters": (lambda c: c.events(filters="die"), "filters: expected a mapping"),  # type: ignore[arg-type]
    "filter value": (lambda c: c.events(filters={"container": ""}), "filters['container']: expected a string that is"),
    "filter list": (lambda c: c.events(filters={"event": [5]}), "filters['event'][0]: expected a string"),  # type: ignore[list-item]
    "handlers": (lambda c: c.subscribe("a", {"die": 5}), "handlers['die']: expected a function, not 5"),  # type: ignore[dict-item]
    "kill": (lambda c: c.kill("a", ""), "signal: expected a signal: a name such as \"TERM\", or a number from 1 to 64"),
    "kill 0": (lambda c: c.kill("a", 0), "signal: expected a signal"),
    "kill float": (lambda c: c.kill("a", 9.0), "signal: expected a signal"),  # type: ignore[arg-type]
    "kill bool": (lambda c: c.kill("a", True), "signal: expected a signal"),
    "stop": (lambda c: c.stop("a", "5"), "seconds: expected a number of seconds to wait"),  # type: ignore[arg-type]
    "stop bool": (lambda c: c.stop("a", True), "seconds: expected a number of seconds to wait"),
    "stop whom": (lambda c: c.stop(None), "name: expected a container's name or id, not None"),  # type: ignore[arg-type]
    "rm": (lambda c: c.rm("a", "yes"), "force: expected True or False, not 'yes'"),  # type: ignore[arg-type]
    "wait": (lambda c: c.wait("a", "stopped"), "condition: expected one of 'not-running', 'next-exit', 'removed', not"),  # type: ignore[arg-type]
    "wait list": (lambda c: c.wait("a", []), "condition: expected one of 'not-running'"),  # type: ignore[arg-type]
    "stats": (lambda c: c.stats_of("web"), "names is one string; a list of strings is expected"),
    "stats of": (lambda c: c.stats_of(["a", 5]), "names[1]: expected a string"),  # type: ignore[list-item]
    "stats of nothing": (lambda c: c.stats(None), "name: expected a container's name or id, not None"),  # type: ignore[arg-type]
    "ps": (lambda c: c.ps("yes"), "running: expected True or False, not 'yes'"),  # type: ignore[arg-type]
    "timeout": (lambda _: Client(timeout="5"), "timeout: expected a number of seconds above 0, or None, not '5'"),  # type: ignore[arg-type]
    "socket": (lambda _: Client(5), "socket: expected a path as string or os.PathLike, not 5"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
def test_a_wrong_argument_is_named(
    fake: FakeSupervisor, client: Client, call: Callable[[Client], object], message: str
) -> None:
    """Case 15."""
    assert str(refused(lambda: call(client))).startswith(message)
    assert fake.requests == []


UNKNOWN: dict[str, tuple[Callable[[Client], object], str]] = {
    "nicee": (lambda c: c.run("a", "/r", ["x"], nicee=3), "run ...; did you mean 'nice'?"),  # type: ignore[call-arg]
    "memry": (lambda c: c.start("a", "/r", ["x"], memry=3), "start ...; did you mean 'memory'?"),  # type: ignore[call-arg]
    "cpuset_cpu": (lambda c: c.update("a", cpuset_cpu=""), "update ...; did you mean 'cpuset_cpus'?"),  # type: ignore[call-arg]
    "zzz": (lambda c: c.run("a", "/r", ["x"], zzz=3), "run ..."),  # type: ignore[call-arg]
}  # fmt: skip


@pytest.mark.parametrize("keyword", UNKNOWN)
def test_an_unknown_keyword_is_a_type_error_with_the_nearest_name(client: Client, keyword: str) -> None:
    """Case 15."""
    call, message = UNKNOWN[keyword]
    with pytest.raises(TypeError) as raised:
        call(client)
    assert str(raised.value) == message.replace(" ...", f"() got an unexpected keyword argument {keyword!r}")


def test_what_users_expect_is_accepted(fake: FakeSupervisor, client: Client, tmp_path: Path) -> None:
    """Case 15: sizes as docker takes them, paths as objects, whole numbers as values of variables."""
    fake.on("POST", "/wherry/run", streaming([started(), exited()]))
    client.run(
        "a",
        tmp_path,
        (Path("/bin/ls"), "-l"),
        memory="64m",
        memory_swap="-1",
        memory_reservation="1.5k",
        log_max_bytes="1MiB",
        env={"PORT": 8080, "HOME": Path("/root"), "EMPTY": ""},
        volumes=[Path("/a:/b")],
        working_dir=Path("/w"),
        stop_signal=15,
        hostname=None,
        rm=None,
    )
    body = fake.requests[0].json
    assert (body["Cmd"], body["WorkingDir"], body["StopSignal"]) == (["/bin/ls", "-l"], "/w", "15")
    assert body["Env"] == ["PORT=8080", "HOME=/root", "EMPTY="]
    host = body["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["MemoryReservation"]) == (64 << 20, -1, 1536)
    assert (host["LogConfig"]["Config"], host["Binds"]) == ({"max-size": "1048576"}, ["/a:/b"])
    assert body["Wherry"]["Rootfs"] == str(tmp_path)
    assert "Hostname" not in body
    assert "AutoRemove" not in host


def test_numbers_and_names_of_signals_are_sent_as_they_are(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/containers/a/kill", empty())
    fake.on("POST", "/containers/a/update", reply({"Warnings": []}))
    client.kill("a", 9)
    client.kill("a", "RTMIN+3")
    client.update("a", cpus=0)
    assert [request.query for request in fake.requests] == [{"signal": "9"}, {"signal": "RTMIN+3"}, {}]
    assert fake.requests[2].json == {"NanoCpus": -1}


def test_times_before_the_epoch_mean_its_beginning(fake: FakeSupervisor, client: Client) -> None:
    fake.on("GET", "/containers/a/logs", streaming([]))
    list(client.logs("a", since_ns=-1_500_000_000, until_ns=0))
    assert (fake.requests[0].query["since"], fake.requests[0].query["until"]) == ("0.000000001", "0.000000001")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("64m", 64 << 20),
        ("64MB", 64 << 20),
        ("64MiB", 64 << 20),
        ("1.5g", 3 << 29),
        ("2t", 2 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert arguments.size("memory", text) == size


@pytest.mark.parametrize(
    "text", ["", "m", "1 m", "-1", "1e3", "ib", "1ib", "0x10", "\u0661", "1.2.3", "nan", "inf", "1" * 19]
)
def test_what_is_no_size(text: str) -> None:
    assert refused(lambda: arguments.size("memory", text)).argument == "memory"


def test_an_error_keeps_its_fields_when_it_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(refused(lambda: config_of("run", "/r", ["x"], {"nice": "5"}))))
    assert (type(error), error.argument, error.value) == (InvalidRequest, "nice", "5")
    assert str(error).startswith("nice: expected")
