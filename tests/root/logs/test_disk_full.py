"""Pipeline onto a small file system that fills up: nothing is lost, and the other containers go on."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.disks import disk_of
from tests.waiting import wait_until

from wherry.logs import STDERR, STDOUT, Log, Pipeline, make_buffer, make_pipe, read
from wherry.logs import buffer as buffer_module

pytestmark = pytest.mark.root

ID = "ab" * 32
MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "small", "size=1m") as path:
        yield path


def grow(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=32m", folder], check=True)


class Container:
    """A thread that writes ``data`` to a captured stream and then exits."""

    def __init__(self, capture: Pipeline, path: Path, data: bytes) -> None:
        self.log = Log(path, ID)
        self.log.create()
        self.done = threading.Event()
        self.data = data
        self.written = 0
        reader, self.writer = make_pipe()
        capture.add(self.log, reader, -1, self.done.set)
        self.thread = threading.Thread(target=self._write)
        self.thread.start()

    def _write(self) -> None:
        for start in range(0, len(self.data), 4096):
            self.written += os.write(self.writer, self.data[start : start + 4096])
        os.close(self.writer)

    def content(self) -> bytes:
        return b"".join(chunk.data for chunk in read(self.log))


def numbered(size: int) -> bytes:
    return b"".join(b"%09d\n" % number for number in range(size // 10))


def test_a_full_disk_holds_one_container_up_until_there_is_space(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Pipeline() as capture:
        stuck = Container(capture, small_disk / "stuck.log", numbered(8 * MIB))
        wait_until(lambda: "No space left on device" in caplog.text)
        free = Container(capture, tmp_path / "free.log", numbered(4 * MIB))
        assert free.done.wait(PATIENCE)
        free.thread.join()
        assert free.content() == free.data
        assert stuck.thread.is_alive()  # blocked in write(2): its pipe is full
        assert stuck.written < 4 * MIB
        assert stuck.data.startswith(stuck.content())
        grow(small_disk)
        assert stuck.done.wait(PATIENCE)
        stuck.thread.join()
    assert stuck.content() == stuck.data
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1


def test_a_disk_too_full_for_the_index_loses_nothing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each write changes the stream, so the index needs its second page while the log's first is not full."""
    monkeypatch.setattr(buffer_module, "RUN_INTERVAL_NS", 0)
    log, done = Log(small_disk / "alpha.log", ID), threading.Event()
    log.create()
    (out, out_writer), (err, err_writer) = make_pipe(), make_pipe()
    expected = {STDOUT: b"", STDERR: b""}
    with Pipeline() as capture:
        capture.add(log, out, err, done.set)
        for number in range(200):
            if number == 100:
                fill(small_disk)
            stream, fd = ((STDOUT, out_writer), (STDERR, err_writer))[number % 2]
            data = b"%d\n" % number
            os.write(fd, data)
            expected[stream] += data
            written = sum(map(len, expected.values()))
            wait_until(lambda: log.size == written or "No space left on device" in caplog.text)  # noqa: B023
        assert "alpha.log.idx" in caplog.text
        assert log.size < written
        size = log.path.with_name("alpha.log.idx").stat().st_size
        assert size <= 4096
        grow(small_disk)
        os.close(out_writer)
        os.close(err_writer)
        assert done.wait(PATIENCE)
    for stream, data in expected.items():
        assert b"".join(chunk.data for chunk in read(log, streams={stream})) == data


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert os.statvfs(folder).f_bfree == 0


def test_a_container_can_be_removed_from_a_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Pipeline() as capture:
        stuck = Container(capture, small_disk / "stuck.log", numbered(int(1.5 * MIB)))
        wait_until(lambda: "No space left on device" in caplog.text)
        stuck.thread.join(PATIENCE)  # the rest fits into the pipe
        capture.finish(stuck.log)
        assert not stuck.done.wait(0.2)
        capture.abandon(stuck.log)
        assert stuck.done.wait(PATIENCE)
    assert "bytes on their way to it are lost" in caplog.text
    stuck.log.remove()
    assert list(small_disk.iterdir()) == []


def test_a_log_cannot_be_created_on_a_full_disk_and_leaves_nothing(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(OSError, match=r"No space left.*alpha\.log\.idx"):
        Log(small_disk / "alpha.log", ID).create()
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_the_next_capture_takes_over_on_a_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = numbered(2 * MIB - 100_000)
    log, done = Log(small_disk / "alpha.log", ID), threading.Event()
    log.create()
    reader, writer = make_pipe()
    buffer = make_buffer(log)
    kept = os.dup(reader), os.dup(buffer)

    def write() -> None:
        os.write(writer, data)
        os.close(writer)

    writing = threading.Thread(target=write)
    with Pipeline() as capture:
        capture.add(log, reader, -1, done.set, buffer)
        writing.start()
        wait_until(lambda: "No space left on device" in caplog.text)
    assert "bytes that stay in their buffer" in caplog.text
    grow(small_disk)
    with Pipeline() as capture:
        capture.add(log, kept[0], -1, done.set, kept[1])
        assert done.wait(PATIENCE)
    writing.join()
    assert b"".join(chunk.data for chunk in read(log)) == data
