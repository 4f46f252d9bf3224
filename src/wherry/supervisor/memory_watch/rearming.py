"""Limits of containers that an earlier supervisor armed: go on with them, arm anew, or end the container.

What the shim kept may be of no use to this version, or be lost with the shim. A container that was limited is limited
again then, and what it has by now is counted; one with a hard limit that nothing can hold any more is ended, with a
reason of its own, rather than left to grow.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping
from typing import NamedTuple

from wherry.kernel.cgroups import Group
from wherry.kernel.libc import call_error, describe
from wherry.kernel.polling import readable
from wherry.memory import Limits, MemoryLimiter, Target
from wherry.supervisor.containers import states
from wherry.supervisor.containers.cause import MemoryEvidence
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import Record
from wherry.supervisor.events import Events
from wherry.supervisor.lifecycle import killing
from wherry.supervisor.memory_watch.soft import throttles
from wherry.supervisor.processes.children import Child
from wherry.supervisor.records import Records

_log = logging.getLogger(__name__)


class TakenOver(NamedTuple):
    """``limiter`` is None when nobody watches the container. ``kept`` are descriptors for the shim to keep with it,
    the receiver's to close; empty unless it was armed anew.
    """

    limiter: MemoryLimiter | None
    kept: dict[str, int]


def limits_of(record: Record) -> Limits:
    return Limits(record.request.soft_bytes, record.request.hard_bytes)


def target_of(record: Record, child: Child, namespace: int) -> Target:
    return Target(record.id, child.pid, child.pidfd, namespace, child.group, record.name, throttles(record))


class Rearming:
    """``limiters`` are those at work, by name; ``chosen`` is the one for new containers."""

    def __init__(
        self,
        limiters: Mapping[str, MemoryLimiter],
        chosen: MemoryLimiter | None,
        records: Records,
        events: Events,
    ) -> None:
        self._limiters = limiters
        self._chosen = chosen
        self._records = records
        self._events = events
        self._anew: list[tuple[Container, Child, MemoryLimiter]] = []
        self.has_rearmed = False
        """Whether any was armed anew, so that what an earlier supervisor armed is at work beside that for a while."""

    def take_over(self, container: Container, child: Child, kept: Mapping[str, int]) -> TakenOver:
        """``kept`` is what the shim had of it, by names that begin with "memory-"."""
        record = container.record
        limiter = self._limiters.get(record.enforcer)
        try:
            if limiter is None:
                raise KeyError(record.enforcer)
            namespace = kept.get("memory-namespace", -1)
            limiter.adopt(target_of(record, child, namespace), limits_of(record), dict(kept))
            return TakenOver(limiter, {})
        except (KeyError, OSError) as error:
            if child.exited.done():
                _log.error("%s has ended, and what %s knew of its memory is lost", record.name, record.enforcer)
                return TakenOver(None, {})
            _log.warning("%s: its memory limits by %s cannot be taken over: %r", record.name, record.enforcer, error)
        return self._arm_anew(container, child, limiter or self._chosen, kept)

    def _arm_anew(
        self, container: Container, child: Child, limiter: MemoryLimiter | None, kept: Mapping[str, int]
    ) -> TakenOver:
        record = container.record
        if limiter is None:
            self._give_up(container, child, "nothing on this host can enforce it")
            return TakenOver(None, {})
        try:
            namespace = _namespace(child, kept)
            try:
                new = limiter.rearm(target_of(record, child, namespace), limits_of(record))
            finally:
                os.close(namespace)
        except OSError as error:
            self._give_up(container, child, describe(error))
            return TakenOver(None, {})
        states.watched_by(record, limiter.name)
        self.has_rearmed = True
        self._anew.append((container, child, limiter))
        _log.info("%s: memory limits armed anew, by %s", record.name, limiter.name)
        return TakenOver(limiter, new)

    def evidence_of_lost(self, record: Record, group: Group) -> MemoryEvidence:
        """Of a container of which the shim knows nothing, and whose enforcer may: its limits were pinned."""
        limiter = self._limiters.get(record.enforcer)
        if limiter is None:
            return MemoryEvidence()
        try:
            limiter.adopt(Target(record.id, 0, -1, -1, group, record.name), limits_of(record), {})
            verdict = limiter.disarm(record.id)
        except (KeyError, OSError):
            return MemoryEvidence()
        return MemoryEvidence(record.enforcer, verdict.peak_bytes, verdict.hard)

    def take_stock(self) -> None:
        """After the last ``take_over``: what those have that were armed anew."""
        for limiter in self._limiters.values():
            try:
                limiter.take_stock()
            except OSError as error:
                for container, child, by in self._anew:
                    if by is limiter:
                        self._give_up(container, child, f"what it has cannot be counted: {describe(error)}")
        self._anew.clear()

    def _give_up(self, container: Container, child: Child, why: str) -> None:
        record = container.record
        text = f"its memory limit could not be taken over: {why}"
        _log.error("%s: %s", record.name, text)
        if record.request.hard_bytes is None or child.exited.done():
            return
        told = states.limit_lost(record, text)
        self._records.keep(record)
        killing.kill(child)
        self._events.tell(record, *told)


def _namespace(child: Child, kept: Mapping[str, int]) -> int:
    """A descriptor of its pid namespace, the caller's to close. Raises OSError, also when it has just ended."""
    if "memory-namespace" in kept:
        return os.dup(kept["memory-namespace"])
    descriptor = os.open(f"/proc/{child.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    if readable([child.pidfd]):  # then it may be another process's
        os.close(descriptor)
        raise call_error(errno.ESRCH, "open", f"/proc/{child.pid}/ns/pid")
    return descriptor
