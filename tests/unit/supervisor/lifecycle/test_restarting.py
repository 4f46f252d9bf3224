"""Restart policies on played processes (``tests/lifeworld.py``): who is started again, when, how often, and by whom."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from tests.lifeworld import World
from tests.playedprocess import FAILS, LAZY, MINDS

from wherry.errors import Conflict, InvalidRequest, StartFailed
from wherry.supervisor.containers import restart_policy
from wherry.supervisor.containers.record import Reason, Record, State
from wherry.supervisor.containers.request import check

POLICIES = ("no", "on-failure", "always", "unless-stopped")
SECOND = 1_000_000_000


@pytest.fixture
def world() -> Iterator[World]:
    logging.disable(logging.CRITICAL)
    world = World()
    yield world
    world.close()
    logging.disable(logging.NOTSET)


def started(world: World, policy: str, retries: int = 0, command: str = LAZY) -> str:
    request = world.request(command, restart=policy, restart_retries=retries)
    identity: str = world.run(world.engine.create("a", request)).id
    world.run(world.engine.start(identity))
    return identity


def record_of(world: World, identity: str) -> Record:
    return world.engine.get(identity)


def end(world: World, identity: str, code: int) -> None:
    process = world.process_of(identity)
    assert process is not None
    process.end(code)
    world.run(asyncio.sleep(0.01))


def played(world: World) -> int:
    """How many starts the world has been told of."""
    return sum(event.action == "start" for event in world.told)


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_who_is_started_again(world: World, policy: str, code: int) -> None:
    identity = started(world, policy)
    end(world, identity, code)
    again = policy in ("always", "unless-stopped") or (policy == "on-failure" and code != 0)
    assert record_of(world, identity).state is (State.RESTARTING if again else State.EXITED)
    world.settle()
    record = record_of(world, identity)
    assert (record.state, record.restart_count) == ((State.RUNNING, 1) if again else (State.EXITED, 0))
    assert played(world) == 1 + again


def test_each_start_waits_twice_as_long_and_after_a_long_run_begins_anew(world: World) -> None:
    identity = started(world, "always")
    delays = []
    for _ in range(12):
        end(world, identity, 1)
        delays.append(record_of(world, identity).restart_delay_ns)
        world.run(asyncio.sleep(delays[-1] / 1e9 + 0.01))
        assert record_of(world, identity).state is State.RUNNING
    assert delays == [min(SECOND // 10 << number, 60 * SECOND) for number in range(12)]
    assert restart_policy.next_delay(60 * SECOND, 10 * SECOND) == SECOND // 10
    assert restart_policy.next_delay(SECOND // 10, 10 * SECOND - 1) == SECOND // 5


def test_a_failing_container_has_as_many_retries_as_asked_for(world: World) -> None:
    identity = started(world, "on-failure", 3)
    for count in (1, 2, 3):
        end(world, identity, 1)
        world.settle()
        assert (record_of(world, identity).state, record_of(world, identity).restart_count) == (State.RUNNING, count)
    end(world, identity, 1)
    world.settle()
    assert (record_of(world, identity).state, record_of(world, identity).restart_count) == (State.EXITED, 3)
    world.run(world.engine.start(identity))
    assert record_of(world, identity).restart_count == 0


@pytest.mark.parametrize("how", ["stop", "kill", "kill with its stop signal"])
def test_what_a_client_ends_stays_down(world: World, how: str) -> None:
    identity = started(world, "always", command=MINDS)
    engine = world.engine
    number = signal.SIGKILL if how == "kill" else signal.SIGTERM
    world.run(engine.stop(identity) if how == "stop" else engine.kill(identity, number))
    world.settle()
    record = record_of(world, identity)
    assert (record.state, record.restart_count, record.kept_down) == (State.EXITED, 0, True)
    world.run(engine.start(identity))
    world.run(engine.kill(identity, signal.SIGUSR1))  # which means nothing
    end(world, identity, 0)
    world.settle()
    assert record_of(world, identity).state is State.RUNNING


@pytest.mark.parametrize("how", ["stop", "kill", "remove by force", "restart", "start", "update"])
def test_a_client_can_come_between(world: World, how: str) -> None:
    identity = started(world, "always")
    end(world, identity, 1)
    engine = world.engine
    refused: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: engine.remove(identity, False),
        lambda: engine.pause(identity),
        lambda: engine.kill(identity, signal.SIGUSR1),
        lambda: engine.processes(identity, "-ef"),
    ]
    for call in refused:
        with pytest.raises(Conflict, match="is restarting"):
            world.run(call())
    waiting = world.loop.create_task(engine.wait(identity, "not-running"))
    world.run(asyncio.sleep(0))
    assert not waiting.done()
    calls: dict[str, Any] = {
        "stop": lambda: engine.stop(identity),
        "kill": lambda: engine.kill(identity, signal.SIGKILL),
        "remove by force": lambda: engine.remove(identity, True),
        "restart": lambda: engine.restart(identity),
        "start": lambda: engine.start(identity),
        "update": lambda: engine.update(identity, {"restart": "no"}),
    }
    world.run(calls[how]())
    assert world.run(asyncio.wait_for(waiting, 1)).exit_code == 1
    world.settle()
    if how == "remove by force":
        assert world.engine.list() == []
    else:
        starts = how in ("restart", "start")
        assert record_of(world, identity).state is (State.RUNNING if starts else State.EXITED)
        assert record_of(world, identity).restart_count == (0 if starts else 1)
        assert played(world) == 1 + starts


def test_a_start_that_fails_is_not_tried_again(world: World) -> None:
    request = world.request(FAILS, restart="always")
    identity = world.run(world.engine.create("a", request)).id
    with pytest.raises(StartFailed):
        world.run(world.engine.start(identity))
    world.settle()
    record = record_of(world, identity)
    assert (record.state, record.reason, record.restart_count) == (State.EXITED, Reason.START_FAILED, 0)


@pytest.mark.parametrize("by_client", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_next_supervisor_starts_what_a_shutdown_has_stopped(world: World, policy: str, by_client: bool) -> None:
    identity = started(world, policy)
    if by_client:
        world.run(world.engine.stop(identity))
    assert world.run(world.engine.close()) == []
    assert record_of(world, identity).state is State.EXITED
    world.has_new_shim = True
    world.open()
    world.settle()
    runs = policy == "always" or (policy == "unless-stopped" and not by_client)
    assert record_of(world, identity).state is (State.RUNNING if runs else State.EXITED)
    assert record_of(world, identity).restart_count == 0


def test_a_supervisor_that_takes_over_does_not_start_what_a_client_has_stopped(world: World) -> None:
    """Its shim lives: nothing has begun anew."""
    identity = started(world, "always")
    world.run(world.engine.stop(identity))
    world.kill()
    world.open()
    world.settle()
    assert record_of(world, identity).state is State.EXITED


def test_an_end_without_a_supervisor_and_the_death_of_the_shim_are_ends_as_well(world: World) -> None:
    identity = started(world, "on-failure")
    process = world.process_of(identity)
    assert process is not None
    world.kill()
    process.end(1)
    world.open()
    world.settle()
    assert (record_of(world, identity).state, record_of(world, identity).restart_count) == (State.RUNNING, 1)
    world.kill()
    world.kill_shim()
    world.open()
    world.settle()
    assert (record_of(world, identity).state, record_of(world, identity).restart_count) == (State.RUNNING, 2)


def test_supervisors_killed_at_any_moment_lose_no_restart_and_count_none_twice(world: World) -> None:
    """After each thing that a restart does to the world: from the end on, up to the command that runs again."""
    identity = started(world, "always")
    things = count = 0
    while things < 60:
        process = world.process_of(identity)
        assert process is not None
        process.end(1)
        world.kill_during(asyncio.sleep(61), things)
        world.open()
        world.settle()
        world.settle()
        count += 1
        record = record_of(world, identity)
        assert (record.state, record.restart_count) == (State.RUNNING, count), things
        assert sum(each.is_alive for each in world.slots.values()) == 1
        things += 1
    assert world.run(world.engine.stop(identity))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"restart": "often"}, "unknown policy 'often'"),
        ({"restart": "always", "restart_retries": 3}, "for on-failure only"),
        ({"restart": "on-failure", "restart_retries": -1}, "-1 is not a number of retries"),
        ({"restart": "always", "auto_remove": True}, "removed when it ends"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(world: World, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        check(world.request(LAZY, **fields))
