"""Case 24: large answers, and clients that ask for them and do not read."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from wherry.api.docker.views import LISTED_COMMAND
from wherry.api.http import bodies, delivery, pace
from wherry.api.http.delivery import Budget
from wherry.api.http.pace import TURN_SECONDS, Pace
from wherry.api.http.replies import TooManyRepliesError
from wherry.supervisor.containers.record import Record
from wherry.supervisor.containers.request import CreateRequest

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

LONG = "x" * 100_000


def fill(api: Api, number: int, **fields: Any) -> None:
    """Containers on the engine's books; creating them over HTTP takes longer than the test."""

    def add() -> None:
        for each in range(number):
            request = CreateRequest(rootfs="/srv/rootfs", command=("sleep", LONG), **fields)
            record = Record(id=f"{each:064x}", name=f"c{each}", request=request, created_ns=each + 1)
            api.engine.entries[record.name] = type(api.engine.entries["first"])(record)

    api.create("first", "sleep")
    api.call(add)


def ask(api: Api, path: str) -> socket.socket:
    sock = api.connect()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    return sock


def read(sock: socket.socket) -> Any:
    with sock:
        answer = b"".join(iter(lambda: sock.recv(1 << 20), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    return json.loads(body)


def held(api: Api) -> int:
    """Bytes that the server has for clients that do not read."""
    return sum(each.get_write_buffer_size() for each in api.server._http.transports)


def test_a_list_is_made_while_it_is_read(api: Api) -> None:
    """Case 24: a hundred clients that asked and did not read had the whole list kept for each."""
    fill(api, 1000, labels={"a": "b" * 10_000})  # 15 MB as JSON
    readers = [ask(api, "/containers/json?all=1") for _ in range(10)]
    api.until(lambda: sum(each.get_write_buffer_size() > 0 for each in api.server._http.transports) == 10)
    assert api.request("GET", "/_ping").body == b"OK"
    assert api.call(lambda: held(api)) < 10 * 4 * delivery.SMALL
    for reader in readers:
        names = [each["Names"] for each in read(reader)]
        assert names == [["/first"], *(["/c" + str(each)] for each in reversed(range(1000)))]


def test_a_short_list_has_a_length(api: Api) -> None:
    for number in range(3):
        api.create(f"c{number}", "sleep")
        reply = api.request("GET", "/containers/json?all=1")
        assert (len(reply.json()), int(reply.headers["Content-Length"])) == (number + 1, len(reply.body))
    reply = api.request("GET", "/containers/json")
    assert (reply.json(), reply.headers["Content-Length"]) == ([], "2")
    assert len(api.request("GET", "/containers/json?limit=2").json()) == 2


@pytest.mark.parametrize("words", [["echo", LONG], ["echo", *["ab"] * 60_000], [LONG]])
def test_a_list_shows_the_beginning_of_a_long_command(api: Api, words: list[str]) -> None:
    """Case 24."""
    api.create("long", *words)
    (shown,) = api.request("GET", "/containers/json?all=1").json()
    kept = shown["Command"].removesuffix("...")
    assert " ".join(words).startswith(kept.removesuffix(" "))
    assert LISTED_COMMAND - 8 <= len(kept) < len(shown["Command"]) <= LISTED_COMMAND + 4
    assert " ".join(shown["Wherry"]["Command"]) == shown["Command"]
    whole = api.request("GET", "/containers/long/json").json()
    assert [whole["Path"], *whole["Args"]] == whole["Wherry"]["Command"] == words


def test_a_command_that_fits_is_shown_whole(api: Api) -> None:
    for name, words in {"a": ["echo", "x" * (LISTED_COMMAND - 5)], "b": ["echo", ""]}.items():
        api.create(name, *words)
        (shown,) = api.request("GET", f'/containers/json?all=1&filters={{"name":["^{name}$"]}}').json()
        assert shown["Wherry"]["Command"] == words


def test_large_answers_share_a_budget(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 24: what does not fit waits, in its turn, until clients have read what does."""
    api.create("long", *[LONG] * 5)
    size = len(api.request("GET", "/containers/long/json").body)
    budget = cast(Any, api.server._http._handler).budget
    api.until(lambda: budget._free == budget._size)  # also given back
    monkeypatch.setattr(budget, "_size", 2 * size)
    monkeypatch.setattr(budget, "_free", 2 * size)
    readers = [ask(api, "/containers/long/json") for _ in range(6)]
    api.until(lambda: len(budget._waiting) == 4)
    assert api.request("GET", "/_ping").body == b"OK"
    readers.pop(3).close()  # one that waits goes away
    api.until(lambda: len(budget._waiting) == 3)
    for reader in readers:
        assert read(reader)["Args"] == [LONG] * 4
    api.until(lambda: budget._free == 2 * size)


def test_a_client_that_never_reads_is_dropped(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 24."""
    monkeypatch.setattr(delivery, "STALL_SECONDS", 0.05)
    fill(api, 500, labels={"a": "b" * 10_000})
    with ask(api, "/containers/json?all=1"):
        api.until(lambda: len(api.server._http.transports) == 1)
        api.until(lambda: len(api.server._http.transports) == 0)


def test_who_waits_too_long_for_the_budget_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "STALL_SECONDS", 0.01)

    async def work() -> None:
        budget = Budget(10)
        assert budget.take(8)
        with pytest.raises(TooManyRepliesError):
            await budget.wait(5)
        budget.give(8)
        await budget.wait(10_000)  # larger than the budget: alone
        assert not budget.take(1)
        budget.give(10_000)
        assert budget.take(10)

    asyncio.run(work())


def test_a_turn_of_the_loop_is_not_longer_for_many_that_work_in_it() -> None:
    """However many are woken in one turn, those that come too late in it go on in later ones, each in its order."""

    async def work() -> None:
        shared, turns, loop = Pace(), list[tuple[int, int]](), asyncio.get_running_loop()
        turn = 0

        def count() -> None:
            nonlocal turn
            turn += 1
            if len(turns) < 200:
                loop.call_soon(count)

        async def one(number: int) -> None:
            for _ in range(2):
                await shared.turn()
                begin = time.perf_counter()
                while time.perf_counter() - begin < TURN_SECONDS / 20:
                    pass
                turns.append((turn, number))

        loop.call_soon(count)
        await asyncio.gather(*(one(each) for each in range(100)))
        in_one_turn = [each for each, _ in turns]
        assert max(map(in_one_turn.count, in_one_turn)) < 50
        # Who waits is not overtaken.
        assert list(dict.fromkeys(number for _, number in turns)) == list(range(100))

    asyncio.run(work())


def test_who_asks_for_little_waits_for_nobody(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of one container came after a turn of each of a hundred followers."""

    async def never(_: Pace) -> None:
        await asyncio.get_running_loop().create_future()

    fill(api, 3)
    monkeypatch.setattr(Pace, "turn", never)
    monkeypatch.setattr(pace, "SLICE_SECONDS", 60)
    assert len(api.request("GET", "/containers/json?limit=1").json()) == 1


@pytest.mark.parametrize("piece", [b"{}", b"[]", b'""'])
def test_a_body_of_too_many_parts_is_refused(api: Api, piece: bytes) -> None:
    """Case 24: 4 MiB of {} keep the interpreter busy for 200 ms, whatever thread decodes them."""
    body = b'{"Cmd":[' + b",".join([piece] * (2 * bodies.MAX_PARTS + 1)) + b"]}"
    reply = api.request("POST", "/containers/create", body)
    assert (reply.status, "more than 200000 objects and arrays" in reply.json()["message"]) == (400, True)


def test_many_patterns_in_one_filter_are_refused(api: Api) -> None:
    """Case 24: each takes milliseconds for each name, and the event loop waits."""
    reply = api.request("GET", '/containers/json?filters={"name":["a.*","b.*","c.*","d.*","e.*"]}')
    assert (reply.status, reply.json()["message"]) == (400, "invalid filter 'name': 5 patterns, and the most is 4")
