"""Readers that are owed every byte, and times that no reader has seen: one log, its consumer's steps made by hand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.logfiles import append, new_buffer

from wherry.logs import STDERR, STDOUT, Chunk, Log, LogOptions, follow, make_pipe, read
from wherry.logs.buffer import Buffer, Piece
from wherry.logs.follower import _Follower
from wherry.logs.holds import ENDING_BYTES, HELD_BYTES, HELD_FILES, HeldBack, files_beyond
from wherry.logs.log import LogState
from wherry.logs.rotation import prune
from wherry.logs.segments import rotated_numbers
from wherry.logs.selection import make_query

ID = "ab" * 32
MOST = HELD_FILES


def opened(path: Path, max_files: int = 2, mode: str = "blocking") -> Log:
    log = Log(path / "alpha.log", ID, LogOptions(max_bytes=4, max_files=max_files, mode=mode))  # type: ignore[arg-type]
    log.create()
    log.open()
    return log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = opened(tmp_path)
    yield log
    log.close()


def fill(log: Log) -> int:
    """Write lines of a file each until the log is held back; returns how many."""
    for number in range(10 * MOST):
        try:
            append(log, STDOUT, b"%03d\n" % number)
        except HeldBack:
            return number
    raise AssertionError("it is never held back")


def collected(log: Log, *options: object) -> list[Chunk]:
    async def main() -> list[Chunk]:
        hold = log.watch(*options)  # type: ignore[arg-type]
        log.finish()
        return [chunk async for chunk in follow(log, hold=hold)]

    return asyncio.run(main())


def test_how_much_is_kept_for_readers() -> None:
    mib = 1 << 20
    assert files_beyond(LogOptions(max_bytes=64 * mib)) * 64 * mib == HELD_BYTES
    assert files_beyond(LogOptions(max_bytes=mib)) * mib == HELD_BYTES
    assert files_beyond(LogOptions(max_bytes=1024 * mib)) == 1
    assert files_beyond(LogOptions(max_bytes=4096)) == HELD_FILES
    assert files_beyond(LogOptions(max_bytes=0)) == 0  # never rotated


def test_a_log_is_held_back_until_its_reader_gets_on(log: Log) -> None:
    """Case 1."""
    called: list[None] = []
    log.on_room = lambda: called.append(None)
    hold = log.watch()
    assert fill(log) == 2 + MOST
    assert called == []
    hold.move_to(3)  # not yet behind the first file
    with pytest.raises(HeldBack):
        append(log, STDOUT, b"late")
    hold.move_to(4)
    assert called
    append(log, STDOUT, b"late")
    with pytest.raises(HeldBack):
        append(log, STDOUT, b"more")
    hold.release()
    hold.release()
    hold.move_to(0)  # nothing comes of what a reader does that has gone
    append(log, STDOUT, b"more")
    assert len(rotated_numbers(log.path)) == 1


def test_the_slowest_reader_counts_and_a_follower_never(log: Log) -> None:
    """Case 1."""
    holds = [log.watch(), log.watch()]
    following = _Follower(log, make_query({STDOUT}, None, None, None), None, None, False)
    assert fill(log) == 2 + MOST
    holds[0].release()
    with pytest.raises(HeldBack):
        append(log, STDOUT, b"late")
    holds[1].release()
    assert asyncio.run(following.look(log.state()))
    for number in range(3 * MOST):
        append(log, STDOUT, b"%03d\n" % number)
    following.close()


def test_a_reader_gets_all_that_was_kept_and_then_it_goes(log: Log) -> None:
    """Case 1."""
    log.keep()
    count = fill(log)
    hold = log.watch(0)
    data = b""

    async def take() -> None:
        nonlocal data
        async for chunk in follow(log, hold=hold):
            assert chunk.lost is None
            data += chunk.data

    log.close()
    log.finish()
    asyncio.run(take())
    assert data == b"".join(b"%03d\n" % number for number in range(count))
    assert len(rotated_numbers(log.path)) == count - 1
    hold.release()
    log.prune()
    assert len(rotated_numbers(log.path)) == 1


def test_what_is_kept_for_nobody_is_let_go(log: Log) -> None:
    log.keep()
    fill(log)
    log.stop_keeping()
    assert len(rotated_numbers(log.path)) == 1
    log.stop_keeping()
    assert log.watch(0).position == 4 * (MOST + 2) - 8  # the oldest that there is


def test_the_end_of_a_container_does_not_wait_for_a_reader(log: Log) -> None:
    """Case 1: what is on its way at that time is written; it is more than a file, but not more than that."""
    called: list[None] = []
    log.on_room = lambda: called.append(None)
    hold = log.watch()
    fill(log)
    log.expect_end()
    assert len(called) == 1
    size = log.size
    for _ in range(100):
        append(log, STDOUT, b"x" * 4096)
    assert log.size == size + 409600
    assert len(rotated_numbers(log.path)) == 1 + MOST
    os.truncate(log.path, ENDING_BYTES)
    append(log, STDOUT, b"last")
    with pytest.raises(HeldBack):
        append(log, STDOUT, b"late")
    hold.release()
    assert len(called) == 2
    append(log, STDOUT, b"late")


def test_in_non_blocking_mode_the_oldest_held_file_goes(tmp_path: Path) -> None:
    """Case 1: and its reader is told."""
    log = opened(tmp_path, mode="non-blocking")
    hold = log.watch()
    total = 3 * MOST
    for number in range(total):
        append(log, STDOUT, b"%03d\n" % number)
    assert len(rotated_numbers(log.path)) == 1 + MOST
    log.close()
    log.finish()

    async def main() -> list[Chunk]:
        return [chunk async for chunk in follow(log, hold=hold)]

    first, *rest = asyncio.run(main())
    assert (first.data, first.lost) == (b"", 4 * (total - 2 - MOST))
    assert b"".join(chunk.data for chunk in rest) == b"".join(b"%03d\n" % n for n in range(total - 2 - MOST, total))
    hold.release()


def test_a_marker_of_the_log_is_told_and_not_the_containers(log: Log) -> None:
    append(log, STDOUT, b"on")
    buffer = new_buffer(1 << 20)
    log.append_gap(buffer, 77)
    append(log, STDERR, b"err")
    chunks = collected(log, 0)
    assert [chunk.data for chunk in chunks if chunk.lost is None] == [b"on", b"err"]
    assert sum(chunk.lost or 0 for chunk in chunks) == 77
    # From the middle of a marker on it is still none of the container's bytes, and counted by somebody else.
    (tail, _) = collected(log, 4)
    assert (tail.lost, tail.data) == (0, b"wherry: 77 bytes lost here]\n")
    buffer.close()


@pytest.mark.parametrize("max_bytes", [4, 100])  # the writer sees it, or rotates first
def test_what_an_administrator_cuts_away_is_told(tmp_path: Path, max_bytes: int) -> None:
    """Case 1: as far as it had not been read."""
    log = Log(tmp_path / "alpha.log", ID, LogOptions(max_bytes=max_bytes))
    log.create()
    log.open()

    async def main() -> None:
        hold = log.watch()
        chunks = follow(log, hold=hold)
        append(log, STDOUT, b"abc")
        assert (await anext(chunks)).data == b"abc"
        append(log, STDOUT, b"d")
        os.truncate(log.path, 1)
        append(log, STDOUT, b"e")
        assert (await anext(chunks)).lost == 1
        assert (await anext(chunks)).data == b"e"
        if max_bytes > 4:
            assert hold.position == 1  # back at the new end of the log

    asyncio.run(main())
    log.close()


def test_what_never_came_to_the_log_is_told(log: Log) -> None:
    append(log, STDOUT, b"abc")
    log.give_up(5)
    assert [(chunk.data, chunk.lost) for chunk in collected(log, 0)] == [(b"abc", None), (b"", 5)]


def test_a_reader_of_bytes_that_nobody_has_told_of_yet_does_not_go_back(log: Log) -> None:
    """The log's size is told after its bytes are there; a rotation in between made a follower read them twice."""

    async def main() -> None:
        append(log, STDOUT, b"one\n")
        state = log.state()
        hold = log.watch(0)
        follower = _Follower(log, make_query({STDOUT}, None, None, None), 0, hold, False)
        append(log, STDOUT, b"two\n")
        unseen = LogState(state.size, False, state.generation)  # of before the rotation
        await follower.look(unseen)
        os.write(os.open(log.path, os.O_WRONLY | os.O_APPEND), b"new")  # as of a write that is not over
        await follower.look(unseen)
        assert b"".join(chunk.data for chunk in await follower.batch()) == b"one\ntwo\nnew"
        assert await follower.look(log.state())
        assert await follower.batch() == []
        follower.close()

    asyncio.run(main())


def test_logs_of_ended_containers_are_pruned_by_the_next_supervisor(tmp_path: Path) -> None:
    """Case 1."""
    log = opened(tmp_path)
    log.watch()
    fill(log)
    log.close()
    (tmp_path / "alpha.log.x").touch()
    (tmp_path / "beta.log.1").touch()
    prune(tmp_path, {"alpha.log": 3, "gone.log": 1})
    assert len(rotated_numbers(log.path)) == 2
    assert (tmp_path / "beta.log.1").exists()
    again = Log(log.path, ID, log.options)
    again.open()  # as of a container that runs on
    assert len(rotated_numbers(log.path)) == 1
    again.close()


# Case 3.


class Captured:
    """Bytes that were captured together, so that they have one time, and come to the log bit by bit."""

    def __init__(self, data: bytes) -> None:
        self.buffer: Buffer = new_buffer(1 << 20)
        read_end, write_end = make_pipe()
        os.write(write_end, data)
        self.buffer.splice(read_end, self.buffer.reserve(STDOUT))
        self.buffer.commit(len(data))
        os.close(read_end)
        os.close(write_end)

    def move(self, log: Log, count: int) -> None:
        while count:
            piece = self.buffer.claim()
            assert isinstance(piece, Piece)
            moved = log.append(self.buffer, piece._replace(size=min(count, piece.size)))
            self.buffer.release(moved)
            count -= moved


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    steps=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["read", "reopen", "nothing"])), min_size=1, max_size=8)
)
@pytest.mark.parametrize("max_bytes", [0, 8])
def test_no_later_byte_has_a_time_that_was_seen_as_the_last(
    tmp_path: Path, max_bytes: int, steps: list[tuple[int, str]]
) -> None:
    """Case 3: whatever is captured together, and whatever happens between two reads."""
    log = Log(tmp_path / "alpha.log", ID, LogOptions(max_bytes=max_bytes, max_files=100))
    log.remove()
    log.create()
    log.open()
    lines = [b"%d\n" % number for number in range(10)]
    source = Captured(b"".join(lines) * 4)
    seen, last, moved = b"", 0, 0
    for count, what in [*steps, (1, "read")]:
        source.move(log, 2 * count)
        moved += 2 * count
        if what == "reopen":  # by another supervisor
            log.close()
            log = Log(tmp_path / "alpha.log", ID, log.options)
            log.open()
        elif what == "read":
            for chunk in read(log, since_ns=last + 1):
                seen += chunk.data
                last = chunk.wall_ns
    assert seen == (b"".join(lines) * 4)[:moved]
    log.close()
    source.buffer.close()


def test_a_reader_does_not_see_what_may_get_company(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 3: in the middle of a write, bytes of the run that it may continue wait."""
    source = Captured(b"1\n2\n")
    source.move(log, 2)
    monkeypatch.setattr(log, "_is_moving", True)
    assert list(read(log)) == []
    monkeypatch.setattr(log, "_is_moving", False)
    (first,) = read(log)
    source.move(log, 2)
    _, second = read(log)
    assert (first.data, second.data) == (b"1\n", b"2\n")
    assert first.wall_ns < second.wall_ns
    source.buffer.close()


def test_what_was_shown_is_not_shown_again_while_bytes_of_its_run_are_written(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 3: a reader that an earlier supervisor had shown more than this one would now."""
    source = Captured(b"1\n2\n")
    source.move(log, 4)
    *_, end = read(log, with_end=True)
    monkeypatch.setattr(log, "_is_moving", True)
    assert log.readable_end() == 0
    assert [(chunk.data, chunk.end) for chunk in read(log, after=end.end, with_end=True)] == [(b"", end.end)]

    async def follow_on() -> list[bytes]:
        following = follow(log, after=end.end, shows_times=True)
        coming = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0.01)
        monkeypatch.setattr(log, "_is_moving", False)
        append(log, STDOUT, b"3\n")
        return [(await coming).data]

    assert asyncio.run(follow_on()) == [b"3\n"]
    source.buffer.close()


def test_a_read_goes_on_where_another_one_ended(log: Log) -> None:
    """Case 3."""
    for number in range(4):
        append(log, STDOUT, b"%03d\n" % number)
    *_, end = read(log, with_end=True)
    assert (end.data, end.end) == (b"", 16)
    assert list(read(log, after=16)) == []
    gone, *rest = read(log, after=2)
    assert (gone.lost, gone.end) == (6, 8)
    assert b"".join(chunk.data for chunk in rest) == b"002\n003\n"
    assert [chunk.data for chunk in read(log, after=13)] == [b"03\n"]
    assert list(read(log, after=99)) == []
