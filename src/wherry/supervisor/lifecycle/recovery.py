"""Taking over from a supervisor that was killed: records on one side, what the shim holds on the other."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from wherry.kernel import cgroup_trees as trees
from wherry.kernel import cgroups
from wherry.logs import rotation
from wherry.runtime import launch
from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import Record
from wherry.supervisor.lifecycle import killing
from wherry.supervisor.processes.children import Child
from wherry.supervisor.processes.shimlink import HeldSlot

_log = logging.getLogger(__name__)
_REPORT_SECONDS = 5


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
    executed = record.is_live
    states.taken_over(record, child.pid)
    container.begin(child)
    report = await report_of(child)
    if report is None:
        states.killed(record)
    elif report.failure is not None:
        states.found_unstarted(record, str(launch.start_error(record.name, report.failure)))
        return
    if not (executed or (report is not None and report.executed)):
        text = "the supervisor was killed while it started the container"
        states.found_unstarted(record, text, interrupted=True)


async def report_of(child: Child) -> launch.Report | None:
    """What one that an earlier supervisor has started said, as far as that had not taken it from the channel already.
    None for one that says nothing: it waits for a message that will never come, and is killed.
    """
    try:
        return await asyncio.wait_for(child.wait_executed(lambda: None), _REPORT_SECONDS)
    except TimeoutError:
        killing.kill(child)
        return None
    finally:
        child.close_channel()


async def sweep(layout: cgroups.Layout, parent: str, known: set[str]) -> list[str]:
    """Kill and remove what is left in the groups below ``parent`` that belong to no known slot, all at the same time.

    What does not die in ``killing.KILL_SECONDS`` stays: it is logged and returned, a line a group.
    """
    groups = [cgroups.Group(layout, f"{parent}/{name}") for name in cgroups.children(layout, parent)]
    clearing = (_clear(group) for group in groups if os.path.basename(group.path) not in known)
    return [left for left in await asyncio.gather(*clearing) if left]


def prune_logs(folder: Path, records: Iterable[Record]) -> None:
    """Of containers that have ended: what the last supervisor kept of their logs for readers that it no longer has."""
    ended = (record for record in records if record.has_ended and not record.slot)
    try:
        rotation.prune(folder, {Path(record.log_path).name: record.request.log.max_files for record in ended})
    except OSError as error:
        _log.error("cannot prune logs: %s", error)


async def _clear(group: cgroups.Group) -> str:
    """Returns what is left, "" for nothing."""
    deadline = time.monotonic() + killing.KILL_SECONDS
    told: set[int] = set()
    delay = 0.001
    while left := await asyncio.to_thread(trees.kill, group.places):
        for pid in left - told:
            _log.warning("killing process %d, left over in control group /%s", pid, group.path)
        told |= left
        if time.monotonic() > deadline:
            text = f"cannot be killed: {await asyncio.to_thread(killing.remains, group)}"
            _log.error("%s", text)
            return text
        await asyncio.sleep(delay)
        delay = min(2 * delay, 0.2)
    await killing.remove_group(group)
    return ""
