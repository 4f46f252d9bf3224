"""The filters of docker ps, in both of their shapes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from wherry.api.docker import durations
from wherry.api.docker.filters import Filters
from wherry.errors import InvalidRequest, NotFound
from wherry.supervisor.containers.record import Reason, Record, State
from wherry.supervisor.containers.request import CreateRequest, Volume


def record(number: int, name: str, state: State = State.RUNNING, **fields: Any) -> Record:
    request = CreateRequest(
        rootfs=f"/srv/{name}",
        command=("x",),
        labels={"app": name, "tier": "web"} if number % 2 else {"app": name},
        network="host" if number == 1 else "none",
        volumes=(Volume(source="/data", destination="/mnt"),) if number == 2 else (),
    )
    return Record(id=f"{number:x}" * 64, name=name, request=request, created_ns=number, state=state, **fields)


RECORDS = [
    record(1, "alpha"),
    record(2, "alphabet", State.CREATED),
    record(3, "beta", State.EXITED, reason=Reason.EXITED, exit_code=3),
    record(10, "my_db.1", State.EXITED, reason=Reason.SIGNALED, signal=9),
]


def find(ref: str) -> Record:
    for found in RECORDS:
        if ref in (found.name, found.id):
            return found
    raise NotFound(f"No such container: {ref}")


def chosen(filters: dict[str, Any]) -> list[str]:
    made = Filters(json.dumps(filters), find)
    return [found.name for found in RECORDS if made.match(found)]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["alpha", "alphabet", "beta", "my_db.1"]),
        ({"name": []}, ["alpha", "alphabet", "beta", "my_db.1"]),
        ({"name": ["alpha"]}, ["alpha", "alphabet"]),
        ({"name": ["pha"]}, ["alpha", "alphabet"]),
        ({"name": ["^alpha$"]}, ["alpha"]),
        ({"name": ["^/alpha$"]}, ["alpha"]),
        ({"name": ["/alpha"]}, ["alpha", "alphabet"]),
        ({"name": ["a$"]}, ["alpha", "beta"]),
        ({"name": ["^my_db"]}, ["my_db.1"]),
        ({"name": ["db.1"]}, ["my_db.1"]),
        ({"name": ["^(alpha|beta)$"]}, ["alpha", "beta"]),
        ({"name": ["^/b.*a$"]}, ["beta"]),
        ({"name": ["beta", "db"]}, ["beta", "my_db.1"]),
        ({"name": ["nobody"]}, []),
        ({"id": ["aa"]}, ["my_db.1"]),
        ({"id": ["1" * 64]}, ["alpha"]),
        ({"id": ["3", "1"]}, ["alpha", "beta"]),
        ({"status": ["running"]}, ["alpha"]),
        ({"status": ["created", "exited"]}, ["alphabet", "beta", "my_db.1"]),
        ({"status": ["paused"]}, []),
        ({"exited": ["3"]}, ["beta"]),
        ({"exited": ["137"]}, ["my_db.1"]),
        ({"exited": ["0"]}, []),
        ({"label": ["app"]}, ["alpha", "alphabet", "beta", "my_db.1"]),
        ({"label": ["app=beta"]}, ["beta"]),
        ({"label": ["app", "tier=web"]}, ["alpha", "beta"]),
        ({"label": ["app="]}, []),
        ({"ancestor": ["/srv/beta"]}, ["beta"]),
        ({"network": ["host"]}, ["alpha"]),
        ({"volume": ["/mnt"]}, ["alphabet"]),
        ({"volume": ["/data"]}, ["alphabet"]),
        ({"before": ["beta"]}, ["alpha", "alphabet"]),
        ({"since": ["alphabet"]}, ["beta", "my_db.1"]),
        ({"name": ["a"], "status": ["exited"]}, ["beta"]),
    ],
)
def test_what_matches(filters: dict[str, list[str]], names: list[str]) -> None:
    assert chosen(filters) == names
    assert chosen({key: dict.fromkeys(values, True) for key, values in filters.items()}) == names


def test_a_value_that_is_switched_off_is_none() -> None:
    assert chosen({"name": {"alpha": False, "beta": True}}) == ["beta"]


@pytest.mark.parametrize(
    ("key", "values", "every"), [("status", ["exited"], True), ("exited", ["1"], True), ("name", ["a"], False)]
)
def test_some_filters_ask_for_containers_that_do_not_run(key: str, values: list[str], every: bool) -> None:
    assert Filters(json.dumps({key: values}), find).every_state is every


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "1",
        '{"name":"x"}',
        '{"name":{"x":1}}',
        '{"name":[1]}',
        '{"colour":["red"]}',
        '{"health":["none"]}',
        '{"status":["gone"]}',
        '{"exited":["x"]}',
        '{"name":["("]}',
        '{"name":["[a"]}',
        '{"name":["' + "a" * 300 + '.x"]}',
        "[" * 100000,
        '{"na\\u0000me":[]}',
    ],
)
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Filters(text, find)
    assert "\0" not in str(caught.value)


def test_before_an_unknown_container_is_not_found() -> None:
    with pytest.raises(NotFound):
        Filters('{"before":["nobody"]}', find)


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*$", "a*a*a*a*a*a*$", "(?:a+){9}b", r"(a)\1+", "(a) *b", ".*.*.*x"]
)
def test_no_pattern_can_stop_the_server(pattern: str) -> None:
    # Else it would take longer than the time limit.
    with contextlib.suppress(InvalidRequest):
        Filters(json.dumps({"name": [pattern]}), find).match(record(1, "a" * 128))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (300, "5 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (49 * 3600, "2 days"),
        (20 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_in_dockers_words(seconds: float, words: str) -> None:
    assert durations.human_duration(seconds) == words
