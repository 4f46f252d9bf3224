"""A model of containers' lives: random calls, ends of processes, kills of supervisors and shims, as hypothesis finds.

The real engine, records, event log, starts, ends and take-overs on played processes (``tests/lifeworld.py``), against
``Model`` of ``life_model.py``, which knows what each call does to state, reason and exit code, what it is refused
with, and which events it tells. A call runs to its end, or its supervisor is killed in the middle of it; whoever
takes over has it then as it was before the call, or as it would be after, or ended. Every call is also cut off after
each thing that it does to the world, from each state.

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
import sqlite3
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.exploring import IS_CHAOS, exploration
from tests.lifeworld import World
from tests.playedprocess import FAILS, LAZY, MINDS, Process
from tests.unit.supervisor.lifecycle.life_model import CALLS, Model, Told

from wherry.errors import InvalidRequest, NameInUse, NotFound, StartFailed, WherryError
from wherry.supervisor.containers import states
from wherry.supervisor.containers.record import Reason, Record, State
from wherry.supervisor.events import Action, Event

NAMES = ("a", "b", "c")
WHICH = st.integers(0, len(NAMES) - 1)


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
