"""What a client can ask for to end a container: stop and kill. Nobody waits for ever on anything a container does."""

from __future__ import annotations

import asyncio
import signal

from wherry import defaults
from wherry.errors import NotKilled
from wherry.kernel import procfs
from wherry.runtime.signals import signal_number
from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import End
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.events import Events
from wherry.supervisor.lifecycle import killing, pausing
from wherry.supervisor.records import Records


async def stop(
    container: Container, records: Records, seconds: float | None, events: Events, with_signal: int | None = None
) -> None:
    """``with_signal`` (None: the container's stop signal), SIGKILL after ``seconds``; negative waits for ever, None is
    what the container was made with. Returns when the end is booked. One that is paused goes on with the signal.

    When nobody has asked for a time, and the first process has made no arrangement for the signal, the kernel drops it
    (the process is pid 1 of its namespace), and waiting would be waste: it is killed at once.

    Raises NotKilled when it has not ended ``killing.KILL_SECONDS`` after SIGKILL.
    """
    record = container.record
    ended = container.exit_waiter()
    states.stop_requested(record)
    records.keep(record)
    number = with_signal or signal_number(record.request.stop_signal)
    asked = record.request.stop_seconds if seconds is None else seconds
    is_minded = number != signal.SIGKILL and (asked is not None or await asyncio.to_thread(_minds, record.pid, number))
    if is_minded and not ended.done():  # it may have while we looked
        killing.send(container.child, number)
        events.tell(record, states.signalled(number))
        pausing.let_go(container, records, events)
        wait = defaults.STOP_SECONDS if asked is None else asked
        await asyncio.wait([ended], timeout=None if wait < 0 else wait)
    if not ended.done():
        kill(container, records, events)
        await _wait_for_end(container, ended)


def _minds(pid: int, number: int) -> bool:
    """Whether the signal would be handled, or is put off or ignored on purpose."""
    return procfs.receives(pid, number) or procfs.ignores(pid, number)


def kill(container: Container, records: Records, events: Events) -> None:
    """SIGKILL. Returns at once; what there is to do until it has ended is done in the background."""
    record = container.record
    if container.child is not None:
        killing.kill(container.child)
        if states.can_unpause(record):
            pausing.thaw(container.child)
    told = states.killed(record)
    records.keep(record)  # the next supervisor goes on with it
    events.tell(record, states.signalled(signal.SIGKILL), *told)


def send(container: Container, records: Records, number: int, events: Events) -> None:
    """Another signal than SIGKILL. One that is paused gets it when it goes on, which its stop signal makes it do."""
    killing.send(container.child, number)
    events.tell(container.record, states.signalled(number))
    if number == signal_number(container.record.request.stop_signal):
        pausing.let_go(container, records, events)


async def _wait_for_end(container: Container, ended: asyncio.Future[End]) -> None:
    child = container.child
    if child is not None and not await killing.has_ended(child, killing.KILL_SECONDS):
        raise await killing.not_killed(container.record.name, child)
    await ended  # its last output, for which nobody waits long


async def wait_for_start(container: Container, seconds: float | None) -> None:
    """Until a start, or what else holds its lock, has come to its end.

    Raises NotKilled when it does not within the time that the container would have: the first process may sit in the
    kernel, on a file system that does not answer.
    """
    if not container.lock.locked():
        return
    given = seconds if seconds is not None else container.record.request.stop_seconds
    wait = max(defaults.STOP_SECONDS if given is None else given, 0) + killing.KILL_SECONDS
    try:
        async with asyncio.timeout(wait), container.lock:
            pass
    except TimeoutError:
        text = "a start, pause, change or removal of it has not come to its end"
        raise NotKilled(f"{container.record.name} cannot be stopped: {text}") from None


def time_at_shutdown(request: CreateRequest) -> float | None:
    """Seconds that a container is given when the supervisor ends: its own, but never for ever."""
    wanted = request.stop_seconds
    return defaults.STOP_SECONDS if wanted is not None and wanted < 0 else wanted
