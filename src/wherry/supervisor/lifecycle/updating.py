"""Changing what a container may use, while it runs or before its next start."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from wherry.errors import Conflict, InternalError, WherryError
from wherry.kernel import cgroup_trees as trees
from wherry.kernel import scheduling
from wherry.kernel.libc import describe
from wherry.memory import Limits
from wherry.runtime import cgroup_limits
from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.request import CreateRequest, check
from wherry.supervisor.containers.spec_of import resources
from wherry.supervisor.events import Notice
from wherry.supervisor.memory_watch.memory import MemoryWatch
from wherry.supervisor.processes.children import Child
from wherry.supervisor.records import Records


def changed(request: CreateRequest, changes: Mapping[str, Any]) -> CreateRequest:
    """``request`` with ``changes``, fields of it by name. Raises InvalidRequest for what contradicts itself.

    Nice and CPU shares are two scales of one weight: the one that is given takes the other's place.
    """
    replaced = dict(changes)
    if "nice" in changes:
        replaced.setdefault("cpu_shares", None)
    elif changes.get("cpu_shares") is not None:
        replaced["nice"] = 0
    return check(msgspec.structs.replace(request, **replaced))


async def update(container: Container, records: Records, memory: MemoryWatch, changes: Mapping[str, Any]) -> Notice:
    """Make ``changes`` hold: in the control group, the memory enforcer and the processes if it runs, and in its record.

    Raises InvalidRequest and NotSupported for what this host cannot apply, Conflict when it is just ending,
    InternalError; then it is as it was before.
    """
    record, before = container.record, container.record.request
    after = changed(before, changes)
    child = container.child if states.can_update_limits(record) else None
    with contextlib.ExitStack() as undo:
        if child is not None:
            # In a thread: the kernel moves every thread to a new list of CPUs, and reclaims memory to a lower limit.
            with _explained(container):
                await asyncio.to_thread(_limit_group, container, child, memory, before, after)
            undo.callback(_put_back, _limit_group, container, child, memory, after, before)
            await asyncio.to_thread(memory.reclaim, container, *_limits(before, after))
            with _explained(container):
                _limit_memory(container, child, memory, before, after)
            undo.callback(_put_back, _limit_memory, container, child, memory, after, before)
        told = states.updated(record, after, changes)
        try:
            records.save(record)
        except WherryError:
            states.updated(record, before, {})
            raise
        undo.pop_all()
    if child is not None and before.nice != after.nice:
        await asyncio.to_thread(scheduling.set_nice, lambda: trees.threads(child.group.places), after.nice)
    return told


def _limit_group(_: Container, child: Child, __: MemoryWatch, before: CreateRequest, after: CreateRequest) -> None:
    cgroup_limits.update(child.group, resources(before), resources(after))


def _limit_memory(
    container: Container, _: Child, memory: MemoryWatch, before: CreateRequest, after: CreateRequest
) -> None:
    memory.update(container, *_limits(before, after))


def _limits(before: CreateRequest, after: CreateRequest) -> tuple[Limits, Limits]:
    return Limits(before.soft_bytes, before.hard_bytes), Limits(after.soft_bytes, after.hard_bytes)


def _put_back(apply: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(OSError, WherryError):
        apply(*arguments)


@contextlib.contextmanager
def _explained(container: Container) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = f"cannot update {container.record.name}: {describe(error)}"
        if error.errno in (errno.ENOENT, errno.ENODEV):  # the group is being removed
            raise Conflict(f"{text}; it is ending") from error
        raise InternalError(text) from error
