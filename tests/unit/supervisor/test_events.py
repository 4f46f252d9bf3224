"""The history of events and its subscribers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tests.patience import PATIENCE

from wherry.supervisor.containers.record import Record
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.events import BURST, Action, Event, Events, Instant, Missed
from wherry.supervisor.quota import Quota


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
        events.emit(Action.UPDATE, record(), {"n": str(number)})


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


def test_a_container_that_storms_leaves_the_others_their_history() -> None:
    """Case 27: thirty crossings a second pushed all else out of the ring in four minutes."""

    async def work() -> None:
        events = Events(capacity=1024, quota=Quota(10**9, 10**9))
        events.emit(Action.START, record("calm"))
        for _ in range(20_000):
            events.emit(Action.SOFT_LIMIT, record("storm"))
        events.emit(Action.DIE, record("calm"))
        calm = [event.action for event in events.past() if event.name == "calm"]
        assert calm == ["start", "die"]
        assert len(list(events.past())) == 1024

    asyncio.run(work())


def test_what_a_container_provokes_is_told_so_often_and_then_added_up() -> None:
    """Case 27: the last one is told, with the number of those that were not."""

    async def work() -> None:
        events = Events(quota=Quota(BURST, 50))
        following = events.follow(history=True)
        told = [events.emit(Action.SOFT_LIMIT, record(), {"n": str(number)}) for number in range(100)]
        assert told == [True] * BURST + [False] * (100 - BURST)
        assert not events.emit(Action.SOFT_LIMIT_CLEARED, record(), {"n": "last"})
        assert events.emit(Action.SOFT_LIMIT, record("calm"), {"n": "other"})
        found = await take(following, BURST + 2)
        assert numbers(found) == [*map(str, range(BURST)), "other", "last"]
        last = found[-1]
        assert isinstance(last, Event)
        assert (last.action, last.own["suppressed"]) == ("soft-limit-cleared", str(100 - BURST))

    asyncio.run(work())


def test_what_was_held_back_comes_before_the_end() -> None:
    async def work() -> None:
        events = Events(quota=Quota(1, 0.001))
        for kind in (Action.OOM_CHILD, Action.LOG_GAP):
            for number in range(3):
                events.emit(kind, record(), {"n": f"{kind} {number}"})
        events.emit(Action.DIE, record(), {"n": "die"})
        assert numbers(list(events.past())) == ["oom-child 0", "log-gap 0", "oom-child 2", "log-gap 2", "die"]
        assert [event.own.get("suppressed") for event in events.past()] == [None, None, "1", "1", None]

    asyncio.run(work())


def test_what_had_gone_before_a_subscriber_came_is_not_missed_by_it() -> None:
    async def work() -> None:
        events = Events(capacity=4)
        emit(events, 0, 10)
        following = events.follow(history=True)
        emit(events, 10, 13)
        assert numbers(await take(following, 4)) == ["9", "10", "11", "12"]
        emit(events, 13, 20)
        assert numbers(await take(following, 5)) == ["missed 3", "16", "17", "18", "19"]

    asyncio.run(work())


def test_labels_are_not_copied_into_each_event() -> None:
    """Case 27: what 8,192 events hold does not grow with the labels."""

    async def work() -> None:
        events, told = Events(), record()
        for _ in range(3):
            events.emit(Action.UPDATE, told)
        assert all(event.labels is told.request.labels for event in events.past())

    asyncio.run(work())
