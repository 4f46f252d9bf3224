"""Events of real containers, as `engine events` and the Python API see them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tests.root.harness import Supervisor

pytestmark = pytest.mark.root


def test_the_life_of_containers_as_events(supervisor: Supervisor, rootfs: Path) -> None:
    begin = time.time_ns()
    client = supervisor.client
    client.run("one", str(rootfs), ["/bin/sh", "-c", "exit 3"], rm=True)
    client.start("two", str(rootfs), ["/bin/sleep", "1000"])
    client.stop("two")
    client.rm("two")
    with pytest.raises(Exception, match="nosuch"):
        client.run("three", str(rootfs), ["/nosuch"])
    end = time.time_ns()
    events = list(client.events(since_ns=begin, until_ns=end))
    told = {name: [event.kind for event in events if event.name == name] for name in ("one", "two", "three")}
    assert told == {
        "one": ["create", "start", "die", "destroy"],
        "two": ["create", "start", "kill", "die", "stop", "destroy"],
        "three": ["create", "destroy"],
    }
    ends = {event.name: event.attributes for event in events if event.kind == "die"}
    assert (ends["one"]["reason"], ends["one"]["exitCode"]) == ("exited", "3")
    assert ends["two"]["reason"] == "stopped"
    assert [event.wall_ns for event in events] == sorted(event.wall_ns for event in events)
    shown = supervisor.engine(
        "events", "--since", f"{begin // 10**9}", "--until", f"{end // 10**9 + 1}", "--format", "json"
    )
    assert [json.loads(line)["kind"] for line in shown.stdout.splitlines()] == [event.kind for event in events]
