"""A message of the supervisor's log is one line of printable characters, whoever chose the names in it."""

from __future__ import annotations

import logging
import sys

import pytest

from wherry.supervisor.log_lines import LineFormatter


def shown(message: str, *arguments: object, with_error: bool = False) -> str:
    error = sys.exc_info() if with_error else None
    record = logging.LogRecord("wherry", logging.ERROR, __file__, 1, message, arguments, error)
    return LineFormatter("%(levelname)s %(message)s").format(record)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain name, ü and 字", "plain name, ü and 字"),
        ("a\nERROR forged", r"a\nERROR forged"),
        ("\x1b[2J\x07\x9b", r"\x1b[2J\x07\x9b"),
        ("\u202egnp", r"\u202egnp"),
        ("caf\udce9", r"caf\udce9"),
    ],
)
def test_names_are_escaped(name: str, expected: str) -> None:
    assert shown("cannot delete %s", name) == f"ERROR cannot delete {expected}"


def test_a_traceback_keeps_its_lines() -> None:
    try:
        raise OSError(1, "no\x1b[2J", "file\nERROR forged")
    except OSError:
        lines = shown("failed", with_error=True).split("\n")
    assert lines[:2] == ["ERROR failed", "Traceback (most recent call last):"]
    assert all(line.isprintable() for line in lines)
    assert lines[-1] == r"PermissionError: [Errno 1] no\x1b[2J: 'file\nERROR forged'"
