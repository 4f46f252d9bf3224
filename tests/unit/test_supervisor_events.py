"""The history of events and its subscribers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tests.patience import PATIENCE

from wherry.supervisor.events import Action, Event, Events, Instant, Missed
from wherry.supervisor.model import Record
from wherry.supervisor.request import CreateRequest


def record(name: str = "alpha") -> Record:
    request = CreateRequest(rootfs="/r", command=("/bin/true",), labels={"a": "b"})
    return Record(id=name * 8, name=name, request=request, created_ns=1)


async def take(events: AsyncIterator[Event | Missed], number: int) -> list[Event | Missed]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(events) for _ in range(number)]


def numbers(found: list[Event | Missed]) -> list[str]:
    return [f"missed {each.number}" if isinstance(each, Missed) else each.attributes["n"] for each in found]


def emit(events: Events, first: int, last: int) -> None:
    for number in range(first, last):
        events.emit(Action.LOG_GAP, record(), {"n": str(number)})


def test_an_event_has_both_clocks_and_docker_attributes() -> None:
    async def work() -> None:
        events = Events()
        before = Instant.now()
        events.emit(Action.DIE, record(), {"exitCode": "3"})
        (event,) = events.past()
        assert (event.action, event.name, event.container_id) == ("die", "alpha", "alpha" * 8)
        assert event.attributes == {"a": "b", "exitCode": "3", "image": "/r", "name": "alpha"}
        assert before.wall_ns <= event.instant.wall_ns <= Instant.now().wall_ns
        assert before.monotonic_ns <= event.instant.monotonic_ns <= Instant.now().monotonic_ns
        events.emit(Action.OOM, record(), instant=Instant(5, 6))
        assert [each.instant for each in events.past()][1] == Instant(5, 6)

    asyncio.run(work())


def test_a_subscriber_gets_what_comes_after_it_asked_and_the_history_when_it_wants_it() -> None:
    async def work() -> None:
        events = Events()
        emit(events, 0, 2)
        fresh, whole = events.follow(history=False), events.follow(history=True)
        emit(events, 2, 4)
        assert numbers(await take(fresh, 2)) == ["2", "3"]
        assert numbers(await take(whole, 4)) == ["0", "1", "2", "3"]
        waiting = asyncio.create_task(take(fresh, 1))
        await asyncio.sleep(0)
        emit(events, 4, 5)
        assert numbers(await waiting) == ["4"]

    asyncio.run(work())


def test_a_slow_subscriber_is_told_how_many_it_missed_and_the_others_miss_nothing() -> None:
    async def work() -> None:
        events = Events(capacity=4)
        slow, quick = events.follow(history=False), events.follow(history=False)
        seen = []
        for number in range(10):
            emit(events, number, number + 1)
            seen += numbers(await take(quick, 1))
        assert seen == [str(number) for number in range(10)]
        assert numbers(await take(slow, 5)) == ["missed 6", "6", "7", "8", "9"]
        assert numbers(list(events.past())) == ["6", "7", "8", "9"]

    asyncio.run(work())


def test_a_label_cannot_pass_for_an_attribute_of_ours() -> None:
    request = CreateRequest(rootfs="/r", command=("x",), labels={"name": "other", "reason": "none"})
    events = Events()
    loop_free = Record(id="x", name="alpha", request=request, created_ns=1)

    async def work() -> None:
        events.emit(Action.DIE, loop_free, {"reason": "hard_limit"})
        (event,) = events.past()
        assert (event.attributes["name"], event.attributes["reason"]) == ("alpha", "hard_limit")

    asyncio.run(work())
