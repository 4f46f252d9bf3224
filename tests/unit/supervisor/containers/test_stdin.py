"""The write end of a standard input, with clients that are lists."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Iterator

import pytest

from wherry.supervisor.containers.stdin import Stdin


class Client:
    """Sends these pieces, and then, unless it ``stays``, its end."""

    def __init__(self, *pieces: bytes, stays: bool = False) -> None:
        self.pieces = list(pieces)
        self.stays = stays
        self.was_refused = asyncio.Event()

    async def read(self) -> bytes:
        if self.pieces:
            return self.pieces.pop(0)
        if self.stays:
            await asyncio.Event().wait()
        return b""

    def refuse(self) -> None:
        self.was_refused.set()


class Pipe:
    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.let_go = 0

    def stdin(self, *, once: bool) -> Stdin:
        return Stdin(self.write_end, once=once, let_go=self.count)

    def count(self) -> None:
        self.let_go += 1

    async def read(self) -> bytes:
        return await asyncio.to_thread(os.read, self.read_end, 1 << 20)

    def is_at_end(self) -> bool:
        poll = select.poll()
        poll.register(self.read_end, select.POLLIN)
        return any(events == select.POLLHUP for _, events in poll.poll(0))


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.read_end)


def test_once_is_until_the_first_client_ends(pipe: Pipe) -> None:
    async def scenario() -> None:
        stdin = pipe.stdin(once=True)
        stdin.feed(Client(b"a", b"b"))
        assert pipe.let_go == 1  # from now on the shim does not hold it open
        assert await pipe.read() in {b"a", b"ab"}
        while not pipe.is_at_end():
            await pipe.read()
        late = Client(b"c")
        stdin.feed(late)
        assert late.was_refused.is_set()

    asyncio.run(scenario())


def test_else_it_stays_open(pipe: Pipe) -> None:
    async def scenario() -> None:
        stdin = pipe.stdin(once=False)
        for data in (b"a", b"b"):
            stdin.feed(Client(data))
            assert await pipe.read() == data
        stdin.missed()
        await asyncio.sleep(0)
        assert (pipe.let_go, pipe.is_at_end()) == (0, False)
        stdin.end()
        assert (pipe.let_go, pipe.is_at_end()) == (1, True)

    asyncio.run(scenario())


def test_the_only_client_never_came(pipe: Pipe) -> None:
    async def scenario() -> None:
        pipe.stdin(once=True).missed()
        assert (pipe.let_go, pipe.is_at_end()) == (1, True)

    asyncio.run(scenario())


def test_a_piece_that_does_not_fit_waits_and_is_not_mixed(pipe: Pipe) -> None:
    async def scenario() -> None:
        stdin = pipe.stdin(once=False)
        size = 1 << 18
        stdin.feed(Client(b"a" * size))
        stdin.feed(Client(b"b" * size))
        data = b""
        while len(data) < 2 * size:
            data += await pipe.read()
        assert data == b"a" * size + b"b" * size
        stdin.close()

    asyncio.run(scenario())


def test_closed_while_clients_wait(pipe: Pipe) -> None:
    """For room, for their turn, for their next piece: each is told, and the descriptor's number is free."""

    async def scenario() -> None:
        stdin = pipe.stdin(once=False)
        clients = [Client(bytes(1 << 20)), Client(b"second"), Client(stays=True)]
        for client in clients:
            stdin.feed(client)
        await asyncio.sleep(0)
        stdin.close()
        stdin.close()
        again, other = os.pipe()  # the number is used again
        for client in clients:
            await client.was_refused.wait()
        assert os.write(other, b"x") == 1
        for descriptor in (again, other):
            os.close(descriptor)
        assert pipe.let_go == 0

    asyncio.run(scenario())


def test_closed_before_a_client_had_a_turn(pipe: Pipe) -> None:
    async def scenario() -> None:
        stdin, client = pipe.stdin(once=True), Client(b"too late")
        stdin.feed(client)
        stdin.close()
        await client.was_refused.wait()
        assert await pipe.read() == b""

    asyncio.run(scenario())


def test_a_container_that_has_closed_its_end() -> None:
    async def scenario() -> None:
        pipe = Pipe()
        stdin = pipe.stdin(once=False)
        waiting = Client(bytes(1 << 20))
        stdin.feed(waiting)
        await asyncio.sleep(0)
        os.close(pipe.read_end)
        await waiting.was_refused.wait()
        assert pipe.let_go == 1
        late = Client(b"x")
        stdin.feed(late)
        assert late.was_refused.is_set()

    asyncio.run(scenario())


def test_one_that_had_ended_before_a_take_over() -> None:
    async def scenario() -> None:
        client = Client(b"x")
        stdin = Stdin(-1, once=True, let_go=lambda: pytest.fail("there is nothing to let go of"))
        stdin.feed(client)
        stdin.missed()
        stdin.close()
        assert client.was_refused.is_set()

    asyncio.run(scenario())
