"""Client.events, callbacks and `engine events` against a scripted supervisor."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.patience import PATIENCE
from tests.unit.fake_supervisor import FakeSupervisor, Request, exited, failure, reply, started, streaming

from wherry import Client, Event, errors
from wherry.cli import main

ID = "ab" * 32


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSupervisor]:
    with FakeSupervisor(tmp_path / "s") as supervisor:
        monkeypatch.setenv("ENGINE_SOCKET", str(supervisor.path))
        yield supervisor


def line(action: str, **attributes: str) -> bytes:
    actor = {"ID": ID, "Attributes": {"name": "alpha", "image": "/r", **attributes}}
    times = {"time": 1, "timeNano": 1_000_000_007, "Wherry": {"MonotonicNano": 42}}
    return json.dumps({"Type": "container", "Action": action, "Actor": actor, **times}).encode() + b"\n"


def test_events_come_as_objects_however_the_bytes_are_cut(fake: FakeSupervisor, client: Client) -> None:
    data = line("start") + line("die", reason="hard_limit", exitCode="137")
    fake.on("GET", "/events", streaming([data[:10], data[10:150], data[150:]]))
    found = list(client.events(since_ns=5, filters={"container": "alpha", "event": ["start", "die"]}))
    assert [event.kind for event in found] == ["start", "die"]
    assert found[1].as_dict() == {
        "kind": "die",
        "id": ID,
        "name": "alpha",
        "wall_ns": 1_000_000_007,
        "monotonic_ns": 42,
        "attributes": {"name": "alpha", "image": "/r", "reason": "hard_limit", "exitCode": "137"},
    }
    asked = fake.asked("GET", "/events").query
    assert json.loads(asked["filters"]) == {"container": ["alpha"], "event": ["start", "die"]}
    assert asked["since"] == "0.000000005"


@pytest.mark.parametrize("data", [b"{}\n", b"[]\n", b"x\n", b"x" * (2 << 20)], ids=["empty", "list", "text", "endless"])
def test_what_is_no_event_is_an_error_of_ours(fake: FakeSupervisor, client: Client, data: bytes) -> None:
    fake.on("GET", "/events", streaming([data]))
    with pytest.raises(errors.InternalError, match=r"makes no sense|is not JSON"):
        list(client.events())


def test_a_stream_that_is_closed_by_another_thread_ends(fake: FakeSupervisor, client: Client) -> None:
    ended = threading.Event()

    def pieces(_request: Request) -> Iterable[bytes]:
        yield line("start")
        ended.wait(PATIENCE)

    fake.on("GET", "/events", streaming(pieces))
    stream = client.events()
    assert next(stream).kind == "start"
    rest: list[Event] = []
    reader = threading.Thread(target=lambda: rest.extend(stream))
    reader.start()
    stream.close()
    reader.join(PATIENCE)
    ended.set()
    assert (reader.is_alive(), rest) == (False, [])


def test_start_calls_back_until_the_container_has_ended(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/wherry/run", reply({"Id": ID, "Name": "alpha", "Pid": 7}))
    fake.on("GET", "/events", streaming([line("soft-limit", rss="9"), line("die"), line("soft-limit", rss="10")]))
    seen: list[str] = []
    done = threading.Event()

    def take(event: Event) -> None:
        seen.append(event.attributes["rss"])
        done.set()

    client.start("alpha", "/r", ["x"], on_soft_limit=take)
    assert done.wait(PATIENCE)
    for thread in threading.enumerate():
        if thread.name == "wherry-events":
            thread.join(PATIENCE)
    assert seen == ["9"]
    assert json.loads(fake.asked("GET", "/events").query["filters"]) == {"container": [ID]}


def test_run_has_called_back_before_it_returns(fake: FakeSupervisor, client: Client) -> None:
    fake.on("POST", "/wherry/run", streaming([started(), exited(137, "hard_limit", 9)]))
    fake.on("GET", "/events", streaming([line("soft-limit"), line("die")]))
    seen: list[str] = []
    result = client.run("alpha", "/r", ["x"], on_soft_limit=lambda event: seen.append(event.kind))
    assert (result.reason, seen) == ("hard_limit", ["soft-limit"])


def test_a_subscription_can_be_closed_while_nothing_happens(fake: FakeSupervisor, client: Client) -> None:
    ended = threading.Event()

    def pieces(_request: Request) -> Iterable[bytes]:
        yield line("start")
        ended.wait(PATIENCE)

    fake.on("GET", "/events", streaming(pieces))
    with client.subscribe("alpha", {}) as subscription:
        assert not subscription.wait(0)
    assert subscription.wait(0)
    ended.set()


COMMANDS: dict[str, tuple[list[str], str]] = {
    "plain": ([], f"1970-01-01T00:00:01.000000007Z container die {ID} (exitCode=137, image=/r, name=al\\x1bpha)\n"),
    "template": (["--format", "{{.Action}} {{.Name}} {{.TimeNano}}"], "die al\\x1bpha 1000000007\n"),
}


@pytest.mark.parametrize(("options", "expected"), COMMANDS.values(), ids=COMMANDS.keys())
def test_the_command_prints_a_line_an_event_safe_for_a_terminal(
    fake: FakeSupervisor, capfd: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    fake.on("GET", "/events", streaming([line("die", exitCode="137", name="al\x1bpha")]))
    assert main.main(["events", *options]) == 0
    assert capfd.readouterr().out == expected


def test_the_command_prints_json_and_passes_its_filters_on(
    fake: FakeSupervisor, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.on("GET", "/events", streaming([line("soft-limit")]))
    words = ["--since", "1970-01-01T00:00:01Z", "--filter", "event=soft-limit", "-f", "event=die", "--format", "json"]
    assert main.main(["events", *words]) == 0
    shown: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert (shown["kind"], shown["monotonic_ns"]) == ("soft-limit", 42)
    asked = fake.asked("GET", "/events").query
    assert (json.loads(asked["filters"]), asked["since"]) == ({"event": ["soft-limit", "die"]}, "1.000000000")


@pytest.mark.parametrize("words", [["--filter", "x"], ["--since", "x"], ["--format", "{{.Colour}}"], ["alpha"]])
def test_a_wrong_command_line_is_refused(capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main.main(["events", *words]) == 2
    assert capfd.readouterr().err


def test_the_supervisors_refusal_is_the_commands(fake: FakeSupervisor, capfd: pytest.CaptureFixture[str]) -> None:
    fake.on("GET", "/events", failure(400, "invalid_request", "invalid filter 'x'"))
    assert main.main(["events", "--filter", "x=y"]) == 1
    assert "invalid filter 'x'" in capfd.readouterr().err
