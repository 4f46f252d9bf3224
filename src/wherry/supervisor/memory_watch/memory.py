"""The memory limits of a supervisor's containers: arm them, hand on what enforcers say, collect evidence at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping

from wherry.errors import Conflict, InvalidRequest, NotSupported, StartFailed
from wherry.kernel import cgroup_memory
from wherry.kernel.libc import describe
from wherry.memory import Alarm, Host, Kind, Limits, MemoryEvent, MemoryLimiter, MemoryUsage, Unusable, choice
from wherry.shim import protocol
from wherry.supervisor.containers import states
from wherry.supervisor.containers.cause import MemoryEvidence
from wherry.supervisor.containers.container import Container
from wherry.supervisor.events import Action, Events, Instant
from wherry.supervisor.lifecycle import killing
from wherry.supervisor.memory_watch import soft
from wherry.supervisor.memory_watch.audit import Audited, Auditor
from wherry.supervisor.memory_watch.kernel_log import KernelLog
from wherry.supervisor.memory_watch.rearming import Rearming, limits_of, target_of
from wherry.supervisor.memory_watch.soft import SoftLimits
from wherry.supervisor.memory_watch.victims import Victims
from wherry.supervisor.memory_watch.watched import Watched
from wherry.supervisor.processes.children import Child
from wherry.supervisor.records import Records

_log = logging.getLogger(__name__)

_ACTIONS = {
    Kind.SOFT: Action.SOFT_LIMIT,
    Kind.SOFT_CLEARED: Action.SOFT_LIMIT_CLEARED,
    Kind.HARD: Action.HARD_LIMIT,
}


def backstop(hard_bytes: int) -> int:
    """The group's limit beside a hard limit that another enforcer holds: closes what that one cannot stop in time (one
    huge read from tmpfs), and is high enough not to be met first by the page tables of an ordinary program.
    """
    return hard_bytes + (2 << 20) + hard_bytes // 64


class MemoryWatch:
    """Belongs to the loop. ``open`` first, ``close`` last."""

    def __init__(self, host: Host, events: Events, records: Records) -> None:
        self._host = host
        self._events = events
        self._records = records
        self._limiters: dict[str, MemoryLimiter] = {}
        self._chosen: MemoryLimiter | None = None
        self.refused: dict[str, str] = {}
        """Enforcer -> why it was not taken."""
        self._watched: dict[str, Watched] = {}
        self._soft = SoftLimits(events, self._usage_of)
        self._kernel_log = KernelLog()
        self._victims = Victims(events, records, self._watched, self._drain)
        self._dropped = 0
        self._kept: dict[str, int] = {}
        self.on_change: Callable[[], None] | None = None
        """Called when ``descriptors`` are others, before ``arm`` returns. Set when the shim has got the first ones:
        what an earlier supervisor left there must stay until all of it has been taken over.
        """
        self.crossed_before: Callable[[str], bool] = lambda _slot: False
        """By slot, whether the enforcer of an earlier supervisor, which the shim still holds, has noted a crossing."""
        self.auditor = Auditor(self._audited)

    async def open(self, wanted: str, kept: Mapping[str, int], in_use: set[str]) -> None:
        """Go on with the enforcers that an earlier supervisor used (``in_use``, whose descriptors are ``kept``), and
        choose the one for new containers. Raises InvalidRequest when the wanted one does not work here.
        """
        for name in in_use:
            try:
                self._limiters[name] = await asyncio.to_thread(choice.take_over, name, self._host, dict(kept))
            except Unusable as reason:
                _log.error("containers with limits by %s cannot go on with it: %s", name, reason)
        try:
            chosen = await asyncio.to_thread(choice.choose, wanted, self._host, dict(self._limiters))
        except Unusable as reason:
            self.close()
            raise InvalidRequest(str(reason)) from None
        self._chosen, self.refused = chosen
        if self._chosen is not None:
            self._limiters[self._chosen.name] = self._chosen
        self.rearming = Rearming(self._limiters, self._chosen, self._records, self._events)
        _log.info("memory limits by %s", self.name or "nobody")
        for name, reason_text in self.refused.items():
            _log.info("memory enforcer %s is not taken: %s", name, reason_text)
        loop = asyncio.get_running_loop()
        for limiter in self._limiters.values():
            loop.add_reader(limiter.fileno(), self._drain, limiter)
        self._victims.open()

    @property
    def name(self) -> str:
        """Of the enforcer for new containers, "" when there is none."""
        return "" if self._chosen is None else self._chosen.name

    @property
    def not_counted(self) -> tuple[str, ...]:
        """What its hard limit does not count, in words."""
        return () if self._chosen is None else self._chosen.traits.not_counted

    @property
    def has_backstop(self) -> bool:
        return cgroup_memory.is_offered(*self._host)

    @property
    def dropped(self) -> int:
        """Events and processes that enforcers had no room for."""
        return sum(limiter.dropped() for limiter in self._limiters.values())

    def descriptors(self) -> dict[str, int]:
        """What the shim is to keep for the next supervisor."""
        return {name: each for limiter in self._limiters.values() for name, each in limiter.descriptors().items()}

    def pinnable(self) -> dict[str, int]:
        """What of it a bpffs can hold."""
        pinnable = (limiter for limiter in self._limiters.values() if limiter.traits.is_pinnable)
        return {name: each for limiter in pinnable for name, each in limiter.descriptors().items()}

    def alarms(self) -> list[Alarm]:
        """What the shim is to look at while no supervisor lives."""
        return [alarm for limiter in self._limiters.values() if (alarm := limiter.alarm()) is not None]

    def alarm_of(self, container: Container) -> protocol.Message:
        """The fields of ``claim`` by which the shim finds this container's crossing; {} when it need not look."""
        watched = self._watched.get(container.record.id)
        if watched is None or watched.limiter is None:
            return {}
        found, alarm = watched.limiter.alarm_of(container.record.id), watched.limiter.alarm()
        if isinstance(found, str):
            return {"signal": found}
        return {"element": [alarm.id, found]} if alarm is not None and found is not None else {}

    def arm(self, container: Container, child: Child) -> dict[str, int]:
        """Before the container's command is executed. Returns descriptors that the shim is to keep with it, and the
        caller to close.

        Raises StartFailed, NotSupported: a limit that cannot be enforced is not ignored.
        """
        request = container.record.request
        soft.check(request.soft_action, child.group)
        limits = limits_of(container.record)
        states.watched_by(container.record, "")
        watched = Watched(container, child)
        kept: dict[str, int] = {}
        try:
            if limits != Limits():
                watched.limiter = self._needed()
                kept = self._arm(watched, limits)
                soft.throttle(container.record, limits, child.group)
            elif request.memory_bytes is not None and self._chosen is not None and self._chosen.traits.names_victims:
                # Only to learn whom the OOM killer chooses: nothing is to fail for that.
                with contextlib.suppress(OSError):
                    kept = self._arm(watched, limits)
                    watched.limiter = self._chosen
            if request.memory_bytes is not None or (
                request.hard_bytes is not None and cgroup_memory.is_there(child.group)
            ):
                self._victims.add(container.record.id, child.group)
        except OSError as error:
            self._close_all(kept)
            if watched.limiter is not None and container.record.enforcer:
                watched.limiter.disarm(container.record.id)
            raise StartFailed(f"set memory limit: {describe(error)}") from error
        self._watched[container.record.id] = watched
        self._keep_again()
        return kept

    def _keep_again(self) -> None:
        now = self.descriptors()
        if self.on_change is not None and now != self._kept:
            self._kept = now
            self.on_change()

    def _needed(self) -> MemoryLimiter:
        if self._chosen is None:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.refused.items())
            raise StartFailed(f"set memory limit: nothing on this host can enforce it ({reasons})")
        return self._chosen

    def _arm(self, watched: Watched, limits: Limits) -> dict[str, int]:
        record, child, limiter = watched.container.record, watched.child, self._needed()
        namespace = os.open(f"/proc/{child.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            kept = limiter.arm(target_of(record, child, namespace), limits)
        finally:
            os.close(namespace)
        states.watched_by(record, limiter.name)
        try:
            self._set_backstop(watched, limits)
        except OSError:
            self._close_all(kept)
            raise
        return kept

    def update(self, container: Container, old: Limits, limits: Limits) -> None:
        """New values for the limits that a running container has.

        Raises NotSupported when it has none of that kind, Conflict when it has ended, OSError.
        """
        if old == limits:
            return
        for what, before, after in zip(("soft", "hard"), old, limits, strict=True):
            if (before is None) != (after is None):
                raise NotSupported(
                    f"{container.record.name} runs without a {what} limit: it can get one when it starts"
                )
        watched = self._watched.get(container.record.id)
        if watched is None:  # its last output is still being written, its memory is gone
            raise Conflict(f"{container.record.name} has ended")
        if watched.limiter is None:
            raise NotSupported(f"{container.record.name}: its memory limits were lost, see the supervisor's log")
        rises = (limits.hard_bytes or 0) > (old.hard_bytes or 0)
        if rises:
            self._set_backstop(watched, limits)
        watched.limiter.update(container.record.id, limits)
        if not rises:
            # EBUSY: there is more in the group than that, and the enforcer is about to end it.
            with contextlib.suppress(OSError):
                self._set_backstop(watched, limits)
        soft.throttle(container.record, limits, watched.child.group)

    def reclaim(self, container: Container, old: Limits, limits: Limits) -> None:
        """Have the kernel make room for a lower hard limit before ``update``; blocking, in a thread. No error: what
        cannot be done ``update`` will find out.
        """
        watched = self._watched.get(container.record.id)
        if watched is None or watched.limiter is None or old.hard_bytes is None or limits.hard_bytes is None:
            return
        if limits.hard_bytes < old.hard_bytes and (old.soft_bytes is None) == (limits.soft_bytes is None):
            with contextlib.suppress(OSError):
                if watched.limiter.traits.is_group:
                    cgroup_memory.set_limit(watched.child.group, limits.hard_bytes)
                else:
                    self._set_backstop(watched, limits)

    @staticmethod
    def _set_backstop(watched: Watched, limits: Limits) -> None:
        """Unless the enforcer is the group itself, or the group's own limit is as low."""
        record, group = watched.container.record, watched.child.group
        if limits.hard_bytes is None or record.traits.is_group or not cgroup_memory.is_there(group):
            return
        size, own = backstop(limits.hard_bytes), record.request.memory_bytes
        if own is None or own > size:
            cgroup_memory.set_backstop(group, size)
            states.backstopped(record, size)

    def _audited(self) -> Iterator[Audited]:
        for container_id, each in list(self._watched.items()):
            if each.limiter is not None and not each.child.exited.done():
                name, child = each.container.record.name, each.child
                yield Audited(container_id, name, child.pid, child.group, each.limiter)

    def usage(self, container: Container) -> MemoryUsage | None:
        """What the enforcer counts now; None for a container that it does not watch."""
        watched = self._watched.get(container.record.id)
        if watched is None or watched.limiter is None:
            return None
        with contextlib.suppress(OSError, KeyError):  # it is just ending
            return watched.limiter.stat(container.record.id)
        return None

    def adopt(
        self, container: Container, child: Child, kept: Mapping[str, int], *, is_answered: bool
    ) -> dict[str, int]:
        """For a container that an earlier supervisor armed; it may have ended. ``is_answered``: the shim has killed it
        for a crossing meanwhile.

        Returns descriptors for the shim to keep with it, and the caller to close; empty unless it had to be armed anew.
        """
        record = container.record
        watched = Watched(container, child)
        watched.is_answered = is_answered
        new: dict[str, int] = {}
        if record.enforcer:
            watched.limiter, new = self.rearming.take_over(container, child, kept)
            if new:
                with contextlib.suppress(OSError):  # EBUSY: it has more than that, and is about to be ended
                    self._set_backstop(watched, limits_of(record))
        with contextlib.suppress(OSError):
            if cgroup_memory.limit(child.group) is not None:
                self._victims.add(record.id, child.group)
        self._watched[record.id] = watched
        return new

    def taken_over(self) -> None:
        """All that there was has been adopted: count what was armed anew, and hear what has happened meanwhile."""
        self.rearming.take_stock()
        self._answer_old_crossings()
        for limiter in self._limiters.values():
            self._drain(limiter)
        for watched in self._watched.values():
            self._soft.adopt(watched.container.record, watched.child.group)

    def _answer_old_crossings(self) -> None:
        for watched in self._watched.values():
            if not watched.is_answered and self.crossed_before(watched.child.slot):
                watched.is_answered = True
                self._kill(watched)

    def sweep(self) -> None:
        """What belongs to no container has been killed: forget its limits."""
        for limiter in self._limiters.values():
            limiter.sweep()

    def disarm(self, container: Container) -> MemoryEvidence:
        """The container has ended, or was not started in the end. Empty evidence when it was not armed."""
        watched = self._watched.get(container.record.id)
        if watched is None:
            return MemoryEvidence()
        limiter = watched.limiter
        if limiter is not None:
            self._drain(limiter)  # what it still has to say of this one
        del self._watched[container.record.id]
        self._soft.remove(container.record.id)
        self._victims.remove(container.record.id)
        group, record = watched.child.group, container.record
        is_answered = watched.is_answered or self.crossed_before(watched.child.slot)
        verdict = None if limiter is None else limiter.disarm(record.id)
        if limiter is not None and verdict is not None:
            for event in verdict.untold:
                self._tell(watched, limiter, event)
        kills = cgroup_memory.oom_kills(group)
        return MemoryEvidence(
            enforcer=record.enforcer,
            peak_bytes=verdict.peak_bytes if verdict is not None else None,
            hard=verdict.hard if verdict is not None else None,
            victim=watched.victim,
            unexplained_kills=max(kills - record.oom_children, 0),
            limit_bytes=cgroup_memory.limit(group) if kills else None,
            answered_bytes=record.request.hard_bytes if is_answered else None,
        )

    def explain_kills(self, container: Container, kills: int) -> None:
        """Of a container that has ended, and not by the OOM killer: whoever was killed was another process of it."""
        self._victims.explain(container.record, kills)

    def tick(self) -> None:
        """Once a second: what no descriptor tells."""
        self._answer_old_crossings()
        self._soft.tick()
        for limiter in self._limiters.values():
            self._drain(limiter)
        if self.dropped > self._dropped:
            self._dropped = self.dropped
            _log.error("the memory enforcer had no room for %d events or processes so far", self._dropped)

    def _drain(self, limiter: MemoryLimiter) -> None:
        try:
            events = limiter.read()
        except OSError as error:
            # Its descriptor stays readable: from here on it is asked once a second.
            asyncio.get_running_loop().remove_reader(limiter.fileno())
            _log.error("the memory enforcer %s cannot be read: %s", limiter.name, describe(error))
            return
        self._keep_again()
        for event in events:  # first of all, whatever else there is to say
            watched = self._watched.get(event.container_id)
            if watched is not None and event.kind is Kind.HARD:
                self._kill(watched)
        for event in events:
            watched = self._watched.get(event.container_id)
            if watched is None:
                continue
            if event.kind is Kind.OOM_KILL:
                self._victims.hear(watched, event)
            else:
                self._tell(watched, limiter, event)
                self._soft.hear(event, watched.container.record, watched.child.group)

    def _kill(self, watched: Watched) -> None:
        killing.kill(watched.child)
        record = watched.container.record
        told = states.killed(record)
        if record.is_live:  # else the start saves it: here it would say that there is none
            self._records.keep(record)
        self._events.tell(record, *told)

    def _usage_of(self, container_id: str) -> MemoryUsage | None:
        watched = self._watched.get(container_id)
        return None if watched is None else self.usage(watched.container)

    def _tell(self, watched: Watched, limiter: MemoryLimiter, event: MemoryEvent) -> None:
        record = watched.container.record
        attributes = {
            "enforcer": limiter.name,
            "rss": str(event.rss_bytes),
            "limit": str(event.limit_bytes),
            "peak": str(event.peak_bytes),
        }
        if event.pid:
            attributes |= {"pid": str(event.pid), "comm": event.comm}
        if event.detail:
            attributes["detail"] = event.detail
        if not limiter.traits.writes_kernel_log:
            self._kernel_log.tell(event, record.name, watched.child.pid)
        instant = Instant(event.wall_ns, event.monotonic_ns)
        if not self._events.emit(_ACTIONS[event.kind], record, attributes, instant):
            return  # one of too many
        level = logging.INFO if event.kind is Kind.SOFT_CLEARED else logging.WARNING
        text = "%s: %s: pid %d (%r), %d bytes, limit %d"
        _log.log(level, text, record.name, event.kind, event.pid, event.comm, event.rss_bytes, event.limit_bytes)

    def close(self) -> None:
        """Limits go on where the shim keeps them."""
        loop = asyncio.get_running_loop()
        self._victims.close()
        self._soft.close()
        self._kernel_log.close()
        for limiter in self._limiters.values():
            loop.remove_reader(limiter.fileno())
            limiter.close()
        self._limiters.clear()

    @staticmethod
    def _close_all(descriptors: Mapping[str, int]) -> None:
        for descriptor in descriptors.values():
            os.close(descriptor)
