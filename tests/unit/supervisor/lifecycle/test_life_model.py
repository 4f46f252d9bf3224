"""A model of containers' lives: random calls, ends of processes, kills of supervisors and shims, as hypothesis finds.

The real engine, records, event log, starts, ends and take-overs on played processes (``tests/lifeworld.py``), against
``Model``, which knows what each call does to state, reason and exit code, what it is refused with, and which events it
tells. A call runs to its end, or its supervisor is killed in the middle of it; whoever takes over has it then as it was
before the call, or as it would be after, or ended. Every call is also cut off after each thing that it does to the
world, from each state.

Always true: the record in the database is the one in memory; what an event tells was in the database before; guards
say what the model says; a process lives if and only if its container does, and is frozen if and only if that is paused;
names and logs are each one container's; who waits for an end is told that very end.

Not covered: calls that overlap (``tests/root`` has some); memory limits and logs, which have models of their own.

WHERRY_CHAOS=1 explores far more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.exploring import IS_CHAOS, exploration
from tests.lifeworld import FAILS, LAZY, MINDS, Process, World

from wherry.errors import Conflict, InvalidRequest, NameInUse, NotFound, NotKilled, StartFailed, WherryError
from wherry.supervisor.containers import states
from wherry.supervisor.containers.record import End, Reason, Record, State
from wherry.supervisor.events import Action, Event

NAMES = ("a", "b", "c")
WHICH = st.integers(0, len(NAMES) - 1)
TERM, KILL, USR1 = int(signal.SIGTERM), int(signal.SIGKILL), int(signal.SIGUSR1)
Told = tuple[str, dict[str, str]]
Refusal = type[WherryError] | None


def kill(number: int) -> Told:
    return "kill", {"signal": str(number)}


class Model:
    """One container. Each method is a call: it returns what the call raises, and adds to ``told`` what it tells."""

    def __init__(self, id_: str, name: str, command: str, *, goes: bool) -> None:
        self.id = id_
        self.name = name
        self.command = command
        self.goes = goes
        """It removes itself when it has ended."""
        self.state = State.CREATED
        self.reason = Reason.NONE
        self.exit_code: int | None = None
        self.is_stuck = self.is_killed = self.is_asked = self.is_gone = False
        self.told: list[Told] = [("create", {})]
        self.waits: list[tuple[str, asyncio.Task[End]]] = []
        self.ends: list[tuple[Reason, int | None]] = []

    @property
    def is_live(self) -> bool:
        return self.state in (State.RUNNING, State.PAUSED)

    def start(self, *, again: bool = False) -> Refusal:
        if self.state is State.PAUSED:
            return Conflict
        if self.is_live:
            return None
        self.is_stuck = self.is_killed = self.is_asked = False
        if self.command == FAILS:
            self._end(Reason.START_FAILED, 127)
            return StartFailed
        self.state, self.reason, self.exit_code = State.RUNNING, Reason.NONE, None
        self.told.append(("start", {}))
        return None

    def end(self, code: int, reason: Reason = Reason.EXITED, *, stays: bool = False) -> None:
        self._end(Reason.STOPPED if self.is_asked else reason, code, stays=stays)

    def _end(self, reason: Reason, code: int | None, *, stays: bool = False) -> None:
        self.state, self.reason, self.exit_code = State.EXITED, reason, code
        self.is_stuck = self.is_killed = False
        self.told.append(("die", {"exitCode": "" if code is None else str(code), "reason": str(reason)}))
        if reason is not Reason.START_FAILED:  # which is no exit: who waits for one waits on
            self.ends.append((reason, code))
        if self.goes and not stays:
            self._go()

    def _go(self) -> None:
        self.is_gone = True
        self.told.append(("destroy", {}))

    def stop(self, seconds: float | None, *, stays: bool = False) -> Refusal:
        if not self.is_live:
            return None
        self.is_asked = True
        minds = self.command == MINDS
        if seconds is not None or minds:
            self.told.append(kill(TERM))
            self._let_go()
            if minds and not self.is_stuck and seconds != 0:
                self.end(0, stays=stays)
        if self.is_live:
            refused = self._kill(0 if minds and not self.is_stuck and seconds == 0 else 137, stays=stays)
            if refused:
                return refused
        self.told.append(("stop", {}))
        return None

    def _let_go(self) -> None:
        if self.state is State.PAUSED:
            self.state = State.RUNNING
            self.told.append(("unpause", {}))

    def _kill(self, code: int, *, stays: bool = False) -> Refusal:
        self.told.append(kill(KILL))
        self._let_go()
        if self.is_stuck:
            self.is_killed = True
            return NotKilled
        self.end(code, Reason.SIGNALED, stays=stays)
        return None

    def kill(self, number: int) -> Refusal:
        if not self.is_live:
            return Conflict
        if number == KILL:
            self._kill(137)
            return None
        self.told.append(kill(number))
        if number == TERM:
            self._let_go()
            if self.command == MINDS and not self.is_stuck:
                self.end(0)
        return None

    def pause(self) -> Refusal:
        if self.state is not State.RUNNING or self.is_killed:
            return Conflict
        self.state = State.PAUSED
        self.told.append(("pause", {}))
        return None

    def unpause(self) -> Refusal:
        if self.state is not State.PAUSED:
            return Conflict
        self._let_go()
        return None

    def restart(self, seconds: float | None) -> Refusal:
        if refused := self.stop(seconds, stays=True):
            return refused
        if refused := self.start():
            return refused
        self.told.append(("restart", {}))
        return None

    def remove(self, *, force: bool) -> Refusal:
        if self.is_live and not force:
            return Conflict
        if self.is_live:
            told = len(self.told)
            if refused := self.stop(0):
                return refused
            self.told.pop()  # the event "stop" is for a call of that name
            assert len(self.told) > told
        if not self.is_gone:
            self._go()
        return None

    def rename(self, name: str) -> None:
        before, self.name = self.name, name
        self.told.append(("rename", {"oldName": f"/{before}"}))


Call = Callable[[World, Model], tuple[Coroutine[Any, Any, object], Callable[[], Refusal]]]
"""What to await, and what the model makes of it."""


def start(world: World, model: Model) -> tuple[Coroutine[Any, Any, object], Callable[[], Refusal]]:
    return world.engine.start(model.id), model.start


def stop(seconds: float | None) -> Call:
    return lambda world, model: (world.engine.stop(model.id, seconds), lambda: model.stop(seconds))


def kill_with(number: int) -> Call:
    return lambda world, model: (world.engine.kill(model.id, number), lambda: model.kill(number))


def pause(world: World, model: Model) -> tuple[Coroutine[Any, Any, object], Callable[[], Refusal]]:
    return world.engine.pause(model.id), model.pause


def unpause(world: World, model: Model) -> tuple[Coroutine[Any, Any, object], Callable[[], Refusal]]:
    return world.engine.unpause(model.id), model.unpause


def restart(seconds: float | None) -> Call:
    return lambda world, model: (world.engine.restart(model.id, seconds), lambda: model.restart(seconds))


def remove(*, force: bool) -> Call:
    return lambda world, model: (world.engine.remove(model.id, force), lambda: model.remove(force=force))


TIMES = (None, 0, 3)
CALLS: dict[str, Call] = {
    "start": start,
    **{f"stop in {seconds}": stop(seconds) for seconds in TIMES},
    **{f"restart in {seconds}": restart(seconds) for seconds in TIMES},
    **{f"kill with {number}": kill_with(number) for number in (TERM, KILL, USR1)},
    "pause": pause,
    "unpause": unpause,
    "remove": remove(force=False),
    "remove by force": remove(force=True),
}


class Lives(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.descriptors = _descriptors()
        self.world = World()
        self.world.on_event = self._check_books
        self.models: dict[str, Model] = {}
        self.gone: list[str] = []
        self.books = sqlite3.connect(self.world.folder / "state/records.sqlite")
        self.seen = 0

    # The books.

    def _booked(self) -> dict[str, Record]:
        rows = self.books.execute("SELECT id, record FROM container").fetchall()
        return {identity: msgspec.json.decode(blob, type=Record) for identity, blob in rows}

    def _check_books(self, event: Event) -> None:
        """Whoever hears of it, and asks the next supervisor, is told the same."""
        record = self._booked().get(event.container_id)
        expected = {
            Action.START: (State.RUNNING, State.EXITED),  # it may have ended at once
            Action.PAUSE: (State.PAUSED,),
            Action.UNPAUSE: (State.RUNNING,),
            Action.DIE: (State.EXITED,),
        }
        if event.action is Action.DESTROY:
            assert record is None
        elif event.action in expected:
            assert record is not None
            assert record.state in expected[event.action]
        elif event.action is Action.RENAME:
            assert record is not None
            assert record.name == event.name

    def _told(self) -> dict[str, list[Told]]:
        """Since the last time, by container."""
        events, self.seen = self.world.told[self.seen :], len(self.world.told)
        found: dict[str, list[Told]] = {}
        for event in events:
            own = {key: str(value) for key, value in event.own.items() if key != "pid"}
            found.setdefault(event.container_id, []).append((str(event.action), own))
        return found

    def _chosen(self, which: int) -> Model:
        return [*self.models.values()][which % len(self.models)]

    def _refused(self, work: Coroutine[Any, Any, object]) -> WherryError | None:
        try:
            self.world.run(work)
        except WherryError as error:
            return error
        return None

    # Calls.

    @rule(name=st.sampled_from(NAMES), command=st.sampled_from([MINDS, LAZY, FAILS]), goes=st.booleans())
    def create(self, name: str, command: str, goes: bool) -> None:
        taken = any(name == each.name for each in self.models.values())
        try:
            record = self.world.run(self.world.engine.create(name, self.world.request(command, auto_remove=goes)))
        except NameInUse:
            assert taken
            return
        assert not taken
        self.models[record.id] = Model(record.id, name, command, goes=goes)

    @rule(name=st.sampled_from(NAMES), command=st.sampled_from([MINDS, LAZY, FAILS]), goes=st.booleans())
    def run(self, name: str, command: str, goes: bool) -> None:
        """Leaves nothing when the start fails."""
        taken = any(name == each.name for each in self.models.values())
        try:
            record = self.world.run(self.world.engine.run(name, self.world.request(command, auto_remove=goes)))
        except NameInUse:
            assert taken
            return
        except StartFailed:
            assert command == FAILS
            assert [*self._told().values()] == [[("create", {}), ("destroy", {})]]
            return
        model = self.models[record.id] = Model(record.id, name, command, goes=goes)
        assert model.start() is None

    @precondition(lambda self: self.models)
    @rule(which=WHICH, call=st.sampled_from(sorted(CALLS)))
    def call(self, which: int, call: str) -> None:
        self._call(which, call)

    @precondition(lambda self: self.models)
    @rule(calls=st.lists(st.tuples(WHICH, st.sampled_from(sorted(CALLS))), min_size=2, max_size=6))
    def calls(self, calls: list[tuple[int, str]]) -> None:
        for which, call in calls:
            if self.models:
                self._call(which, call)
                self._check()

    def _call(self, which: int, call: str) -> None:
        model = self._chosen(which)
        work, expected = CALLS[call](self.world, model)
        wanted = expected()
        refused = self._refused(work)
        assert isinstance(refused, wanted or type(None)), f"{call}: {refused!r}"
        self.world.settle()

    @precondition(lambda self: self.gone)
    @rule(which=WHICH, call=st.sampled_from(sorted(CALLS)))
    def call_of_nobody(self, which: int, call: str) -> None:
        work, _ = CALLS[call](self.world, Model(self.gone[which % len(self.gone)], "a", LAZY, goes=False))
        with pytest.raises(NotFound):
            self.world.run(work)

    @precondition(lambda self: self.models)
    @rule(which=WHICH, name=st.sampled_from(NAMES))
    def rename(self, which: int, name: str) -> None:
        model = self._chosen(which)
        others = {each.name for each in self.models.values() if each is not model}
        refusal = InvalidRequest if name == model.name else NameInUse if name in others else None
        refused = self._refused(self.world.engine.rename(model.id, name))
        assert isinstance(refused, refusal or type(None))
        if refusal is None:
            model.rename(name)

    @precondition(lambda self: self.models)
    @rule(which=WHICH, condition=st.sampled_from(["not-running", "next-exit", "removed"]))
    def wait(self, which: int, condition: str) -> None:
        model = self._chosen(which)
        task = self.world.loop.create_task(self.world.engine.wait(model.id, condition))
        self.world.run(asyncio.sleep(0))
        if condition == "not-running" and not model.is_live:
            end = task.result()
            assert (end.reason, end.exit_code) == (model.reason, model.exit_code)
            return
        assert not task.done()
        model.waits.append((condition, task))

    # What happens by itself.

    def _process(self, model: Model) -> Process:
        process = self.world.process_of(model.id)
        assert process is not None
        return process

    @precondition(lambda self: self.models)
    @rule(which=WHICH, code=st.sampled_from([0, 3]))
    def end(self, which: int, code: int) -> None:
        model = self._chosen(which)
        if model.state is State.RUNNING and not model.is_stuck:
            self._process(model).end(code)
            self.world.settle()
            model.end(code)

    @precondition(lambda self: self.models)
    @rule(which=WHICH)
    def get_stuck(self, which: int) -> None:
        model = self._chosen(which)
        if model.state is State.RUNNING:
            self._process(model).is_stuck = model.is_stuck = True

    @precondition(lambda self: self.models)
    @rule(which=WHICH)
    def get_free(self, which: int) -> None:
        model = self._chosen(which)
        if not model.is_stuck:
            return
        process = self._process(model)
        process.is_stuck = model.is_stuck = False
        process.look()
        self.world.settle()
        if not process.is_alive:
            model.end(process.status.exit_code if process.status else 0, self._reason(process))

    @staticmethod
    def _reason(process: Process) -> Reason:
        assert process.status is not None
        return Reason.EXITED if process.status.signal is None else Reason.SIGNALED

    # Supervisors come and go.

    @rule(ended=st.sets(st.integers(0, 5)), orderly=st.booleans())
    def replace(self, ended: set[int], orderly: bool) -> None:
        """Some end while there is no supervisor."""
        self._check()
        if orderly:
            self.world.detach()
        else:
            self.world.kill()
        ending = [each for number, each in enumerate(self._running()) if number in ended]
        for model in ending:
            self.processes[model.id].end(5)
        self.world.open()
        self.world.settle()
        for model in ending:
            model.end(5)
        self._forget_waits()

    def _running(self) -> list[Model]:
        """Those that can end; their processes are in ``processes``."""
        found = [each for each in self.models.values() if each.state is State.RUNNING and not each.is_stuck]
        self.processes = {each.slot: each for each in self.world.slots.values()}
        slots = {each.id: self._booked()[each.id].slot for each in found}
        self.processes = {identity: self.processes[slot] for identity, slot in slots.items()}
        return found

    @rule()
    def lose_both(self) -> None:
        """Supervisor and shim: what ran is lost."""
        self._check()
        self.world.kill()
        self.world.kill_shim()
        self.world.open()
        self.world.settle()
        for model in self.models.values():
            if model.is_live:
                model._end(Reason.LOST, None)
        self._forget_waits()

    @precondition(lambda self: self.models)
    @rule(which=WHICH, call=st.sampled_from(sorted(CALLS)), things=st.integers(0, 15))
    def kill_in_the_middle(self, which: int, call: str, things: int) -> None:
        model = self._chosen(which)
        self._check()
        before = model.state, model.is_gone
        work, expected = CALLS[call](self.world, model)
        self.world.kill_during(work, things)
        expected()
        after = model.state, model.is_gone
        self.world.open()
        self.world.settle()
        self._adopt(model, {before, after, (State.EXITED, False), (State.EXITED, True)})

    def _adopt(self, model: Model, allowed: set[tuple[State, bool]]) -> None:
        """The model goes on with what has become of it."""
        try:
            record = self.world.engine.get(model.id)
        except NotFound:
            assert any(is_gone for _, is_gone in allowed)
            model.is_gone = True
        else:
            assert (record.state, False) in allowed or record.being_killed
            model.state, model.is_gone = record.state, False
            model.reason, model.exit_code = record.reason, record.exit_code
            model.is_killed, model.is_asked = record.being_killed, record.stop_requested
            model.is_stuck = record.is_live and self._process(model).is_stuck
        self._forget_waits()
        self._told()
        model.told.clear()

    def _forget_waits(self) -> None:
        for model in self.models.values():
            model.waits.clear()
            model.ends.clear()

    # What is always true.

    @invariant()
    def the_world_is_as_the_model(self) -> None:
        self._check()

    def _check(self) -> None:
        self._check_told()
        self._check_waits()
        for identity in [identity for identity, model in self.models.items() if model.is_gone]:
            del self.models[identity]
            self.gone.append(identity)
        records = {record.id: record for record in self.world.engine.list()}
        assert records == self._booked()
        assert records.keys() == self.models.keys()
        for identity, model in self.models.items():
            self._check_one(model, records[identity])
        live = {record.slot for record in records.values() if record.is_live}
        assert {slot for slot, process in self.world.slots.items() if process.is_alive} == live
        assert self.world.slots.keys() == live
        logs = [record.log_path for record in records.values()]
        assert len(set(logs)) == len(logs)

    def _check_told(self) -> None:
        expected = {model.id: model.told[:] for model in self.models.values() if model.told}
        assert self._told() == expected
        for model in self.models.values():
            model.told.clear()

    def _check_waits(self) -> None:
        for model in self.models.values():
            for condition, task in model.waits[:]:
                if model.ends and condition != "removed":
                    end = task.result()
                    assert (end.reason, end.exit_code) == model.ends[0]
                elif model.is_gone:
                    assert task.done()
                else:
                    assert not task.done()
                    continue
                model.waits.remove((condition, task))
            model.ends.clear()

    def _check_one(self, model: Model, record: Record) -> None:
        assert (record.name, record.state) == (model.name, model.state)
        assert self.world.engine.get(model.name) is self.world.engine.get(model.id)
        assert record.being_killed is model.is_killed
        if record.state is State.EXITED:
            assert (record.reason, record.exit_code, record.pid) == (model.reason, model.exit_code, 0)
        assert states.can_start(record) is states.can_remove(record) is not model.is_live
        assert states.can_signal(record) is states.can_update_limits(record) is model.is_live
        assert states.can_pause(record) is (model.state is State.RUNNING and not model.is_killed)
        assert states.can_exec(record) is states.can_pause(record)
        assert states.can_unpause(record) is (model.state is State.PAUSED)
        if model.is_live:
            process = self._process(model)
            assert (process.pid, process.is_frozen) == (record.pid, model.state is State.PAUSED)

    def teardown(self) -> None:
        self._check()
        self.world.close()
        self.books.close()
        logging.disable(logging.NOTSET)
        assert _descriptors() == self.descriptors


def _descriptors() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the list
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def reached(state: str, *, goes: bool) -> Lives:
    """A model with one container, in this state."""
    lives = Lives()
    lives.create("a", MINDS, goes)
    for call in {"created": [], "running": ["start"], "paused": ["start", "pause"]}[state]:
        lives.call(0, call)
    lives._check()
    return lives


@pytest.mark.parametrize("goes", [False, True], ids=["stays", "goes"])
@pytest.mark.parametrize("state", ["created", "running", "paused"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_done_or_cut_off_after_anything_that_it_does(call: str, state: str, goes: bool) -> None:
    lives = reached(state, goes=goes)
    lives.call(0, call)
    lives.teardown()
    for things in range(7):
        lives = reached(state, goes=goes)
        lives.kill_in_the_middle(0, call, things)
        lives.teardown()


pytestmark = pytest.mark.timeout(0 if IS_CHAOS else 300)

TestLives = Lives.TestCase
TestLives.settings = exploration(60, 30, in_chaos=(5_000, 100))
