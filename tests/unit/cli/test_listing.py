"""engine ps: table, JSON, templates, and what reaches the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.patience import PATIENCE
from tests.unit.fake_supervisor import FakeSupervisor, entry, reply

from wherry import errors
from wherry.cli import listing, main, template, terminal, times
from wherry.cli.parser import BadValue
from wherry.client import Container

Ps = Callable[..., str]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSupervisor]:
    monkeypatch.setenv("TZ", "CET-1")
    monkeypatch.delenv("COLUMNS", raising=False)
    time.tzset()
    monkeypatch.setattr(listing, "now", lambda: times.parse("2026-01-31T10:05:03Z", 0))
    with FakeSupervisor(tmp_path / "s") as supervisor:
        yield supervisor
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def ps(fake: FakeSupervisor, capfd: pytest.CaptureFixture[str]) -> Ps:
    """engine ps on some containers -> what it printed."""

    def run(*words: str, containers: list[dict[str, object]]) -> str:
        fake.on("GET", "/containers/json", reply(containers))
        assert main.main(["ps", "--socket", str(fake.path), *words]) == 0
        out, err = capfd.readouterr()
        assert err == ""
        return out

    return run


def ended(name: str, **ours: object) -> dict[str, object]:
    return entry(name, State="exited", Pid=0, Finished="2026-01-31T10:00:02.000000000Z", **ours)


def test_the_table(ps: Ps) -> None:
    containers = [
        entry("alpha", SoftLimit=3 << 20, HardLimit=6_500_000, Nice=-5, Command=["sh", "-c", "echo $A; exit 7"]),
        ended("b", Reason="exited", ExitCode=7),
        entry("c", State="created", Pid=0, Started=""),
    ]
    assert ps(containers=containers) == TABLE


TABLE = """\
NAME    ID             STATE        PID    STARTED         SOFT MIB   HARD MIB   NICE   COMMAND
alpha   616c70686161   running      4321   5 minutes ago   3          6.2        -5     sh -c 'echo $A; exit 7'
b       626262626262   exited (7)   -      5 minutes ago   -          -          0      /bin/sleep 60
c       636363636363   created      -      -               -          -          0      /bin/sleep 60
"""


def test_an_empty_list_is_a_header(ps: Ps) -> None:
    assert ps(containers=[]).split() == "NAME ID STATE PID STARTED SOFT MIB HARD MIB NICE COMMAND".split()


STATES: dict[str, dict[str, object]] = {
    "exited (0)": {"Reason": "exited", "ExitCode": 0},
    "exited (stopped, 137)": {"Reason": "stopped", "ExitCode": 137},
    "exited (stopped, 143)": {"Reason": "stopped", "ExitCode": None, "Signal": 15},
    "exited (signal SIGKILL)": {"Reason": "signaled", "ExitCode": None, "Signal": 9},
    "exited (signal SIGSEGV)": {"Reason": "signaled", "ExitCode": 139, "Signal": 11},
    "exited (signal 40)": {"Reason": "signaled", "Signal": 40},
    "exited (start failed)": {"Reason": "start_failed"},
    "exited (lost)": {"Reason": "lost"},
    "exited (hard limit)": {"Reason": "hard_limit", "ExitCode": 137, "Signal": 9},
    "exited (out of memory)": {"Reason": "oom", "ExitCode": 137, "Signal": 9},
    "exited": {"Reason": ""},
}


@pytest.mark.parametrize("shown", STATES)
def test_the_state_says_why_and_how_it_ended(ps: Ps, shown: str) -> None:
    assert ps("--format", "{{.State}}", containers=[ended("a", **STATES[shown])]) == f"{shown}\n"


def test_only_the_running_are_asked_for(fake: FakeSupervisor, ps: Ps) -> None:
    for words in ([], ["-a"], ["--running"]):
        ps(*words, containers=[])
    assert [request.query["all"] for request in fake.requests] == ["1", "1", "0"]


def test_only_some_are_asked_for(fake: FakeSupervisor, ps: Ps) -> None:
    for words in (
        ["--filter", "label=a=b", "-f", "status=exited", "--filter", "label=c"],
        ["-n", "3"],
        ["--last", "2", "--running"],
        ["-l"],
    ):
        ps(*words, containers=[])
    asked = [(r.query["all"], r.query.get("limit"), json.loads(r.query.get("filters", "null"))) for r in fake.requests]
    assert asked == [
        ("1", None, {"label": ["a=b", "c"], "status": ["exited"]}),
        ("1", "3", None),
        ("0", "2", {"status": ["running", "paused", "restarting"]}),
        ("1", "1", None),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-n 0", "-n/--last: '0' is not a number of containers from 1 up"),
        ("-n x", "-n/--last: 'x' is not a number of containers from 1 up"),
        ("--filter name", "-f/--filter: 'name' is not KEY=VALUE"),
        ("--filter =x", "-f/--filter: '=x' is not KEY=VALUE"),
    ],
)
def test_wrong_choices_are_refused(
    fake: FakeSupervisor, capfd: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert main.main(["ps", "--socket", str(fake.path), *words.split()]) == 2
    assert capfd.readouterr().err.splitlines()[0].endswith(message)
    assert fake.requests == []


def test_the_table_as_it_is_has_exact_times(ps: Ps) -> None:
    assert "2026-01-31 11:00:01" in ps("--no-trunc", containers=[entry("a")])
    shown = ps("--format", "{{.Started}}|{{.StartedAgo}}|{{.RunningFor}}", containers=[entry("a")])
    assert shown == "2026-01-31 11:00:01|5 minutes ago|5 minutes ago\n"


def test_quiet_prints_ids(ps: Ps) -> None:
    containers = [entry("a"), entry("b")]
    assert ps("-q", containers=containers) == "616161616161\n626262626262\n"
    assert ps("-q", "--no-trunc", containers=containers) == "61" * 32 + "\n" + "62" * 32 + "\n"


def test_json_is_a_line_each_with_the_documented_keys(ps: Ps) -> None:
    found = json.loads(ps("--format", "json", containers=[ended("a", ExitCode=3, Reason="exited", SoftLimit=5)]))
    assert list(found) == list(Container.__slots__)
    assert (found["exit_code"], found["soft_bytes"], found["pid"]) == (3, 5, None)
    assert found["started"] == "2026-01-31T10:00:01.123456789Z"
    assert found["command"] == ["/bin/sleep", "60"]
    assert ps("--format", "json", containers=[]) == ""
    assert len(ps("--format", "json", containers=[entry("a"), entry("b")]).splitlines()) == 2


def test_the_help_lists_every_key_and_field(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["ps", "--help"]) == 0
    words = capfd.readouterr().out.split()
    assert set(Container.__slots__) <= set(words)
    assert {f".{name}" for name in listing.FIELDS} <= set(words)


# Templates


def test_a_template_gives_a_line_for_each(ps: Ps) -> None:
    containers = [entry("a"), entry("b", Nice=5)]
    assert ps("--format", r"{{.Name}}\t{{ .Nice }}!", containers=containers) == "a\t0!\nb\t5!\n"
    assert ps("--format", "constant", containers=containers) == "constant\nconstant\n"


def test_a_table_template_has_a_header_and_columns(ps: Ps) -> None:
    shown = ps("--format", r"table {{.Name}}\t{{.Soft}}\t{{.Pid}}", containers=[entry("a-long-name"), entry("b")])
    assert shown.splitlines() == [
        "NAME          SOFT MIB   PID",
        "a-long-name   -          4321",
        "b             -          4321",
    ]


def test_a_template_knows_json(ps: Ps) -> None:
    container = entry("a", Command=["echo", "\x1b"])
    assert json.loads(ps("--format", "{{json .}}", containers=[container]))["command"] == ["echo", "\x1b"]
    assert ps("--format", "{{json .Command}}", containers=[container]) == '"echo \\u001b"\n'


@pytest.mark.parametrize("field", listing.FIELDS)
def test_every_field_has_a_value(ps: Ps, field: str) -> None:
    for container in (entry("a"), ended("a", Reason="exited", ExitCode=0), entry("a", State="created", Started="")):
        assert ps("--format", f"<{{{{.{field}}}}}>", containers=[container]).startswith("<")


BAD_TEMPLATES = {
    "{{.Nope}}": "no field .Nope; there are .Name, .ID,",
    "{{.}}": "use {{json .}}",
    "{{Name}}": "no function 'Name'",
    "{{range .}}{{end}}": "use {{json .}}",
    "{{if .Name}}": "'{{if .Name}}' has no end",
    "{{range .Command}}{{$.Nope}}{{end}}": "no field .Nope",
    "{{.Name": "'{{' has no counterpart",
    ".Name}}": "'}}' has no counterpart",
    "{{}}": "'{{}}' is no action",
    "table {{.Nope}}": "no field .Nope",
    "{{json .Nope}}": "no field .Nope",
}


@pytest.mark.parametrize("text", BAD_TEMPLATES)
def test_a_wrong_template_is_refused_before_anybody_is_asked(
    fake: FakeSupervisor, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    assert main.main(["ps", "--socket", str(fake.path), "--format", text]) == 2
    message = capfd.readouterr().err.splitlines()[0]
    assert message.startswith("engine ps: --format: ")
    assert BAD_TEMPLATES[text] in message
    assert fake.requests == []


@given(st.text(alphabet="{}. \\tnjsoName", max_size=20))
def test_any_template_is_read_or_refused(text: str) -> None:
    try:
        template.render(text, [Container(entry("a"))], listing.FIELDS, {})
    except (BadValue, errors.InvalidRequest):
        return


# What reaches the terminal

HOSTILE = "\x1b[2J\x07\r\n\x9b31m\u202eevil\u2066\x00\x7f\t\udcff"


@pytest.mark.parametrize(
    "words", [[], ["--no-trunc"], ["--format", "{{.Command}} {{.Rootfs}} {{.Reason}} {{.State}}"], ["-q"]]
)
def test_control_characters_are_escaped(ps: Ps, words: list[str]) -> None:
    strings: dict[str, object] = {
        "Command": ["/bin/sh", HOSTILE],
        "Rootfs": HOSTILE,
        "Reason": HOSTILE,
        "Started": HOSTILE,
    }
    container = ended("a", **strings) | {"Id": HOSTILE}
    shown = ps(*words, containers=[container])
    assert all(line.isprintable() for line in shown.removesuffix("\n").split("\n"))
    assert shown.count("\n") == (1 if words and words != ["--no-trunc"] else 2)


@pytest.mark.parametrize("words", [["--format", "json"], ["--format", "{{json .}}"]])
def test_json_is_printable_ascii(ps: Ps, words: list[str]) -> None:
    shown = ps(*words, containers=[entry("a", Command=["/bin/sh", HOSTILE])])
    assert shown.isascii()
    assert shown.replace("\n", "").isprintable()
    found = json.loads(shown)
    assert found["command"] == ["/bin/sh", HOSTILE]


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    shown = terminal.escaped(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


def test_what_is_not_written_to_a_terminal_is_never_cut(ps: Ps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 17; COLUMNS, which some shells export, says nothing of a pipe."""
    monkeypatch.setenv("COLUMNS", "40")
    container = entry("a", Command=["/bin/echo", "x" * 500])
    for words in ([], ["--no-trunc"]):
        assert ps(*words, containers=[container]).splitlines()[1].endswith("/bin/echo " + "x" * 500)


def on_terminal(fake: FakeSupervisor, columns: int, *words: str) -> list[str]:
    """The lines of engine ps on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "cols", str(columns)], stdin=theirs, check=True)
    command = [sys.executable, "-m", "wherry.cli.main", "ps", "--socket", str(fake.path), *words]
    # Its environment is ours as Python sees it: readline, which pytest loads, puts COLUMNS into that of the process.
    subprocess.run(command, stdout=theirs, env=dict(os.environ), check=True, timeout=PATIENCE)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as master:
        shown = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end open
            while data := master.read(65536):
                shown += data
    return shown.decode().splitlines()


def test_on_a_terminal_a_line_fits_its_width(fake: FakeSupervisor) -> None:
    fake.on("GET", "/containers/json", reply([entry("a", Command=["/bin/echo", "x" * 500])]))
    header, row = on_terminal(fake, 130)
    assert len(row) == 130
    assert row.endswith("…")
    assert header.startswith("NAME")


WIDTHS = {
    150: "NAME ID STATE PID STARTED SOFT MIB HARD MIB NICE COMMAND",
    121: "NAME ID STATE PID STARTED HARD MIB COMMAND",
    110: "NAME ID STATE PID STARTED COMMAND",
    90: "NAME ID STATE PID COMMAND",
    80: "NAME STATE PID COMMAND",
    60: "NAME STATE COMMAND",
    40: "NAME STATE COMMAND",
}
"""NICE and SOFT MIB say nothing of these containers and go first."""


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_narrow_terminal_gets_fewer_columns(fake: FakeSupervisor, columns: int) -> None:
    """Case 17: the table was 127 columns wide on a terminal of 80."""
    long = entry("a-rather-long-name", Command=["/bin/sh", "-c", "x" * 500], HardLimit=6 << 20)
    fake.on("GET", "/containers/json", reply([long, ended("b", Reason="stopped", ExitCode=137)]))
    lines = on_terminal(fake, columns)
    assert max(map(len, lines)) <= columns
    assert lines[0].split() == WIDTHS[columns].split()
    assert any(line.endswith("…") for line in lines)
    whole = on_terminal(fake, columns, "--no-trunc")
    assert whole[0].split() == WIDTHS[150].split()
    assert whole[1].endswith("x" * 500)


def test_wide_characters_take_two_columns(fake: FakeSupervisor) -> None:
    """Case 17."""
    fake.on("GET", "/containers/json", reply([entry("a", Command=["/bin/echo", "字" * 200]), entry("b")]))
    lines = on_terminal(fake, 90)
    assert terminal.width(lines[1]) in {89, 90}
    assert lines[1].endswith("字…")
    assert lines[1].index("/bin/echo") == lines[2].index("/bin/sleep")


def test_a_command_with_escape_sequences_is_shown_escaped(ps: Ps) -> None:
    """Case 17: an escape sequence in a container's command must not reach the terminal."""
    shown = ps(containers=[entry("a", Command=["sh", "\x1b]0;owned\x07\u202e"])])
    assert shown.splitlines()[1].endswith(r"sh '\x1b]0;owned\x07\u202e'")


def test_words_of_a_command_are_told_apart(ps: Ps) -> None:
    container = entry("a", Command=["sh", "-c", "it's", "", "a b"])
    assert ps("--format", "{{.Command}}", containers=[container]) == "sh -c 'it'\\''s' '' 'a b'\n"


@pytest.mark.parametrize("text", ["{{" * 5_000, "}}" * 5_000, "{{ " + "json " * 1_999, '{{"' + "a" * 9_000])
def test_a_long_template_is_read_once(text: str) -> None:
    """Case 24: looking for the end of each of 65,000 braces took minutes."""
    with pytest.raises(BadValue, match="has no counterpart"):
        template.parse(text, {"Name"})
    with pytest.raises(BadValue, match="the most is 10000"):
        template.parse(text * 10, {"Name"})
