"""Markers for lost bytes: what readers make of the lines around them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from tests.logfiles import append, new_buffer

from wherry.logs import STDERR, STDOUT, Log, read

ID = "ab" * 32


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "alpha.log", ID)
    log.create()
    log.open()
    yield log
    log.close()


def lose(log: Log, count: int, wall_ns: int) -> None:
    buffer = new_buffer(1024 * 1024)
    with mock.patch("time.time_ns", return_value=wall_ns):
        log.append_gap(buffer, count)
    buffer.close()


def text(log: Log, **wanted: object) -> bytes:
    return b"".join(chunk.data for chunk in read(log, **wanted))  # type: ignore[arg-type]


def test_a_marker_is_a_line_of_its_own_in_whatever_is_asked_for(log: Log) -> None:
    append(log, STDOUT, b"half", (10, 1))
    lose(log, 5, 20)
    append(log, STDERR, b"rest\n", (30, 1))
    assert text(log) == b"half\n[wherry: 5 bytes lost here]\nrest\n"
    assert text(log, streams={STDOUT}) == b"half\n[wherry: 5 bytes lost here]\n"
    assert text(log, streams={STDERR}) == b"\n[wherry: 5 bytes lost here]\nrest\n"
    assert text(log, tail=2) == b"[wherry: 5 bytes lost here]\nrest\n"


def test_a_line_behind_a_marker_that_is_out_of_range_is_shown(log: Log) -> None:
    """The bytes that ended the hidden line are among the lost ones."""
    append(log, STDOUT, b"old half", (10, 1))
    lose(log, 5, 20)
    append(log, STDOUT, b"new line\n", (30, 1))
    assert text(log, since_ns=25) == b"new line\n"
    assert text(log, since_ns=25, tail=9) == b"new line\n"


def test_a_line_does_not_go_on_behind_a_marker_that_is_out_of_range(log: Log) -> None:
    append(log, STDOUT, b"shown half", (10, 1))
    lose(log, 5, 20)
    append(log, STDOUT, b"too late\n", (30, 1))
    assert text(log, until_ns=15) == b"shown half"


def test_a_marker_that_does_not_fit_leaves_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    append(log, STDOUT, b"one\n", (10, 1))
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if b"bytes lost" in data:
            real(fd, data[:7], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(OSError, match="No space left"):
            lose(log, 5, 20)
    assert log.path.read_bytes() == b"one\n"
    lose(log, 6, 21)
    assert text(log) == b"one\n[wherry: 6 bytes lost here]\n"
