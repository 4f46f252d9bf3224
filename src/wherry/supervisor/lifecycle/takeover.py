"""One container of an earlier supervisor, taken over: its process, limits, log and record."""

from __future__ import annotations

import functools
import logging
import os

from wherry.errors import WherryError
from wherry.kernel import cgroups
from wherry.logs import Pipeline
from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.stdin import Stdin
from wherry.supervisor.events import Notice
from wherry.supervisor.lifecycle import pausing, recovery
from wherry.supervisor.lifecycle.starting import Starter
from wherry.supervisor.memory_watch.memory import MemoryWatch
from wherry.supervisor.processes.children import Child, Children
from wherry.supervisor.processes.shimlink import HeldSlot
from wherry.supervisor.processes.shims import Shims
from wherry.supervisor.records import Records

_log = logging.getLogger(__name__)


class Takeover:
    """What taking over needs of the supervisor. The descriptors of a ``HeldSlot`` are used up by each method."""

    def __init__(
        self,
        *,
        children: Children,
        records: Records,
        pipeline: Pipeline,
        memory: MemoryWatch,
        starter: Starter,
        shims: Shims,
        layout: cgroups.Layout,
    ) -> None:
        self._children = children
        self._records = records
        self._pipeline = pipeline
        self._memory = memory
        self._starter = starter
        self._shims = shims
        self._layout = layout

    def unknown(self, held: HeldSlot, cgroup: str) -> Child:
        """A prepared process, or one whose container is on nobody's books; it is to be discarded."""
        child = self._child(held, cgroup)
        for name, descriptor in held.descriptors.items():
            if name not in ("pidfd", "channel"):
                os.close(descriptor)
        return child

    async def adopt(self, container: Container, held: HeldSlot) -> Child:
        """One that runs, or whose end nobody has booked yet."""
        child = self._child(held, container.record.cgroup)
        pausing.restore(container.record, child)
        self._adopt_memory(container, child, held)
        self._adopt_stdin(container, held)
        self._capture_again(container, held)
        await recovery.finish_start(container, child)
        self._starter.reserve_adopted(container)
        self._records.keep(container.record)
        _log.info("%s: taken over, pid %d", container.record.name, container.record.pid)
        return child

    def finish_log(self, container: Container, held: HeldSlot) -> Child:
        """One whose end has been booked, while its log could not be written."""
        child = self._child(held, container.record.cgroup)
        for name, descriptor in held.descriptors.items():
            if name.startswith("memory-") or name == "stdin":  # its end has been explained
                os.close(descriptor)
        container.settled.clear()
        self._capture_again(container, held)
        container.log.expect_end()
        return child

    def book_lost(self, container: Container) -> list[Notice]:
        """One of which neither process nor exit status is to be found."""
        record = container.record
        states.found_lost(record, "neither its process nor its exit status was found after a restart of the supervisor")
        container.log.finish()
        container.log_ended.set()
        evidence = self._memory.rearming.evidence_of_lost(record, cgroups.Group(self._layout, record.cgroup))
        told = states.ended(record, None, evidence, log_is_written=True)
        self._records.keep(record)
        return told

    def _child(self, held: HeldSlot, cgroup: str) -> Child:
        child = recovery.adopt(held, cgroups.Group(self._layout, cgroup))
        self._children.adopt(child)
        return child

    def _adopt_memory(self, container: Container, child: Child, held: HeldSlot) -> None:
        kept = {name: each for name, each in held.descriptors.items() if name.startswith("memory-")}
        new: dict[str, int] = {}
        try:
            new = self._memory.adopt(container, child, kept, is_answered=held.answered)
            if new:
                self._shims.claim(held.name, new, self._memory.alarm_of(container))
        finally:
            for descriptor in new.values():
                os.close(descriptor)
            for descriptor in kept.values():
                os.close(descriptor)

    def _adopt_stdin(self, container: Container, held: HeldSlot) -> None:
        """Without a write end in the shim it has ended, with the client that fed it."""
        request, slot = container.record.request, held.name
        descriptor = held.descriptors.get("stdin", -1)
        if request.stdin:
            let_go = functools.partial(self._shims.let_go, slot, ["stdin"])
            container.stdin = Stdin(descriptor, once=request.stdin_once, let_go=let_go)
        elif descriptor >= 0:
            os.close(descriptor)

    def _capture_again(self, container: Container, held: HeldSlot) -> None:
        try:
            pipes = (held.descriptors["stdout"], held.descriptors["stderr"])
            self._pipeline.add(container.log, *pipes, container.log_ended_in_thread(), held.descriptors["buffer"])
        except (WherryError, OSError, KeyError):
            # The container is worth more than its log; the shim still has the pipes.
            _log.exception("%s: its output cannot be captured", container.record.name)
            container.log_ended.set()
            for name in ("stdout", "stderr", "buffer"):
                if name in held.descriptors:
                    os.close(held.descriptors[name])
