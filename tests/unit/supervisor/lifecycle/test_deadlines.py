"""``--timeout`` on played processes (``tests/lifeworld.py``), whose clock is not that of the deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lifeworld import World
from tests.playedprocess import LAZY, MINDS

from wherry.errors import InvalidRequest
from wherry.supervisor.containers.record import Reason, Record, State
from wherry.supervisor.containers.request import check

NS = 1_000_000_000


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    logging.disable(logging.CRITICAL)
    world = World()
    monkeypatch.setattr(time, "monotonic_ns", lambda: round(world.loop.time() * NS))
    yield world
    world.close()
    logging.disable(logging.NOTSET)


def started(world: World, seconds: float, **fields: Any) -> str:
    request = world.request(fields.pop("command", LAZY), timeout_seconds=seconds, **fields)
    identity: str = world.run(world.engine.create("a", request)).id
    world.run(world.engine.start(identity))
    return identity


def record_of(world: World, identity: str) -> Record:
    return world.engine.get(identity)


@pytest.mark.parametrize("paused", [False, True])
def test_it_is_killed_when_its_time_is_over_and_not_before(world: World, paused: bool) -> None:
    identity = started(world, 30, command=MINDS)
    if paused:
        world.run(world.engine.pause(identity))
    world.run(asyncio.sleep(29.5))
    assert record_of(world, identity).is_live
    world.run(asyncio.sleep(1))
    record = record_of(world, identity)
    assert (record.state, record.reason, record.exit_code) == (State.EXITED, Reason.TIMED_OUT, 137)


def test_what_ends_in_time_has_ended_as_it_did_and_its_next_run_has_all_of_its_time(world: World) -> None:
    identity = started(world, 30)
    for _ in range(3):
        world.run(asyncio.sleep(20))
        process = world.process_of(identity)
        assert process is not None
        process.end(3)
        world.run(asyncio.sleep(1))
        record = record_of(world, identity)
        assert (record.reason, record.exit_code, record.timed_out) == (Reason.EXITED, 3, False)
        world.run(world.engine.start(identity))
    world.run(asyncio.sleep(31))
    assert record_of(world, identity).reason is Reason.TIMED_OUT


def test_it_holds_over_supervisors(world: World) -> None:
    identity = started(world, 30)
    world.run(asyncio.sleep(10))
    world.kill()
    world.open()
    assert record_of(world, identity).is_live
    world.kill()
    world.loop.run_until_complete(asyncio.sleep(60))
    world.open()
    world.run(asyncio.sleep(1))
    assert record_of(world, identity).reason is Reason.TIMED_OUT


def test_a_supervisor_that_dies_between_the_decision_and_the_kill_changes_nothing(world: World) -> None:
    for things in range(8):
        identity = started(world, 5)
        world.kill_during(asyncio.sleep(6), things)
        world.open()
        world.run(asyncio.sleep(6))
        assert record_of(world, identity).reason is Reason.TIMED_OUT, things
        world.run(world.engine.remove(identity, False))


def test_a_restart_policy_takes_it_for_a_failure(world: World) -> None:
    identity = started(world, 5, restart="on-failure", restart_retries=2)
    world.run(asyncio.sleep(30))
    record = record_of(world, identity)
    assert (record.state, record.reason, record.restart_count) == (State.EXITED, Reason.TIMED_OUT, 2)


@pytest.mark.parametrize("seconds", [0, -1, 1e10, float("nan")])
def test_what_is_no_time_is_refused(world: World, seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="invalid timeout"):
        check(world.request(LAZY, timeout_seconds=seconds))
