"""``python -m wherry.logs`` on the files alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.logfiles import append

from wherry.logs import STDERR, STDOUT, Log

SOURCE = str(Path(__file__).parents[3] / "src")


def run(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": SOURCE}
    return subprocess.run(
        [sys.executable, "-m", "wherry.logs", *words], capture_output=True, check=False, env=environment
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = Log(tmp_path / "alpha.log", "ab" * 32)
    log.create()
    log.open()
    for stream, data in ((STDOUT, b"one\ntwo\n"), (STDERR, b"bad\n"), (STDOUT, b"three")):
        append(log, stream, data)
    log.close()
    return log.path


def test_it_prints_bytes_as_captured(path: Path) -> None:
    assert run(path).stdout == b"one\ntwo\nbad\nthree"
    assert run(path, "--stream", "out").stdout == b"one\ntwo\nthree"
    assert run(path, "--stream", "err").stdout == b"bad\n"
    assert run(path, "--tail", "2").stdout == b"bad\nthree"


def test_it_stamps_each_line(path: Path) -> None:
    stamped = run(path, "-t", "--stream", "out").stdout
    time = rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"
    assert re.fullmatch(time + rb" one\n" + time + rb" two\n" + time + rb" three", stamped)


def test_it_reads_a_bare_file(tmp_path: Path) -> None:
    (tmp_path / "bare").write_bytes(b"text\n")
    assert run(tmp_path / "bare").stdout == b"text\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [("missing", rb"log .*missing is gone"), (".", rb"is not a regular file"), ("later", rb"has version 9")],
)
def test_what_cannot_be_read_is_said_in_one_line(path: Path, name: str, said: bytes) -> None:
    (path.parent / "later").write_bytes(b"")
    (path.parent / "later.idx").write_bytes(b"wherryix\x09" + bytes(100))
    done = run(path.parent / name)
    assert done.returncode == 1
    assert done.stdout == b""
    assert re.fullmatch(rb"python -m wherry.logs: .*" + said + rb".*\n", done.stderr)


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "bare").write_bytes(b"x" * 2_000_000)
    command = f"{sys.executable} -m wherry.logs {tmp_path / 'bare'} | head -c 5"
    environment = os.environ | {"PYTHONPATH": SOURCE}
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == (b"xxxxx", b"")
