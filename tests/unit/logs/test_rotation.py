"""Rotation that fails halfway, and older files that somebody else has put his hands on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.logfiles import append

from wherry import errors
from wherry.logs import STDOUT, Log, LogOptions, read
from wherry.logs import log as log_module
from wherry.logs.segments import index_path, rotated_path
from wherry.logs.writer import Writer

ID = "ab" * 32


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "alpha.log", ID, LogOptions(max_bytes=10, max_files=100))
    log.create()
    log.open()
    yield log
    log.close()


def content(log: Log) -> bytes:
    return b"".join(chunk.data for chunk in read(log))


def names(log: Log) -> list[str]:
    return sorted(path.name for path in log.path.parent.iterdir() if path.suffix != ".idx")


def test_files_end_with_whole_lines_and_are_read_as_one(log: Log) -> None:
    append(log, STDOUT, b"one\ntwo\nthree\n")
    append(log, STDOUT, b"a line longer than a file\n")
    assert log.path.with_name("alpha.log.1").read_bytes() == b"one\ntwo\n"
    assert content(log) == b"one\ntwo\nthree\na line longer than a file\n"
    assert content(Log(log.path, ID)) == content(log)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_only_so_many_files_are_kept(tmp_path: Path, count: int) -> None:
    log = Log(tmp_path / "alpha.log", ID, LogOptions(max_bytes=4, max_files=count))
    log.create()
    log.open()
    for number in range(6):
        append(log, STDOUT, b"%03d\n" % number)
    assert content(log) == b"".join(b"%03d\n" % number for number in range(6 - count, 6))
    assert len(names(log)) == count
    log.close()


def test_a_rotation_that_cannot_open_its_new_file_is_tried_again(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two descriptors short: the files have changed their names already. The old one must not be replaced."""
    append(log, STDOUT, b"012345678\n")

    def fail(*_: object) -> Writer:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(log_module, "Writer", fail)
        for _ in range(3):
            with pytest.raises(OSError, match="Too many open files"):
                append(log, STDOUT, b"abcdefghi\n")
    append(log, STDOUT, b"abcdefghi\n")
    assert content(log) == b"012345678\nabcdefghi\n"
    assert content(Log(log.path, ID)) == content(log)


@pytest.mark.parametrize("fatal", range(1, 5))
def test_a_rotation_may_fail_at_any_of_its_moves(log: Log, monkeypatch: pytest.MonkeyPatch, fatal: int) -> None:
    append(log, STDOUT, b"012345678\n")
    moves = 0
    real = os.replace

    def replace(*paths: Any) -> None:
        nonlocal moves
        moves += 1
        if moves == fatal:
            raise OSError(errno.EIO, "Input/output error")
        real(*paths)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="Input/output error"):
        append(log, STDOUT, b"abcdefghi\n")
    append(log, STDOUT, b"abcdefghi\n")
    assert content(log) == b"012345678\nabcdefghi\n"
    assert content(Log(log.path, ID)) == content(log)
    assert names(log) == ["alpha.log", "alpha.log.1"]


def test_an_older_file_that_cannot_be_opened_leaves_no_descriptor(log: Log) -> None:
    for number in range(3):
        append(log, STDOUT, b"%09d\n" % number)
    where = index_path(rotated_path(log.path, 2))
    where.unlink()
    where.mkdir()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(errors.Conflict, match="is not a regular file"):
        content(log)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("kind", ["gone", "link", "fifo", "directory"])
def test_an_older_file_that_is_none_any_more_is_passed_over(log: Log, tmp_path: Path, kind: str) -> None:
    for number in range(3):
        append(log, STDOUT, b"%09d\n" % number)
    older = rotated_path(log.path, 2)
    older.unlink()
    if kind == "link":
        (tmp_path / "secret").write_bytes(b"secret")
        older.symlink_to(tmp_path / "secret")
    elif kind == "fifo":
        os.mkfifo(older)
    elif kind == "directory":
        older.mkdir()
    assert content(log) == b"000000000\n000000002\n"
    append(log, STDOUT, b"000000003\n")
    assert content(log) == b"000000000\n000000002\n000000003\n"


def test_names_that_only_look_like_rotated_ones_are_left_alone(log: Log) -> None:
    strangers = ["alpha.log.0", "alpha.log.01", "alpha.log.1x", "alpha.log.-1", "alpha.log.1.gz", "alpha.logs.1"]
    for name in strangers:
        log.path.with_name(name).write_bytes(b"strange\n")
    for number in range(3):
        append(log, STDOUT, b"%09d\n" % number)
    assert content(Log(log.path, ID)) == b"000000000\n000000001\n000000002\n"
    log.remove()
    assert names(log) == sorted(strangers)
