"""Changing what a container may use, while it runs or before its next start."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from typing import Any

import msgspec

from wherry.errors import Conflict, InternalError, WherryError
from wherry.kernel import scheduling
from wherry.kernel.libc import describe_errno
from wherry.supervisor import limits
from wherry.supervisor.children import Child
from wherry.supervisor.container import Container
from wherry.supervisor.records import Records
from wherry.supervisor.request import CreateRequest, check
from wherry.supervisor.specgen import resources


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


async def update(container: Container, records: Records, after: CreateRequest) -> None:
    """Make ``after`` hold: in the control group and the processes if it runs, and in its record.

    Raises InvalidRequest and NotSupported for what this host cannot apply, Conflict when it is just ending,
    InternalError; then it is as it was before.
    """
    record, before = container.record, container.record.request
    child = container.child if container.running else None
    if child is not None:
        _apply(container, child, before, after)
    record.request = after
    try:
        records.save(record)
    except WherryError:
        record.request = before
        if child is not None:
            _apply(container, child, after, before)
        raise
    if child is not None and before.nice != after.nice:
        await asyncio.to_thread(scheduling.set_nice, child.group.threads, after.nice)


def _apply(container: Container, child: Child, before: CreateRequest, after: CreateRequest) -> None:
    try:
        limits.update(child.group, resources(before), resources(after))
    except OSError as error:
        text = f"cannot update {container.record.name}: write {error.filename}: {describe_errno(error.errno or 0)}"
        if error.errno in (errno.ENOENT, errno.ENODEV):  # the group is being removed
            raise Conflict(f"{text}; it is ending") from error
        raise InternalError(text) from error
