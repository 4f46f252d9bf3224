"""engine logs, against a scripted supervisor."""

from __future__ import annotations

import time

import pytest
from tests.unit.cli.conftest import Engine
from tests.unit.fake_supervisor import FakeSupervisor, frame, streaming

from wherry.cli import main


def test_logs_go_to_the_streams_they_came_from_untouched(
    fake: FakeSupervisor, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    binary = bytes(range(256))
    fake.on("GET", "/containers/a/logs", streaming([frame(1, binary), frame(2, b"err\xff"), frame(1, b"no newline")]))
    assert main.main(["logs", "a"]) == 0
    assert capfdbinary.readouterr() == (binary + b"no newline", b"err\xff")


LOG_WORDS = [
    ("", {"follow": "0", "tail": "all", "timestamps": "0", "stdout": "1", "stderr": "1"}),
    ("-f -t --tail 5", {"follow": "1", "tail": "5", "timestamps": "1"}),
    ("-n all --stream out", {"tail": "all", "stdout": "1", "stderr": "0"}),
    ("--tail 0 --stream err", {"tail": "0", "stdout": "0", "stderr": "1"}),
    (
        "--since 2026-01-31T10:00:00.000000001Z --until 1769853601",
        {"since": "1769853600.000000001", "until": "1769853601.000000000"},
    ),
]


@pytest.mark.parametrize(("words", "query"), LOG_WORDS)
def test_logs_pass_their_options_on(fake: FakeSupervisor, engine: Engine, words: str, query: dict[str, str]) -> None:
    fake.on("GET", "/containers/a/logs", streaming([]))
    assert engine("logs", *words.split(), "a") == (0, "", "")
    found = fake.requests[0].query
    assert {name: found.get(name) for name in query} == query
    assert ("since" in found) == ("--since" in words)


def test_a_duration_counts_from_now(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("GET", "/containers/a/logs", streaming([]))
    before = time.time()
    assert engine("logs", "--since", "10m", "a")[0] == 0
    assert before - 601 < float(fake.requests[0].query["since"]) <= time.time() - 600


def test_a_log_that_breaks_off_is_no_success(fake: FakeSupervisor, engine: Engine) -> None:
    fake.on("GET", "/containers/a/logs", streaming([frame(1, b"abc")[:9]]))
    code, out, err = engine("logs", "a")
    assert (code, out) == (1, "a")
    assert "went away" in err
