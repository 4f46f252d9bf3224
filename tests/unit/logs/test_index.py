"""The index file: its format, and what is made of one that was torn, damaged, lost or cut."""

from __future__ import annotations

import errno
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.logfiles import append

from wherry import errors
from wherry.logs import STDERR, STDOUT, Log, read
from wherry.logs import index as ix
from wherry.logs import writer as writer_module
from wherry.logs.files import ReadFile
from wherry.logs.segments import damaged_path

ID = "ab" * 32


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "alpha.log", ID)
    log.create()
    yield log
    log.close()


def index_of(log: Log) -> Path:
    return log.path.with_name(log.path.name + ".idx")


def per_stream(log: Log) -> dict[int, bytes]:
    return {s: b"".join(chunk.data for chunk in read(log, streams={s})) for s in (STDOUT, STDERR)}


def records(log: Log) -> list[tuple[int, int]]:
    return [(offset, stream) for offset, stream, _ in records_with_line(log)]


def records_with_line(log: Log) -> list[tuple[int, int, int]]:
    """Offset, stream, line code of each record."""
    body = index_of(log).read_bytes()[ix.HEADER_SIZE :]
    found = (struct.unpack_from("<QQQBBB", body, at) for at in range(0, len(body), 32))
    return [(offset, stream, line) for offset, _, _, stream, _, line in found]


def test_the_format_is_the_documented_one(log: Log) -> None:
    log.open()
    append(log, STDOUT, b"out")
    append(log, STDERR, b"err")
    data = index_of(log).read_bytes()
    magic, version, header_size, record_size, _, created = struct.unpack_from("<8sHHHHQ", data)
    owner, sequence, start = struct.unpack_from("<64sQQ", data, 24)
    assert (magic, version, header_size, record_size, owner) == (b"wherryix", 2, 112, 32, ID.encode())
    assert (sequence, start) == (1, 0)
    assert len(data) == ix.HEADER_SIZE + 2 * 32
    for part in (data[:112], data[112:144], data[144:]):
        assert struct.unpack("<I", part[-4:])[0] == zlib.crc32(part[:-4])
    offset, wall, monotonic, stream, kind, line = struct.unpack_from("<QQQBBB", data, 144)
    assert (offset, stream, kind, line) == (3, STDERR, 0, 1)
    assert created <= wall
    assert monotonic > 0


def test_a_new_log_is_two_files_of_mode_0640(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Log(tmp_path / "näme.log", ID).create()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in tmp_path.iterdir()}
    assert modes == {"näme.log": 0o640, "näme.log.idx": 0o640}


@pytest.mark.parametrize("planted", ["alpha.log", "alpha.log.idx"])
def test_a_planted_link_is_not_followed_and_nothing_is_left(tmp_path: Path, planted: str) -> None:
    target = tmp_path / "target"
    (tmp_path / planted).symlink_to(target)
    with pytest.raises(FileExistsError, match=planted):
        Log(tmp_path / "alpha.log", ID).create()
    assert [path.name for path in tmp_path.iterdir()] == [planted]
    assert not target.exists()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    log = Log(tmp_path / "alpha.log", ID)
    if kind == "link":
        (tmp_path / "secret").write_bytes(b"secret")
        log.path.symlink_to(tmp_path / "secret")
    elif kind == "fifo":
        os.mkfifo(log.path)
    else:
        log.path.mkdir()
    with pytest.raises(errors.Conflict, match=r"alpha\.log is not a regular file"):
        list(read(log))
    with pytest.raises(errors.Conflict, match=r"alpha\.log is not a regular file"):
        log.open()


def test_an_id_that_does_not_fit_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequest, match="ASCII"):
        Log(tmp_path / "alpha.log", "é").create()
    with pytest.raises(errors.InvalidRequest, match="64"):
        Log(tmp_path / "alpha.log", "a" * 65).create()
    assert list(tmp_path.iterdir()) == []


def test_remove_takes_all_files_and_may_be_repeated(log: Log) -> None:
    damaged_path(log.path).touch()
    log.remove()
    log.remove()
    assert list(log.path.parent.iterdir()) == []
    with pytest.raises(errors.NotFound, match=r"alpha\.log is gone"):
        list(read(log))


@pytest.mark.parametrize("torn", range(1, 32))
def test_a_torn_record_is_cut_and_capture_goes_on(log: Log, torn: int) -> None:
    log.open()
    append(log, STDOUT, b"first ")
    append(log, STDERR, b"second ")
    log.close()
    record = ix.pack_record(ix.IndexRecord(13, STDOUT, 1, 1, None))
    with index_of(log).open("ab") as index:
        index.write(record[:torn])
    assert per_stream(log) == {STDOUT: b"first ", STDERR: b"second "}
    log.open()
    assert index_of(log).stat().st_size == ix.HEADER_SIZE + 2 * 32
    append(log, STDOUT, b"third")
    assert per_stream(log) == {STDOUT: b"first third", STDERR: b"second "}


def test_records_that_fail_their_checksum_at_the_end_are_cut(log: Log) -> None:
    log.open()
    append(log, STDOUT, b"first ")
    log.close()
    with index_of(log).open("ab") as index:
        index.write(bytes(3 * 32))  # what a file system may leave after a power failure
    log.open()
    append(log, STDERR, b"second")
    assert per_stream(log) == {STDOUT: b"first ", STDERR: b"second"}
    assert records(log) == [(0, STDOUT), (6, STDERR)]


def test_a_rotten_record_in_the_middle_costs_no_byte(log: Log) -> None:
    log.open()
    for number in range(5):
        append(log, (STDOUT, STDERR)[number % 2], b"%d" % number)
    log.close()
    data = bytearray(index_of(log).read_bytes())
    data[ix.HEADER_SIZE + 2 * 32] ^= 1
    index_of(log).write_bytes(data)
    assert b"".join(chunk.data for chunk in read(log)) == b"01234"
    assert per_stream(log) == {STDOUT: b"04", STDERR: b"123"}


def test_the_record_of_a_write_that_never_came_is_overwritten(log: Log) -> None:
    log.open()
    append(log, STDOUT, b"first ")
    log.close()
    with index_of(log).open("ab") as index:
        index.write(ix.pack_record(ix.IndexRecord(6, STDERR, 1, 1, None)))  # killed between record and splice
    assert per_stream(log) == {STDOUT: b"first ", STDERR: b""}
    log.open()
    append(log, STDOUT, b"second")
    assert per_stream(log) == {STDOUT: b"first second", STDERR: b""}
    assert records(log) == [(0, STDOUT), (6, STDOUT)]


def test_a_failing_write_does_not_grow_the_index(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.open()
    append(log, STDOUT, b"first ")

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "sendfile", full)
        for _ in range(50):
            with pytest.raises(OSError, match=r"No space left.*alpha\.log"):
                append(log, STDERR, b"x")
    append(log, STDOUT, b"second")
    assert records(log) == [(0, STDOUT), (6, STDOUT)]


def test_pieces_of_one_run_have_one_record(log: Log) -> None:
    log.open()
    moment = (1, 1)
    append(log, STDOUT, b"one ", moment)
    append(log, STDOUT, b"two ", moment)
    append(log, STDOUT, b"three")
    assert records(log) == [(0, STDOUT), (8, STDOUT)]
    times = [chunk.wall_ns for chunk in read(log)]
    assert times[0] == 1 < times[1]


def test_a_record_says_whether_its_run_begins_a_line(log: Log) -> None:
    log.open()
    append(log, STDOUT, b"one")
    append(log, STDERR, b"two\n")
    append(log, STDOUT, b"three\n")
    append(log, STDERR, b"four")
    append(log, STDOUT, b"five")
    begins, continues, unknown = 1, 2, 0
    first = [
        (0, STDOUT, begins),
        (3, STDERR, begins),
        (7, STDOUT, continues),
        (13, STDERR, begins),
        (17, STDOUT, begins),
    ]
    assert records_with_line(log) == first
    log.close()
    log.open()
    append(log, STDERR, b"six")
    append(log, STDOUT, b"seven")
    append(log, STDERR, b"eight")
    assert records_with_line(log)[5:] == [(21, STDERR, unknown), (24, STDOUT, continues), (29, STDERR, continues)]


@pytest.mark.parametrize("damage", ["empty", "short", "magic", "checksum", "text"])
def test_an_unreadable_index_is_set_aside(log: Log, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    log.open()
    append(log, STDERR, b"before ")
    log.close()
    data = bytearray(index_of(log).read_bytes())
    data[3 if damage == "magic" else 20] ^= 1
    damaged = {"empty": b"", "short": bytes(data[:50]), "text": b"hello\n" * 100}
    index_of(log).write_bytes(damaged.get(damage, bytes(data)))
    assert per_stream(log) == {STDOUT: b"before ", STDERR: b""}
    log.open()
    assert "alpha.log.idx.damaged" in caplog.text
    append(log, STDERR, b"after")
    assert per_stream(log) == {STDOUT: b"before ", STDERR: b"after"}
    assert [chunk.wall_ns > 0 for chunk in read(log)] == [False, True]


def test_a_lost_index_is_begun_anew(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.open()
    append(log, STDERR, b"before ")
    log.close()
    index_of(log).unlink()
    log.open()
    assert "starting a new one" in caplog.text
    append(log, STDERR, b"after")
    assert per_stream(log) == {STDOUT: b"before ", STDERR: b"after"}


def test_a_lost_log_is_begun_anew(log: Log) -> None:
    log.open()
    append(log, STDERR, b"before ")
    log.close()
    log.path.unlink()
    log.open()
    append(log, STDOUT, b"after")
    assert per_stream(log) == {STDOUT: b"after", STDERR: b""}


def test_a_later_version_is_refused_and_left_alone(log: Log) -> None:
    data = bytearray(index_of(log).read_bytes())
    data[8] = 3
    index_of(log).write_bytes(data)
    for attempt in (log.open, lambda: list(read(log))):
        with pytest.raises(errors.NotSupported, match="version 3"):
            attempt()
    assert index_of(log).read_bytes() == data


def test_the_index_of_another_container_is_refused(log: Log) -> None:
    with pytest.raises(errors.Conflict, match=f"is of container {ID}, not of other"):
        Log(log.path, "other").open()


def test_a_second_writer_is_refused(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "LOCK_SECONDS", 0.01)
    log.open()
    with pytest.raises(errors.Conflict, match="another process writes to log"):
        Log(log.path, ID).open()


def test_a_reader_does_not_keep_the_next_writer_out(log: Log) -> None:
    log.open()
    append(log, STDOUT, b"first ")
    reading = log.view()  # duplicates the writer's descriptors
    log.close()
    log.open()
    append(log, STDOUT, b"second")
    assert reading.read(100, 0) == b"first second"
    reading.close()


def test_a_log_truncated_while_open_goes_on_at_its_new_end(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.open()
    append(log, STDOUT, b"0123456789")
    append(log, STDERR, b"abcdef")
    os.truncate(log.path, 4)
    append(log, STDERR, b"after")
    assert "truncated from 16 to 4 bytes" in caplog.text
    assert log.path.read_bytes() == b"0123after"
    assert per_stream(log) == {STDOUT: b"0123", STDERR: b"after"}
    assert records(log) == [(0, STDOUT), (4, STDERR)]
    os.truncate(log.path, 0)
    append(log, STDERR, b"again")
    assert per_stream(log) == {STDOUT: b"", STDERR: b"again"}


def test_what_somebody_appends_stays_and_counts_to_the_run_before(log: Log) -> None:
    log.open()
    append(log, STDOUT, b"first ")
    with log.path.open("ab") as stranger:
        stranger.write(b"stranger ")
    append(log, STDERR, b"second")
    assert log.path.read_bytes() == b"first stranger second"
    assert per_stream(log) == {STDOUT: b"first stranger ", STDERR: b"second"}


def test_a_log_unlinked_while_open_can_be_read_on(log: Log) -> None:
    log.open()
    append(log, STDOUT, b"first ")
    log.path.unlink()
    append(log, STDERR, b"second")
    assert per_stream(log) == {STDOUT: b"first ", STDERR: b"second"}


def test_a_failing_create_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda _fd, data, _offset: len(data) - 1)  # the disk is full
    with pytest.raises(OSError, match=r"No space left.*alpha\.log\.idx"):
        Log(tmp_path / "alpha.log", ID).create()
    assert list(tmp_path.iterdir()) == []


def test_a_failing_open_leaves_no_descriptor(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    index_of(log).unlink()
    index_of(log).mkdir()
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(errors.Conflict, match=r"alpha\.log\.idx is not a regular file"):
            log.open()
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("rotten", [set(), {0}, {3, 4, 5}, {9}, {0, 1, 2, 7, 8, 9}, set(range(10))])
def test_the_search_finds_the_last_record_at_an_offset(tmp_path: Path, rotten: set[int]) -> None:
    path = tmp_path / "some.idx"
    body = b"".join(
        bytes(32) if number in rotten else ix.pack_record(ix.IndexRecord(10 * number + 5, STDOUT, 0, 0, None))
        for number in range(10)
    )
    path.write_bytes(ix.pack_header(ix.IndexHeader(ID, 0)) + body)
    file = ReadFile(os.open(path, os.O_RDONLY))
    index = ix.Index(file)
    good = [number for number in range(10) if number not in rotten]
    for offset in range(120):
        assert index.last_at(offset) == max((n for n in good if 10 * n + 5 <= offset), default=-1)
    assert [(record.offset - 5) // 10 for record in index.preceding(10)] == good[::-1]
    file.close()
    with pytest.raises(ValueError, match="closed"):
        index.count()
