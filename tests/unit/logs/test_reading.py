"""Reading logs: tails over block borders, ranges of time, streams; all of it against a naive model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry import errors
from wherry.logs import STDERR, STDOUT, Chunk, Log, read
from wherry.logs import index as ix
from wherry.logs.reader import Cursor
from wherry.logs.segments import index_path
from wherry.logs.selection import make_query, starts
from wherry.logs.view import BLOCK, View

ID = "ab" * 32


class Segment(NamedTuple):
    """A run of the model. ``knows_lines``: whether its writer says if it begins a line."""

    stream: int
    wall_ns: int
    data: bytes
    knows_lines: bool = True


def write_log(folder: Path, segments: Sequence[Segment]) -> Log:
    log = Log(folder / "model.log", ID)
    log.remove()
    index = ix.pack_header(ix.IndexHeader(ID, 0))
    offset, ended = 0, {STDOUT: True, STDERR: True}
    for segment in segments:
        begins_line = ended[segment.stream] if segment.knows_lines else None
        index += ix.pack_record(ix.IndexRecord(offset, segment.stream, segment.wall_ns, 0, begins_line))
        offset += len(segment.data)
        ended[segment.stream] = segment.data.endswith(b"\n")
    log.path.write_bytes(b"".join(segment.data for segment in segments))
    index_path(log.path).write_bytes(index)
    return log


class Byte(NamedTuple):
    stream: int
    wall_ns: int
    value: int


def model(
    segments: Sequence[Segment], streams: set[int], tail: int | None, since: int | None, until: int | None
) -> list[Byte]:
    """Every byte knows the line that it is in; lines are chosen; bytes of chosen lines are shown."""
    line_of: list[tuple[Byte, int]] = []
    begins: list[int] = []  # time of each line, in the order in which they begin
    current: dict[int, int | None] = {}
    for segment in segments:
        if segment.stream not in streams:
            continue
        for value in segment.data:
            line = current.get(segment.stream)
            if line is None:
                line = len(begins)
                begins.append(segment.wall_ns)
            line_of.append((Byte(segment.stream, segment.wall_ns, value), line))
            current[segment.stream] = None if value == ord("\n") else line
    chosen = [n for n, at in enumerate(begins) if (since is None or at >= since) and (until is None or at <= until)]
    kept = set(chosen if tail is None else chosen[len(chosen) - min(tail, len(chosen)) :])
    return [byte for byte, line in line_of if line in kept]


def shown(chunks: Iterator[Chunk]) -> list[Byte]:
    return [Byte(chunk.stream, chunk.wall_ns, value) for chunk in chunks for value in chunk.data]


@contextmanager
def small_blocks(size: int) -> Iterator[None]:
    with (
        mock.patch("wherry.logs.view.BLOCK", size),
        mock.patch("wherry.logs.selection.BLOCK", size),
        mock.patch("wherry.logs.reader.BLOCK", size),
        mock.patch("wherry.logs.index._BATCH", 3),
    ):
        yield


segment_lists = st.lists(
    st.builds(
        Segment,
        st.sampled_from([STDOUT, STDERR]),
        st.integers(1, 9),
        st.lists(st.sampled_from([b"\n", b"a", b"b\n", b"\0\r", b"\xff" * 9]), min_size=1, max_size=5).map(b"".join),
        st.booleans(),
    ),
    max_size=12,
)


class Range(NamedTuple):
    streams: set[int]
    since: int | None
    until: int | None


ranges = st.builds(
    Range,
    st.sampled_from([{STDOUT, STDERR}, {STDOUT, STDERR}, {STDOUT}, {STDERR}]),
    st.none() | st.integers(0, 10),
    st.none() | st.integers(0, 10),
)
blocks = st.integers(1, 12)
TAILS = (None, 0, 1, 2, 3, 5, 9, 99)
in_one_folder = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@in_one_folder
@given(segments=segment_lists, wanted=ranges, block=blocks)
def test_reading_agrees_with_the_model(tmp_path: Path, segments: list[Segment], wanted: Range, block: int) -> None:
    log = write_log(tmp_path, segments)
    streams, since, until = wanted
    for tail in TAILS:
        with small_blocks(block):
            got = shown(read(log, streams=streams, tail=tail, since_ns=since, until_ns=until))
        assert got == model(segments, streams, tail, since, until), tail


@in_one_folder
@given(segments=segment_lists, wanted=ranges, block=blocks, steps=st.lists(st.integers(0, 80), max_size=6))
def test_a_log_read_as_it_grows_agrees_with_the_model(
    tmp_path: Path, segments: list[Segment], wanted: Range, block: int, steps: list[int]
) -> None:
    log = write_log(tmp_path, segments)
    total = log.path.stat().st_size
    query = make_query(wanted.streams, None, wanted.since, wanted.until)
    view = log.view()
    with small_blocks(block):
        cursor = Cursor(view, query, starts(view, 0, query))
        sizes = [*(size for size in sorted(steps) if size < total), total]
        got = [byte for size in sizes for byte in shown(cursor.chunks(size))]
    view.close()
    assert got == model(segments, wanted.streams, None, wanted.since, wanted.until)


def text(log: Log, **wanted: object) -> bytes:
    return b"".join(chunk.data for chunk in read(log, **wanted))  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_lines_longer_than_a_block(tmp_path: Path, length: int) -> None:
    line = bytes(i % 251 if i % 251 != 10 else 32 for i in range(length))
    data = b"short\n" + line + b"\n" + b"last"
    log = write_log(tmp_path, [Segment(STDOUT, 1, data)])
    assert text(log, tail=1) == b"last"
    assert text(log, tail=2) == line + b"\nlast"
    assert text(log, tail=3) == data
    assert max(len(chunk.data) for chunk in read(log)) <= BLOCK


def test_a_long_tail_over_many_blocks_and_runs(tmp_path: Path) -> None:
    lines = [b"%d %s\n" % (number, b"x" * (number % 97)) for number in range(30_000)]
    segments = [Segment((STDOUT, STDERR)[n % 2], n + 1, b"".join(lines[n * 10 : n * 10 + 10])) for n in range(3_000)]
    log = write_log(tmp_path, segments)
    assert log.path.stat().st_size > 4 * BLOCK
    with mock.patch.object(View, "read", autospec=True, side_effect=View.read) as reads:
        for tail in (1, 9, 10, 11, 4_999, 29_999, 30_000, 99_999):
            assert text(log, tail=tail) == b"".join(lines[-tail:])
    assert reads.call_count < 100
    out = [line for n, line in enumerate(lines) if n // 10 % 2 == 0]
    assert text(log, tail=12_345, streams={STDOUT}) == b"".join(out[-12_345:])


def test_a_tail_reads_only_the_end_of_a_long_log(tmp_path: Path) -> None:
    log = write_log(tmp_path, [Segment(STDOUT, 1, b"0123456789abcde\n" * 200_000)])
    seen: list[int] = []
    real = os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        data = real(fd, count, offset)
        seen.append(len(data))
        return data

    with mock.patch("os.pread", pread):
        assert len(text(log, tail=100)) == 1600
    assert sum(seen) < 3 * BLOCK


def test_a_tail_of_a_stream_that_is_silent_otherwise_reads_little_of_the_index(tmp_path: Path) -> None:
    segments = [Segment(STDOUT, n + 1, b"some line\n") for n in range(20_000)]
    log = write_log(tmp_path, [*segments, Segment(STDERR, 1, b"the end\n")])
    with mock.patch("wherry.logs.index.unpack_record", wraps=ix.unpack_record) as unpack:
        assert text(log, tail=1) == b"the end\n"
        assert text(log, tail=2) == b"some line\nthe end\n"
    assert unpack.call_count < 5_000


@pytest.mark.parametrize("is_torn", [False, True])
def test_a_record_without_bytes_is_not_believed(tmp_path: Path, *, is_torn: bool) -> None:
    """It may be overwritten when its bytes could not be written, and be seen half overwritten."""
    log = write_log(tmp_path, [Segment(STDOUT, 1, b"one ")])
    index = index_path(log.path)
    settled = index.read_bytes()
    provisional = ix.pack_record(ix.IndexRecord(4, STDERR, 2, 0, True))
    index.write_bytes(settled + (provisional[:20] + bytes(12) if is_torn else provisional))
    view = log.view()
    cursor = Cursor(view, make_query({STDOUT, STDERR}, None, None, None), {STDOUT: 0, STDERR: 0})
    assert list(cursor.chunks(4)) == [Chunk(STDOUT, 1, b"one ", 4)]
    index.write_bytes(settled + ix.pack_record(ix.IndexRecord(4, STDERR if is_torn else STDOUT, 3, 0, True)))
    log.path.write_bytes(b"one two")
    assert list(cursor.chunks(7)) == [Chunk(STDERR if is_torn else STDOUT, 3, b"two", 7)]
    view.close()


def test_a_torn_record_that_is_mended_is_believed(tmp_path: Path) -> None:
    log = write_log(tmp_path, [Segment(STDOUT, 1, b"one"), Segment(STDERR, 2, b"two")])
    good = index_path(log.path).read_bytes()
    index_path(log.path).write_bytes(good[:-32] + bytes(32))
    view = log.view()
    index = view.parts[0].index
    assert index.following(0, 7) == ([ix.IndexRecord(0, STDOUT, 1, 0, True)], 1)
    index_path(log.path).write_bytes(good)
    assert index.following(1, 7) == ([ix.IndexRecord(3, STDERR, 2, 0, True)], 2)
    view.close()


def test_a_bare_file_is_stdout_of_unknown_time(tmp_path: Path) -> None:
    (tmp_path / "bare").write_bytes(b"one\ntwo\n")
    log = Log(tmp_path / "bare", "")
    assert list(read(log)) == [Chunk(STDOUT, 0, b"one\ntwo\n", 8)]
    assert text(log, tail=1) == b"two\n"
    assert text(log, streams={STDERR}) == b""


def test_an_empty_log_has_no_chunk(tmp_path: Path) -> None:
    log = Log(tmp_path / "alpha.log", ID)
    log.create()
    assert list(read(log)) == []
    assert list(read(log, tail=5)) == []


def test_bad_queries_are_refused_at_once(tmp_path: Path) -> None:
    log = Log(tmp_path / "alpha.log", ID)
    with pytest.raises(errors.InvalidRequest, match="-1"):
        read(log, tail=-1)
    with pytest.raises(errors.InvalidRequest, match="streams"):
        read(log, streams=set())
    with pytest.raises(errors.InvalidRequest, match="3"):
        read(log, streams={STDOUT, 3})


def test_a_reader_that_stops_early_leaves_no_descriptor(tmp_path: Path) -> None:
    log = write_log(tmp_path, [Segment(STDOUT, 1, b"x" * (2 * BLOCK))])
    before = os.listdir("/proc/self/fd")
    chunks = read(log)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert os.listdir("/proc/self/fd") == before


def test_a_log_truncated_while_it_is_read_ends_early(tmp_path: Path) -> None:
    log = write_log(tmp_path, [Segment(STDOUT, 1, b"x" * (3 * BLOCK))])
    chunks = read(log)
    assert len(next(chunks).data) == BLOCK
    os.truncate(log.path, BLOCK + 5)
    assert [len(chunk.data) for chunk in chunks] == [5]
