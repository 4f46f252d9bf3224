"""The bounded buffer: its file, its budget, and what is found of it by whoever takes over."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from tests.logfiles import new_buffer

from wherry import errors
from wherry.logs import STDOUT, Log, make_pipe, read
from wherry.logs import buffer_file as file_module
from wherry.logs.buffer import Buffer, Piece
from wherry.logs.buffer_file import BufferFile, Progress
from wherry.logs.options import BUFFER_MAX, BUFFER_MIN

ID = "ab" * 32


def fill(buffer: Buffer, data: bytes) -> None:
    read_end, write_end = make_pipe()
    os.write(write_end, data)
    moved = buffer.splice(read_end, buffer.reserve(STDOUT))
    buffer.commit(moved)
    assert moved == len(data)
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("budget", [-1, 0, BUFFER_MIN - 1, BUFFER_MAX + 1])
def test_impossible_budgets_are_refused(budget: int) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(errors.InvalidRequest, match=str(budget)):
        new_buffer(budget)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("budget", [BUFFER_MIN, BUFFER_MIN + 5000, 2**20, BUFFER_MAX])
def test_a_full_buffer_holds_its_budget_and_no_more(budget: int) -> None:
    buffer = new_buffer(budget)
    while room := buffer.reserve(STDOUT):
        count = min(room, 65536)
        fill(buffer, bytes(count))
    stats = buffer.stats()
    assert stats.held_bytes == stats.high_water_bytes == stats.budget_bytes <= budget
    assert stats.times_full == 1
    buffer.close()


def forge(version: int = 1, blocks: int = 8, block_size: int = 8192) -> bytes:
    return file_module._sealed(struct.pack("<8sHHI", b"wherrybf", version, blocks, block_size))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "is no log buffer"),
        (b"wherrybf" + bytes(100), "is no log buffer"),
        (forge(version=2), "version 2"),
        (forge(blocks=0), "geometry"),
        (forge(blocks=1000), "geometry"),
        (forge(block_size=0), "geometry"),
        (forge(block_size=100), "geometry"),
        (forge(block_size=2**31), "geometry"),
    ],
)
def test_what_is_no_buffer_is_refused_and_stays_the_callers(header: bytes, message: str) -> None:
    fd = os.memfd_create("test")
    os.pwrite(fd, header + bytes(8192) if header else b"", 0)
    with pytest.raises(errors.InternalError, match=message):
        BufferFile.open(fd)
    os.close(fd)


def test_a_progress_record_that_fails_its_checksum_is_refused() -> None:
    file = BufferFile.create(BUFFER_MIN)
    os.pwrite(file.fd, b"\xff" * 8, 64)
    with pytest.raises(errors.InternalError, match="checksum"):
        file.read_progress()
    file.close()


def test_a_failed_move_is_not_under_way_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an administrator appends until the next try would count as moved, and so many bytes would be missing."""
    log = Log(tmp_path / "alpha.log", ID)
    log.create()
    log.open()
    buffer = new_buffer(BUFFER_MIN)
    kept = os.dup(buffer._file.fd)
    fill(buffer, b"from the container\n")
    claim = buffer.claim()
    assert isinstance(claim, Piece)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "sendfile", full)
        with pytest.raises(OSError, match="No space left"):
            log.append(buffer, claim)
    with log.path.open("ab") as stranger:
        stranger.write(b"disk was full\n")
    log.close()  # the supervisor is killed
    buffer.close()
    file = BufferFile.open(kept)
    again = Log(log.path, ID)
    buffer = Buffer.recover(file, again.open(file.read_progress))
    claim = buffer.claim()
    assert isinstance(claim, Piece)
    buffer.release(again.append(buffer, claim))
    assert b"".join(chunk.data for chunk in read(again)) == b"disk was full\nfrom the container\n"
    again.close()
    buffer.close()


def test_progress_is_read_when_the_predecessor_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its successor waits for the lock it still gets on, and what it writes then must not be written again."""
    log = Log(tmp_path / "alpha.log", ID)
    log.create()
    log.open()
    buffer = new_buffer(BUFFER_MIN)
    fill(buffer, b"once\n")

    def get_on(_seconds: float) -> None:
        claim = buffer.claim()
        assert isinstance(claim, Piece)
        buffer.release(log.append(buffer, claim))
        log.close()

    file = BufferFile.open(os.dup(buffer._file.fd))
    monkeypatch.setattr("time.sleep", get_on)
    successor = Log(log.path, ID)
    assert successor.open(file.read_progress) == Progress(position=5)
    successor.close()
    file.close()
    buffer.close()
