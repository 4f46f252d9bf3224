"""Pause and unpause: the container's control group is frozen, above anything that the container can reach.

The group is frozen before the record says so, and let go before the record says that: a supervisor that is killed in
between leaves one that the next lets go, or freezes again, as the record has it (``restore``).
"""

from __future__ import annotations

import asyncio
import contextlib

from wherry.errors import Conflict, InternalError, NotSupported, WherryError
from wherry.kernel import cgroup_freezer as freezer
from wherry.kernel.libc import describe
from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import Record, State
from wherry.supervisor.events import Events
from wherry.supervisor.lifecycle import killing
from wherry.supervisor.processes.children import Child
from wherry.supervisor.records import Records

FREEZE_SECONDS = 5.0
"""A process that waits in the kernel for longer keeps its container from being paused."""


async def pause(container: Container, records: Records, events: Events) -> None:
    """Returns when all its processes have stopped. Hold the container's lock: a start, or a change of limits, which
    freezes for a moment, is not to be under way.

    Raises Conflict when it does not run, NotSupported on a host without a freezer, InternalError when a process does
    not freeze, or the record cannot be written; then it goes on as before.
    """
    record, child = container.record, container.child
    states.require(states.can_pause, record)
    if child is None:
        raise Conflict(f"container {record.name} has ended")
    _check(container, child)
    if not freezer.is_there(child.group):
        raise NotSupported(f"{record.name} cannot be paused: this host has no freezer for control groups")
    with contextlib.ExitStack() as undo:
        undo.callback(thaw, child)
        await _freeze(container, child)
        _check(container, child)
        told = states.paused(record)
        try:
            records.save(record)
        except WherryError:
            states.unpaused(record)
            raise
        undo.pop_all()
    events.tell(record, told)


def _check(container: Container, child: Child) -> None:
    states.require(states.can_pause, container.record)
    if child.exited.done():
        raise Conflict(f"container {container.record.name} has ended")


async def _freeze(container: Container, child: Child) -> None:
    name = container.record.name
    loop = asyncio.get_running_loop()
    deadline, delay = loop.time() + FREEZE_SECONDS, 0.0005
    try:
        freezer.freeze(child.group)
        while not freezer.is_frozen(child.group):
            _check(container, child)  # whoever kills it lets it go
            if loop.time() > deadline:
                left = await asyncio.to_thread(killing.remains, child.group, child.pid)
                raise InternalError(f"cannot pause {name}: not all of it has stopped in {FREEZE_SECONDS:.0f} s; {left}")
            await asyncio.sleep(delay)
            delay = min(2 * delay, 0.05)
            freezer.freeze(child.group)
    except OSError as error:
        raise _explained(name, child, "pause", error) from error


def unpause(container: Container, records: Records, events: Events) -> None:
    """Raises Conflict when it is not paused, InternalError."""
    record = container.record
    states.require(states.can_unpause, record)
    if container.child is not None:
        try:
            freezer.thaw(container.child.group)
        except OSError as error:
            raise _explained(record.name, container.child, "unpause", error) from error
    told = states.unpaused(record)
    records.keep(record)
    events.tell(record, told)


def let_go(container: Container, records: Records, events: Events) -> None:
    """Before an end: a signal that was sent to a paused one reaches it then. Nothing happens to one that runs."""
    if states.can_unpause(container.record):
        with contextlib.suppress(WherryError):  # what cannot be let go will be killed, which tries again
            unpause(container, records, events)


def restore(record: Record, child: Child) -> None:
    """After a take-over: what the record says holds, whether the last supervisor was pausing it, or had stopped it for
    a moment (``runtime.nested_limits``).
    """
    with contextlib.suppress(OSError):  # it has ended, or there is no freezer
        if record.state is State.PAUSED:
            freezer.freeze(child.group)
        else:
            freezer.thaw(child.group)


def thaw(child: Child) -> None:
    """No error when there is nothing to let go."""
    with contextlib.suppress(OSError):
        freezer.thaw(child.group)


def _explained(name: str, child: Child, what: str, error: OSError) -> WherryError:
    if child.exited.done():
        return Conflict(f"container {name} has ended")
    return InternalError(f"cannot {what} {name}: {describe(error)}")
