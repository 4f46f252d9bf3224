"""What each call does to a container: its state, reason and exit code, its refusals and the events that it tells."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from tests.lifeworld import World
from tests.playedprocess import FAILS, MINDS

from wherry.errors import Conflict, NotKilled, StartFailed, WherryError
from wherry.supervisor.containers.record import End, Reason, State

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
