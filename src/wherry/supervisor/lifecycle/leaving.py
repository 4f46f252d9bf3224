"""Ends that are under way when a supervisor gives up without stopping what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from wherry.supervisor.containers.container import Container
from wherry.supervisor.processes.children import Children

_SECONDS = 3
"""How long they may take; a log on a full disk is completed by the next supervisor."""


async def leave_ends(
    containers: Iterable[Container], children: Children, tasks: Collection[asyncio.Task[None]]
) -> None:
    """Let the ends that are known be booked, and leave those to come to the next supervisor: ends ``tasks``.

    A task that was half-way through would go on without records, and let the shim forget what nobody has booked.
    """
    known = [each.child for each in containers if each.child is not None and each.child.exited.done()]
    deadline = asyncio.get_running_loop().time() + _SECONDS
    while any(child.slot in children.by_slot for child in known):
        if asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.01)
    left = set(tasks)
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_SECONDS)
