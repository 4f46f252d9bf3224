"""What an exec writes on its way to who reads: all of it, for as long as it is owed, and nobody is held up for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from wherry.supervisor.processes import output
from wherry.supervisor.processes.output import Output

Test = Callable[[Output, int, int], Coroutine[Any, Any, None]]


def played(test: Test) -> None:
    """``test`` has the write ends of its stdout and stderr, which it may close itself."""

    async def run() -> None:
        pairs = {stream: os.pipe() for stream in (1, 2)}
        writers = [writer for _, writer in pairs.values()]
        for writer in writers:
            os.set_blocking(writer, False)
        read = Output({stream: reader for stream, (reader, _) in pairs.items()})
        try:
            async with asyncio.timeout(60):
                await test(read, *writers)
        finally:
            read.close()
            for writer in writers:
                with contextlib.suppress(OSError):
                    os.close(writer)

    asyncio.run(run())


async def _all(read: Output) -> list[tuple[int, bytes]]:
    pieces = []
    while (piece := await read.read()) is not None:
        pieces.append(piece)
    return pieces


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time after the end is over at once."""
    monkeypatch.setattr(output, "_AFTER_END_SECONDS", 0.0)


def test_all_that_it_writes_up_to_the_end() -> None:
    async def test(read: Output, out: int, err: int) -> None:
        os.write(out, b"one")
        os.write(err, b"two")
        os.close(out)
        os.close(err)
        assert await _all(read) == [(1, b"one"), (2, b"two")]

    played(test)


@pytest.mark.usefixtures("no_patience")
def test_a_reader_that_comes_late_gets_what_the_process_had_written_and_no_more() -> None:
    """Others hold both pipes and go on writing."""

    async def test(read: Output, out: int, err: int) -> None:
        os.write(out, b"1" * 40_000)
        os.write(err, b"2" * 50)
        read.process_ended()
        await asyncio.sleep(0.01)
        os.write(out, b"later")
        os.write(err, b"later")
        assert await _all(read) == [(1, b"1" * 40_000), (2, b"2" * 50)]
        with pytest.raises(BrokenPipeError):
            os.write(out, b"still there?")

    played(test)


def test_others_that_never_stop_do_not_put_off_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream after the other always has something: there is nothing to wait for, and the time is over all the
    same.
    """
    monkeypatch.setattr(output, "_AFTER_END_SECONDS", 0.05)

    async def test(read: Output, out: int, err: int) -> None:
        read.process_ended()
        count = 0
        while True:
            for writer in (out, err):
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    os.write(writer, b"x")
            if await read.read() is None:
                break
            count += 1
        assert count > 0

    played(test)


def test_a_reader_that_waits_is_told_of_the_end() -> None:
    async def test(read: Output, out: int, _err: int) -> None:
        reading = asyncio.ensure_future(_all(read))
        await asyncio.sleep(0.01)
        read.process_ended()
        await asyncio.sleep(0.01)
        os.write(out, b"the daemon says so")
        assert await reading == [(1, b"the daemon says so")]

    played(test)


def test_what_nobody_reads_is_drained_and_others_are_served_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes without end: whoever reads never finds the pipe empty."""
    reads = 0

    async def test(read: Output, out: int, _err: int) -> None:
        real = os.read

        def refilled(descriptor: int, most: int) -> bytes:
            nonlocal reads
            reads += 1
            assert reads < 1000, "nobody else has had a turn"
            piece = real(descriptor, most)
            os.write(out, piece)
            return piece

        os.write(out, b"x" * 1000)
        monkeypatch.setattr(os, "read", refilled)
        draining = asyncio.ensure_future(read.drain())
        for _ in range(20):
            await asyncio.sleep(0)
        assert 0 < reads < 20
        assert not draining.done()
        draining.cancel()
        await asyncio.wait([draining])

    played(test)
