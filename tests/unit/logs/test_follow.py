"""Followers: they see every byte once, end behind the last one, and are nobody else's trouble."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.waiting import wait_until

from wherry import errors
from wherry.logs import STDERR, STDOUT, Chunk, Log, Pipeline, follow, make_pipe
from wherry.logs.follower import BATCH_CHUNKS
from wherry.logs.log import LogState
from wherry.logs.view import BLOCK

ID = "ab" * 32


@pytest.fixture
def capture() -> Iterator[Pipeline]:
    with Pipeline() as running:
        yield running


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log(tmp_path / "alpha.log", ID)
    log.create()
    return log


class Container:
    """Both pipes of a log that is captured."""

    def __init__(self, capture: Pipeline, log: Log) -> None:
        self.log = log
        self.done = threading.Event()
        (out, self.out), (err, self.err) = make_pipe(), make_pipe()
        capture.add(log, out, err, self.done.set)

    def write(self, data: bytes, stream: int = STDOUT) -> None:
        """Returns when the bytes are in the log, so that their order is known."""
        expected = self.log.size + len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self.out if stream == STDOUT else self.err, view) :]
        wait_until(lambda: self.log.size >= expected)

    def exit(self) -> None:
        os.close(self.out)
        os.close(self.err)


@pytest.fixture
def container(capture: Pipeline, log: Log) -> Container:
    return Container(capture, log)


async def collect(chunks: AsyncIterator[Chunk]) -> bytes:
    return b"".join([chunk.data async for chunk in chunks])


async def next_of(chunks: AsyncIterator[Chunk]) -> bytes:
    return (await asyncio.wait_for(anext(chunks), PATIENCE)).data


def has_waiters(log: Log) -> bool:
    return bool(log._waiters)


async def until_waiting(log: Log) -> None:
    async with asyncio.timeout(PATIENCE):
        while not has_waiters(log):  # noqa: ASYNC110  the product has no event for this
            await asyncio.sleep(0)


def test_a_follower_sees_each_byte_and_ends_behind_the_last(container: Container) -> None:
    async def main() -> None:
        chunks = follow(container.log)
        container.write(b"one\n")
        assert await next_of(chunks) == b"one\n"
        container.write(b"two\n", STDERR)
        assert await next_of(chunks) == b"two\n"
        container.write(b"three")
        container.exit()
        assert await next_of(chunks) == b"three"
        with pytest.raises(StopAsyncIteration):
            await next_of(chunks)

    asyncio.run(main())


def test_a_follower_waits_without_polling(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[LogState] = []
    real = Log.state

    def state(log: Log) -> LogState:
        looks.append(real(log))
        return looks[-1]

    async def main() -> None:
        task = asyncio.create_task(collect(follow(container.log)))
        await until_waiting(container.log)
        before = len(looks)
        await asyncio.sleep(0.05)
        assert len(looks) == before
        container.exit()
        assert await task == b""

    monkeypatch.setattr(Log, "state", state)
    asyncio.run(main())


def test_many_followers_see_the_same(container: Container) -> None:
    data = [b"%d " % number * (number % 300) + b"\n" for number in range(2_000)]

    def write() -> None:
        for line in data:
            container.write(line)

    async def main() -> None:
        tasks = [asyncio.create_task(collect(follow(container.log))) for _ in range(30)]
        writer = threading.Thread(target=write)
        writer.start()
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(collect(follow(container.log))) for _ in range(10)]
        await asyncio.to_thread(writer.join)
        tasks += [asyncio.create_task(collect(follow(container.log))) for _ in range(10)]
        container.exit()
        assert set(await asyncio.gather(*tasks)) == {b"".join(data)}

    asyncio.run(main())
    assert not has_waiters(container.log)


def test_a_follower_may_begin_before_the_container(capture: Pipeline, log: Log) -> None:
    async def main() -> None:
        task = asyncio.create_task(collect(follow(log)))
        await until_waiting(log)
        container = Container(capture, log)
        container.write(b"hello")
        container.exit()
        assert await asyncio.wait_for(task, PATIENCE) == b"hello"

    asyncio.run(main())


def test_following_a_finished_log_is_reading_it(container: Container) -> None:
    with pytest.raises(errors.InvalidRequest, match="-5"):
        follow(container.log, tail=-5)
    container.write(b"one\ntwo\nthree\n")
    container.exit()
    assert container.done.wait(PATIENCE)
    again = Log(container.log.path, ID)
    again.finish()  # what a supervisor says of a container that ended before it came
    for log in (container.log, again):
        assert asyncio.run(collect(follow(log))) == b"one\ntwo\nthree\n"
        assert asyncio.run(collect(follow(log, tail=2))) == b"two\nthree\n"
        assert asyncio.run(collect(follow(log, streams={STDERR}))) == b""


def test_a_tail_is_followed_by_what_comes(container: Container) -> None:
    async def main() -> None:
        container.write(b"one\ntwo\n")
        container.write(b"err\n", STDERR)
        last, nothing = follow(container.log, tail=2), follow(container.log, tail=0)
        tail = [await next_of(last), await next_of(last)]
        assert tail == [b"two\n", b"err\n"]
        waiting = asyncio.create_task(next_of(nothing))
        await until_waiting(container.log)
        container.write(b"new")
        assert await waiting == b"new"
        assert await next_of(last) == b"new"
        container.exit()
        assert await collect(last) == await collect(nothing) == b""

    asyncio.run(main())


def test_a_follower_far_behind_catches_up_in_bounded_steps(container: Container) -> None:
    line = b"x" * 99 + b"\n"
    container.write(line * 50_000)

    async def main() -> None:
        sizes = []
        chunks = follow(container.log)
        async for chunk in chunks:
            sizes.append(len(chunk.data))
            if sum(sizes) == len(line) * 50_000:
                container.write(line)
                container.exit()
        assert sum(sizes) == len(line) * 50_001
        assert max(sizes) <= BLOCK
        assert await collect(follow(container.log, tail=40_000)) == line * 40_000

    asyncio.run(main())


def test_a_stalled_follower_holds_nobody_up(container: Container) -> None:
    async def main() -> None:
        stalled, other = follow(container.log), follow(container.log)
        container.write(b"first")
        assert await next_of(stalled) == await next_of(other) == b"first"
        written = 5
        while written < 20 * BLOCK:
            container.write(b"y" * BLOCK)
            written += BLOCK
        container.exit()
        assert len(await collect(other)) == written - 5
        assert container.done.is_set()
        assert len(await collect(stalled)) == written - 5

    asyncio.run(main())


def test_a_cancelled_follower_leaves_nothing(container: Container) -> None:
    container.write(b"z" * (8 * BLOCK))

    async def main() -> None:
        # In asyncio.run's own executor; its threads are made first, so that they do not count.
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01) for _ in range(8)))
        before = os.listdir("/proc/self/fd")
        for steps in range(40):
            task = asyncio.create_task(collect(follow(container.log)))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        task = asyncio.create_task(collect(follow(container.log, tail=0)))
        await until_waiting(container.log)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not has_waiters(container.log)
        assert os.listdir("/proc/self/fd") == before

    asyncio.run(main())
    container.write(b"goes on")
    container.exit()
    assert container.done.wait(PATIENCE)


def test_a_follower_that_breaks_off_leaves_nothing(container: Container) -> None:
    async def main() -> None:
        container.write(b"one")
        before = os.listdir("/proc/self/fd")
        async with aclosing(follow(container.log)) as chunks:  # type: ignore[type-var]
            async for _ in chunks:
                break
        assert os.listdir("/proc/self/fd") == before

    asyncio.run(main())
    container.exit()


def test_a_closed_loop_does_not_break_capture(container: Container, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(collect(follow(container.log)))
    while not has_waiters(container.log):
        loop.run_until_complete(asyncio.sleep(0))
    orphan = container.log._waiters.copy()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    container.log._waiters |= orphan  # as if the loop had been closed with the follower still in it
    container.write(b"goes on")
    container.exit()
    assert container.done.wait(PATIENCE)
    assert caplog.text == ""


def test_a_broken_waker_does_not_break_capture(container: Container, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("from the test")

    assert container.log.wait(fail, container.log.state())
    container.write(b"goes on")
    container.exit()
    assert container.done.wait(PATIENCE)
    assert "cannot be woken" in caplog.text


def test_a_truncated_log_is_followed_from_its_new_end(container: Container) -> None:
    async def main() -> None:
        chunks = follow(container.log)
        container.write(b"0123456789")
        assert await next_of(chunks) == b"0123456789"
        os.truncate(container.log.path, 0)
        os.write(container.out, b"new")
        assert await next_of(chunks) == b"new"
        wait_until(lambda: container.log.size == 3)
        os.truncate(container.log.path, 2)
        os.write(container.out, b"W")
        assert await next_of(chunks) == b"W"
        container.exit()
        assert await collect(chunks) == b""

    asyncio.run(main())


def test_an_unlinked_log_is_followed_on(container: Container) -> None:
    async def main() -> None:
        chunks = follow(container.log)
        container.write(b"one")
        assert await next_of(chunks) == b"one"
        container.log.path.unlink()
        late = follow(container.log)
        assert await next_of(late) == b"one"
        container.write(b"two")
        container.exit()
        assert await collect(chunks) == await collect(late) == b"two"

    asyncio.run(main())
    with pytest.raises(errors.NotFound, match="is gone"):
        asyncio.run(collect(follow(container.log)))


def test_a_follower_ends_at_the_end_of_its_range(container: Container) -> None:
    async def main() -> None:
        container.write(b"early\n")
        past = time.time_ns()
        wait_until(lambda: time.time_ns() > past)
        assert await collect(follow(container.log, until_ns=past)) == b"early\n"
        soon = time.time_ns() + 60_000_000
        assert await collect(follow(container.log, until_ns=soon)) == b"early\n"
        assert time.time_ns() >= soon

    asyncio.run(main())
    container.exit()


def test_since_hides_what_came_before(container: Container) -> None:
    async def main() -> None:
        container.write(b"old\nhalf ")
        time.sleep(0.006)  # longer than the interval in which a run keeps its time  # noqa: ASYNC251
        since = time.time_ns()
        chunks = follow(container.log, since_ns=since)
        container.write(b"line\nnew\n")
        assert await next_of(chunks) == b"new\n"
        container.exit()
        assert await collect(chunks) == b""

    asyncio.run(main())


def test_the_loop_runs_on_while_a_container_is_loud(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the follower that is shown something nor the one that is not ever finds a moment to wait."""
    monkeypatch.setattr(Log, "wait", lambda *_: False)

    async def main() -> None:
        tasks = [asyncio.create_task(collect(follow(container.log, streams={s}))) for s in (STDOUT, STDERR)]
        for _ in range(50):
            await asyncio.sleep(0)  # never comes back if a follower keeps the loop to itself
            container.write(b"x")
        container.exit()
        assert await asyncio.gather(*tasks) == [b"x" * 50, b""]

    asyncio.run(main())


def test_the_loop_runs_on_while_a_follower_catches_up(container: Container) -> None:
    for number in range(600):
        container.write(b"a", (STDOUT, STDERR)[number % 2])
    container.exit()
    assert container.done.wait(PATIENCE)  # so that the follower has nothing to wait for

    async def main() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counter = asyncio.create_task(count())
        await asyncio.sleep(0)
        before = turns
        assert len(await collect(follow(container.log))) == 600
        counter.cancel()
        assert turns - before >= 600 // BATCH_CHUNKS

    asyncio.run(main())
