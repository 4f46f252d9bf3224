"""Taking over from a supervisor that was killed: records on one side, what the shim holds on the other."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterable
from pathlib import Path

from wherry.kernel import cgroups
from wherry.logs import rotation
from wherry.runtime import launch
from wherry.supervisor.children import Child, remove_group
from wherry.supervisor.container import Container
from wherry.supervisor.model import Reason, Record, State
from wherry.supervisor.shimlink import HeldSlot

_log = logging.getLogger(__name__)


def adopt(held: HeldSlot, group: cgroups.Group) -> Child:
    """A Child for a slot of the shim; takes over its pidfd and channel."""
    channel = None
    if "channel" in held.descriptors:
        channel = socket.socket(fileno=held.descriptors["channel"])
        channel.setblocking(False)
    child = Child(held.name, group, channel)
    child.pid = held.pid
    child.pidfd = held.descriptors["pidfd"]
    if held.exit is not None:
        child.exited.set_result(held.exit)
    return child


async def finish_start(container: Container, child: Child) -> None:
    """Learn from the channel how a start ended that the last supervisor may not have seen the end of.

    The child either waits for a message that will never come, in which case it is killed, or its report is there: the
    last supervisor took the line that says "executing" from the channel only after it had booked the container as
    running.
    """
    record = container.record
    executed = record.state is State.RUNNING
    running = container.running_record(child)
    if executed:
        running.started_ns = record.started_ns
    container.started(child, running)
    try:
        report = await asyncio.wait_for(child.wait_executed(lambda: None), 5)
    except TimeoutError:
        report = launch.Report()
        container.send_signal(signal.SIGKILL)
    child.close_channel()
    if report.failure is not None:
        record.reason, record.error = Reason.START_FAILED, str(launch.start_error(record.name, report.failure))
    elif not (executed or report.executed):
        record.reason, record.error = Reason.START_FAILED, "the supervisor was killed while it started the container"


async def sweep(layout: cgroups.Layout, parent: str, known: set[str]) -> None:
    """Kill and remove what is left in the groups below ``parent`` that belong to no known slot."""
    for name in cgroups.children(layout, parent):
        if name in known:
            continue
        group = cgroups.Group(layout, f"{parent}/{name}")
        for pid in group.processes():
            _log.warning("killing process %d, left over in control group %s", pid, group.path)
            _kill(pid)
        await remove_group(group)


def prune_logs(folder: Path, records: Iterable[Record]) -> None:
    """Of containers that have ended: what the last supervisor kept of their logs for readers that it no longer has."""
    ended = (record for record in records if record.state is State.EXITED and not record.slot)
    try:
        rotation.prune(folder, {Path(record.log_path).name: record.request.log.max_files for record in ended})
    except OSError as error:
        _log.error("cannot prune logs: %s", error)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
