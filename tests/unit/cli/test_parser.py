"""Command lines: our reader against argparse on the same declarations, option values, usage errors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.cli import full, main, values
from wherry.cli.parser import BadValue, Namespace, UnusualError, _Reading

WORDS = {
    "ps": [
        "-a",
        "--all",
        "--running",
        "-q",
        "--quiet",
        "--format",
        "table",
        "json",
        "{{.Name}}",
        "{{.Nope}}",
        "--format=json",
        "x",
    ],
    "logs": [
        "-f",
        "-t",
        "--tail",
        "5",
        "all",
        "-n",
        "--since",
        "2026-01-31",
        "--stream",
        "out",
        "--tail=3",
        "alpha",
        "-5",
    ],
    "stop": ["--time", "-t", "2.5", "-1", "a", "b", "--time=3", "--time=x", ""],
    "kill": ["-s", "TERM", "--signal=9", "-sINT", "a", "b"],
    "rm": ["-f", "--force", "a", "b", "--for", "--force=1"],
    "wait": ["a", "b", "-x"],
    "inspect": ["a", "b", "--help"],
    "info": ["--format", "json", "text", "xml", "--format=json", "a"],
    "doctor": ["-h"],
    "version": ["--format=text", "-h"],
    "supervisor": ["--state-dir", "/d", "--debug", "--prepared", "0", "-2", "rootfs", "other"],
    "completion": ["bash", "zsh", "csh"],
    "run": [
        "--rm",
        "-e",
        "K=V",
        "K",
        "--nice",
        "5",
        "-5",
        "--network",
        "host",
        "bridge",
        "--cpus=0.5",
        "-v",
        "/a:/b",
        "-eA=1",
    ],
}


def namespace() -> Namespace:
    found = Namespace()
    found.socket = None
    return found


def by_argparse(command: str, words: list[str]) -> dict[str, Any] | None:
    found = namespace()
    try:
        full.build(main.declared(command)).parse(words, found)
    except SystemExit:
        return None
    return vars(found)


@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_what_our_reader_takes_means_the_same_to_argparse(data: st.DataObject) -> None:
    command = data.draw(st.sampled_from(sorted(WORDS)))
    words = data.draw(st.lists(st.sampled_from([*WORDS[command], "--socket", "/s", "-"]), max_size=6))
    found = namespace()
    try:
        _Reading(main.declared(command).options).read(words, found)
    except UnusualError:
        return
    assert vars(found) == by_argparse(command, words)


USUAL = [
    ("ps", ""),
    ("ps", "-a"),
    ("ps", "--running -q"),
    ("ps", "--format json --socket /s"),
    ("logs", "-f alpha --tail 5"),
    ("stop", "a b --time 3 c"),
    ("kill", "-s TERM a"),
    ("rm", "-f a b"),
    ("supervisor", "rootfs --debug"),
    ("run", "--rm -e K=V -e L=W --soft-mib 3 --hard-mib=6 --network host"),
]


@pytest.mark.parametrize(("command", "line"), USUAL)
def test_usual_command_lines_need_no_argparse(command: str, line: str) -> None:
    found = namespace()
    _Reading(main.declared(command).options).read(line.split(), found)
    assert vars(found) == by_argparse(command, line.split())


RARE = [
    ("logs", "-n5 alpha", {"tail": 5, "name": "alpha"}),
    ("logs", "-ft alpha", {"follow": True, "timestamps": True}),
    ("stop", "-t5 -- -odd", {"names": ["-odd"], "time": 5.0}),
    ("run", "--nice -5", {"nice": -5}),
    ("run", "-eK=V", {"env": ["K=V"]}),
]


@pytest.mark.parametrize(("command", "line", "expected"), RARE)
def test_rare_spellings_are_left_to_argparse(command: str, line: str, expected: dict[str, object]) -> None:
    found = namespace()
    main.declared(command).parse(line.split(), found)
    assert {name: vars(found)[name] for name in expected} == expected


def test_after_two_dashes_every_word_is_a_name() -> None:
    found = namespace()
    _Reading(main.declared("rm").options).read(["-f", "a", "--", "-b", "--", "--force"], found)
    assert (found.force, found.names) == (True, ["a", "-b", "--", "--force"])


# Values

GOOD = [
    (values.mib, "1", 1),
    (values.mib, "8796093022207", 8796093022207),
    (values.size_or_zero, "0", 0),
    (values.size_or_zero, "64k", 65536),
    (values.nice, "-20", -20),
    (values.nice, "+19", 19),
    (values.cpus, "0.5", 0.5),
    (values.cpus, ".5", 0.5),
    (values.cpus, "2", 2.0),
    (values.pids, "-1", -1),
    (values.pids, "0", 0),
    (values.pids, "10", 10),
    (values.count, "0", 0),
    (values.seconds, "0", 0.0),
    (values.seconds, "2.5", 2.5),
    (values.tail, "all", None),
    (values.tail, "0", 0),
]


@pytest.mark.parametrize(("convert", "text", "value"), GOOD)
def test_a_value_is_read(convert: Any, text: str, value: object) -> None:
    assert convert(text) == value


NOT_NUMBERS = ["", " ", "x", "1_0", " 1", "1 ", "٣", "1e3", "0x10", "nan", "inf", "--1", "+", "-", ".", "1" * 19]
BAD = [
    *(
        (convert, text)
        for convert in (values.mib, values.nice, values.cpus, values.pids, values.count)
        for text in NOT_NUMBERS
    ),
    *((convert, text) for convert in (values.seconds, values.tail) for text in NOT_NUMBERS),
    (values.mib, "0"),
    (values.size_or_zero, ""),
    (values.size_or_zero, "k"),
    (values.size_or_zero, "-1"),
    (values.mib, "-1"),
    (values.mib, "1.5"),
    (values.mib, "8796093022208"),
    (values.nice, "-21"),
    (values.nice, "20"),
    (values.cpus, "0"),
    (values.cpus, "-1"),
    (values.pids, "-2"),
    (values.count, "-1"),
    (values.seconds, "-1"),
    (values.tail, "-1"),
]


@pytest.mark.parametrize(("convert", "text"), BAD)
def test_a_bad_value_is_named(convert: Any, text: str) -> None:
    with pytest.raises(BadValue) as raised:
        convert(text)
    assert repr(text) in str(raised.value)


# Usage errors: exit code 125 for start and run, 2 elsewhere; one line that names option and value

USAGE = [
    ("start a r c --soft-mib 0", 125, "engine start: --soft-mib: '0' is not a whole number of MiB above 0"),
    ("start a r c --hard-mib=-1", 125, "engine start: --hard-mib: '-1' is not a whole number of MiB above 0"),
    ("run --nice 50 a r c", 125, "engine run: --nice: '50' is not a whole number from -20 to 19"),
    ("run --nice -21 a r c", 125, "engine run: --nice: '-21' is not a whole number from -20 to 19"),
    ("run --cpus 0 a r c", 125, "engine run: --cpus: '0' is not a decimal number of CPUs above 0 (smallest: 0.001)"),
    (
        "run --pids-limit x a r c",
        125,
        "engine run: --pids-limit: 'x' is not a whole number above 0 (or -1 for no limit)",
    ),
    ("start a r c --soft-mib 7 --hard-mib 6", 125, "engine start: --soft-mib 7 is more than --hard-mib 6"),
    (
        "start a r c --soft-mib",
        125,
        "engine start: --soft-mib: a value is missing (put -- before COMMAND to pass the word to it)",
    ),
    ("start", 125, "engine start: NAME and ROOTFS and COMMAND are missing"),
    ("start a r", 125, "engine start: COMMAND is missing"),
    ("start --bogus a r c", 125, "engine start: unrecognized arguments: --bogus"),
    ("start --soft-mib", 125, "engine start: --soft-mib: expected one argument"),
    ("run -e =x a r c", 125, "engine run: -e/--env: '=x' has no name before '='"),
    ("ps --bogus", 2, "engine ps: unrecognized arguments: --bogus"),
    ("ps -q --format json", 2, "engine ps: --format: not allowed with argument -q/--quiet"),
    ("ps x", 2, "engine ps: unrecognized arguments: x"),
    ("stop", 2, "engine stop: the following arguments are required: NAME"),
    ("stop --time -2 a", 2, "engine stop: -t/--time: '-2' is not a number of seconds from 0 up"),
    ("logs a --tail many", 2, "engine logs: -n/--tail: 'many' is neither a whole number of lines nor 'all'"),
    (
        "logs a --since yesterday",
        2,
        "engine logs: --since: 'yesterday' is no duration, RFC 3339 time, date or UNIX time",
    ),
    ("frobnicate", 2, "engine: unknown command 'frobnicate'"),
    ("--bogus ps", 2, "engine: unrecognized arguments: --bogus"),
    ("", 2, "engine: a command is missing"),
]


@pytest.mark.parametrize(("line", "code", "message"), USAGE)
def test_a_wrong_command_line_is_one_line_and_a_hint(
    capfd: pytest.CaptureFixture[str], line: str, code: int, message: str
) -> None:
    assert main.main(line.split()) == code
    command = message.partition(":")[0]
    assert capfd.readouterr() == ("", f"{message}\nSee '{command} --help'.\n")


def test_control_characters_of_a_wrong_word_do_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["\x1b[2Jps"]) == 2
    assert main.main(["ps", "--\x1b]0;x\x07"]) == 2
    assert "\x1b" not in capfd.readouterr().err


@pytest.mark.parametrize("word", ["name", "rootfs", "command"])
def test_an_empty_word_is_refused(capfd: pytest.CaptureFixture[str], word: str) -> None:
    words = {"name": "a", "rootfs": "r", "command": "c", word: ""}
    assert main.main(["start", *words.values()]) == 125
    assert f"{word.upper()} is empty" in capfd.readouterr().err


@pytest.mark.parametrize("command", sorted(main.COMMANDS))
def test_every_command_has_help(capfd: pytest.CaptureFixture[str], command: str) -> None:
    assert main.main([command, "--help"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.startswith(f"usage: engine {command}")
    assert "--socket" in out


def test_the_help_of_engine_names_every_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    out = capfd.readouterr().out
    assert all(f"\n  {command} " in out for command in main.COMMANDS)
