"""The life of a supervisor's engine: opening it, taking over what an earlier one left, what happens by itself, and its
end. What clients can ask for is ``engine``.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path

from wherry.defaults import PIDS_LIMIT
from wherry.errors import InvalidRequest, NotFound, WherryError
from wherry.kernel import cgroups, process
from wherry.logs import Log, Pipeline
from wherry.memory import Host
from wherry.runtime.exit_status import ExitStatus
from wherry.storage.layers import Layers
from wherry.storage.rootfs import RootfsStore
from wherry.storage.tar.budget import ArchiveLimits
from wherry.supervisor import room
from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import Record
from wherry.supervisor.disk import Disk
from wherry.supervisor.event_log import EventLog
from wherry.supervisor.events import Events
from wherry.supervisor.id_ranges import IdRanges, Userns
from wherry.supervisor.lifecycle import ending, killing, leaving, recovery, stopping
from wherry.supervisor.lifecycle.deadlines import Deadlines
from wherry.supervisor.lifecycle.execing import Execs
from wherry.supervisor.lifecycle.restarting import Restarts
from wherry.supervisor.lifecycle.starting import Starter
from wherry.supervisor.lifecycle.takeover import Takeover
from wherry.supervisor.log_reports import LogReports
from wherry.supervisor.memory_watch.keeping import Keeping
from wherry.supervisor.memory_watch.memory import MemoryWatch
from wherry.supervisor.processes.children import Child, Children
from wherry.supervisor.processes.shimlink import HeldSlot
from wherry.supervisor.processes.shims import Shims
from wherry.supervisor.records import Records
from wherry.supervisor.state_directory import StateDirectory

_log = logging.getLogger(__name__)
_REMOVALS = 2
"""Layers that are deleted at once: more threads of that kind keep the event loop from the interpreter."""
_LISTINGS = 2
"""Runs of ps at once, in threads that others need as well."""


class Lifespan(abc.ABC):
    """Belongs to the loop; ``open`` first, ``close`` or ``detach`` last."""

    def __init__(
        self,
        state: StateDirectory,
        socket: str,
        spares: int,
        enforcer: str = "auto",
        pids_limit: int | None = PIDS_LIMIT,
        limits: ArchiveLimits | None = None,
        bpffs: str | None = None,
        userns: Userns = Userns(),  # noqa: B008 (it does not change)
    ) -> None:
        self.pids_limit = pids_limit
        """Of containers that are created without one."""
        self.userns = userns.default
        """Likewise."""
        self._id_ranges = IdRanges(userns.range, self._all_records)
        self._state = state
        self._socket = socket
        self._spare_count = spares
        self._enforcer = enforcer
        self._limits = limits
        self._bpffs = bpffs
        self._containers: dict[str, Container] = {}
        self._names: dict[str, Container] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._events = Events()
        self._closing = False
        self._remaining: dict[str, str] = {}
        """Container id -> why it could not be stopped in the end."""
        self._room = room.Room()
        self._rootfs = ""
        self._removing = asyncio.Semaphore(_REMOVALS)
        self._listing = asyncio.Semaphore(_LISTINGS)

    @abc.abstractmethod
    async def stop(self, ref: str, seconds: float | None = None) -> bool: ...

    @abc.abstractmethod
    async def remove(self, ref: str, force: bool) -> None: ...

    @abc.abstractmethod
    async def _try_start(self, container: Container) -> None: ...

    async def open(self) -> None:
        """Lock the state directory, find or start the shim, take over what runs. When that fails, containers stay as
        they are.
        """
        self._state.lock()
        with contextlib.ExitStack() as undo:
            undo.callback(self._state.unlock)
            process.become_subreaper()
            self._records = Records(self._state.records)
            undo.callback(self._records.close)
            self._event_log = EventLog.of(self._events, self._state.events)
            undo.callback(self._event_log.close)
            reports = LogReports(self._events, self._record_of)
            self._pipeline = Pipeline(reports.on_gap, reports.on_trouble)
            self._pipeline.start()
            undo.callback(self._pipeline.close)
            await self._open()
            undo.pop_all()

    async def _open(self) -> None:
        self._layout = cgroups.detect()
        # By the directory as well: a copy of it must not sweep the control groups of the original's containers.
        self._instance = self._records.setting(f"instance {self._state.identity()}", secrets.token_hex(4))
        self._parent = f"wherry/{self._instance}"
        self._store = RootfsStore(self._state.rootfs, self._limits)
        self._layers = Layers(self._state.layers, self._spare_count)
        self._disk = Disk(self._state, self._store, self._containers, lambda ref: self.remove(ref, False))
        self._make_parent_group()
        self._shims = Shims(self._state.run, self._on_exit, self._on_shim_lost)
        self._children = Children(self._shims, self._layout, self._parent, self._spare_count)
        self._memory = MemoryWatch(Host(self._layout, self._parent), self._events, self._records)
        self._starter = Starter(
            shims=self._shims,
            children=self._children,
            records=self._records,
            pipeline=self._pipeline,
            store=self._store,
            layer_store=self._layers,
            memory=self._memory,
            stage=str(self._state.stage),
            id_ranges=self._id_ranges,
        )
        self._ender = ending.Ender(
            self._children, self._records, self._pipeline, self._starter, self._events, self._memory
        )
        self._takeover = Takeover(
            children=self._children,
            records=self._records,
            pipeline=self._pipeline,
            memory=self._memory,
            starter=self._starter,
            shims=self._shims,
            layout=self._layout,
        )
        self._execs = self._make_execs()
        self._deadlines = Deadlines(self._records, self._events)
        self._restarts = Restarts(self._records, self._events, self._try_start, self._background)
        try:
            self._keeping = Keeping(self._shims, self._memory, self._bpffs, self._instance)
            held = await self._shims.connect()
            room.check_takeover(self._shims.pid, len(held))
        except BaseException:
            self._remove_parent_group()
            raise
        records = self._records.load()
        await self._open_memory(held, {record.enforcer for record in records if record.slot and record.enforcer})
        self._keeper = asyncio.get_running_loop().create_task(self._keep_records())
        self._auditing = asyncio.get_running_loop().create_task(self._memory.auditor.run())
        await self._recover(held, records)

    def _make_execs(self) -> Execs:
        return Execs(
            shims=self._shims,
            children=self._children,
            books=self._records.execs,
            events=self._events,
            layout=self._layout,
            begin=self._background,
        )

    async def _open_memory(self, held: Sequence[HeldSlot], in_use: set[str]) -> None:
        """Raises InvalidRequest: what runs stays with the shim then."""
        kept = self._keeping.inherited(held)
        try:
            await self._memory.open(self._enforcer, kept, in_use)
        except InvalidRequest:
            self._remove_parent_group()
            raise
        finally:
            for descriptor in kept.values():
                os.close(descriptor)

    async def prepare(self, rootfs: str | None) -> None:
        """Prepare containers ahead, for the default kind; ``rootfs``, if given, is checked and unpacked now.

        Raises InvalidRequest when it cannot be used.
        """
        if rootfs is not None:
            await self._disk.keep_ready(rootfs)
            self._rootfs = rootfs
        self._starter.prepare_ahead(self.userns)

    def _make_parent_group(self) -> None:
        group = cgroups.Group(self._layout, self._parent)
        group.create()
        if not any(cgroups.children(self._layout, self._parent)):
            cgroups.restrict_devices(group)

    def _remove_parent_group(self) -> None:
        """Unless a group of a container, or of another supervisor, is in it."""
        for path in (self._parent, "wherry"):
            cgroups.Group(self._layout, path).remove()

    # What there was before: containers of an earlier supervisor, and the shim.

    async def _recover(self, held: Sequence[HeldSlot], records: Sequence[Record]) -> None:
        by_name = {slot.name: slot for slot in held}
        adopting = []
        lost = []
        for record in records:
            path = self._state.logs / Path(record.log_path).name  # a copied directory has its own
            container = Container(record, Log(path, record.id, record.request.log))
            self._containers[record.id] = self._names[record.name] = container
            slot = by_name.pop(record.slot, None) if record.slot else None
            if slot is not None and record.has_ended:
                self._background(self._clean_up(container, self._takeover.finish_log(container, slot)))
            elif slot is not None:
                adopting.append(self._adopt(container, slot))
            elif record.is_live or (record.slot and not record.has_ended):
                lost.append(container)
                continue
            else:
                container.log.set_stats(record.log_stats)
                container.log.finish()
                container.log_ended.set()
            if slot is None:
                states.gave_ids_back(record)
            if container.is_to_go and slot is None:
                self._background(self.remove(record.id, force=False))  # nobody was there to do it when it ended
        await asyncio.gather(*adopting)
        self._memory.taken_over()
        await asyncio.to_thread(recovery.prune_logs, self._state.logs, records)
        self._execs.recover(by_name, self._containers)
        for slot in by_name.values():  # prepared, or of a container whose record is gone
            self._discard_unknown(slot)
        self._children.all_adopted()
        known = {each.record.slot for each in self._containers.values() if each not in lost} | set(by_name)
        left = await recovery.sweep(self._layout, self._parent, known)
        for container in lost:
            self._book_lost(container, may_live=bool(left))
        self._memory.sweep()
        # Until here the shim holds what there was before: limits that an earlier version has set go on.
        self._keeping.keep()
        self._memory.on_change = self._keeping.keep
        self._restarts.resume(self._containers.values(), is_new_shim=self._shims.has_started)
        self._disk.hold_all()
        is_complete = not self._records.has_unreadable  # else the layers and logs of some would look like nobody's
        layers = {container.record.layer for container in self._containers.values()}
        orphans = sorted(self._layers.known() - layers) if is_complete else []
        self._background(self._disk.clear_up(orphans, self._layers.remove, logs=is_complete))

    def _book_lost(self, container: Container, *, may_live: bool) -> None:
        """What was left of it has been killed, until when its limits may have held: they are pinned. ``may_live``: not
        all that was left of whoever could be, and its ids are nobody else's until the next supervisor has looked.
        """
        record = container.record
        if not may_live:
            states.gave_ids_back(record)
        self._events.tell(record, *self._takeover.book_lost(container))
        if record.request.auto_remove:
            self._background(self.remove(record.id, force=False))

    async def _adopt(self, container: Container, held: HeldSlot) -> None:
        child = await self._takeover.adopt(container, held)
        if container.record.being_killed:
            killing.kill(child)
        self._background(self._watch(container, child))

    def _discard_unknown(self, slot: HeldSlot) -> None:
        child = self._takeover.unknown(slot, f"{self._parent}/{slot.name}")
        self._background(self._children.discard(child))

    def _on_exit(self, slot: str, status: ExitStatus) -> None:
        self._children.exited(slot, status)

    def _on_shim_lost(self) -> None:
        if not self._closing:
            _log.error("the connection to the shim is lost")
            self._background(self._reconnect())

    async def _reconnect(self) -> None:
        """To a shim that lives; else its containers go on, watched by ourselves, and a new shim takes new ones."""
        delay = 0.05
        while not self._closing:
            try:
                held = await self._shims.connect()
                break
            except (WherryError, OSError) as error:
                _log.error("cannot reach or start a shim: %s; trying again", error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, 5)
        else:
            return
        self._children.watch_orphans()
        self._keeping.keep()
        for slot in held:
            self._reconcile(slot)

    def _reconcile(self, slot: HeldSlot) -> None:
        if slot.name not in self._children.by_slot:
            self._discard_unknown(slot)
            return
        for descriptor in slot.descriptors.values():
            os.close(descriptor)
        if slot.exit is not None:
            self._children.exited(slot.name, slot.exit)

    def _record_of(self, container_id: str) -> Record | None:
        container = self._containers.get(container_id)
        return None if container is None else container.record

    def _all_records(self) -> Iterator[Record]:
        return (container.record for container in self._containers.values())

    # What happens by itself.

    async def _keep_records(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._memory.tick()
            self._children.reap_strays()
            if self._records.has_unsaved:
                self._records.retry()
            if self._records.needs_checkpoint:
                await asyncio.to_thread(self._records.checkpoint)

    def _check_present(self, container: Container) -> None:
        if container.record.id not in self._containers:
            raise NotFound(f"no such container: {container.record.name}")

    async def _watch(self, container: Container, child: Child) -> None:
        self._deadlines.begin(container)
        await self._ender.book(container, child)
        self._deadlines.end(container)
        if container.is_to_go and not container.held:
            self._forget(container)
        await self._clean_up(container, child)

    async def _clean_up(self, container: Container, child: Child) -> None:
        await self._ender.clean_up(container, child)
        self._restarts.schedule(container)
        if container.is_to_go:
            await container.wait_until_released()
            self._forget(container)
            await self._remove_layer(container)

    def _background(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("internal error", exc_info=error)

    def _forget(self, container: Container) -> None:
        """Take a container that does not run out of the books, with its log. Raises InternalError when that fails."""
        if container.record.id in self._containers:
            self._records.retire(container.record)
            self._take_out(container)
            container.removed.set()
            container.released.set()  # release() would not find it any more
            container.wake_exit_waiters()
            self._events.tell(container.record, states.removed())

    def _discard(self, container: Container) -> None:
        self._forget(container)
        self._background(self._remove_layer(container))

    def _take_out(self, container: Container) -> None:
        record = container.record
        self._containers.pop(record.id, None)
        self._execs.forget_those_of(record.id)
        if self._names.get(record.name) is container:
            del self._names[record.name]
        if not container.log_ended.is_set():
            self._pipeline.abandon(container.log)
        # Its blocks are given back with the last descriptor, which takes long for gigabytes.
        held = container.log.hold()
        container.log.remove()
        if held:
            self._background(asyncio.to_thread(_close_all, held))

    async def _remove_layer(self, container: Container) -> None:
        await container.settled.wait()
        if self._disk.released(container.record):
            self._background(self._disk.trim())
        async with self._removing:
            await asyncio.to_thread(self._layers.remove, container.record.layer)

    # The end of it.

    async def stop_all(self) -> None:
        """Let nothing be started any more and stop what runs; returns when the ends have been booked, or when what
        remains does not end: ``close`` says what that is.
        """
        self._closing = True
        self._restarts.close()
        self._store.close()
        busy = self._busy()
        _log.info("stopping %d containers", len(busy))
        while busy:
            times = (stopping.time_at_shutdown(container.record.request) for container in busy)
            stops = (self.stop(each.record.id, seconds) for each, seconds in zip(busy, times, strict=True))
            for container, outcome in zip(busy, await asyncio.gather(*stops, return_exceptions=True), strict=True):
                if isinstance(outcome, BaseException):
                    self._remaining[container.record.id] = str(outcome) or repr(outcome)
            busy = [each for each in self._busy() if each.record.id not in self._remaining]

    def _has_unwritten_logs(self) -> bool:
        return any(found.record.slot and not found.log_ended.is_set() for found in self._containers.values())

    def _busy(self) -> Sequence[Container]:
        return [found for found in self._containers.values() if found.record.is_live or found.lock.locked()]

    async def detach(self) -> None:
        """Give up without touching what runs: it stays with the shim, for the next supervisor. Else as ``close``."""
        self._closing = True
        if not self._busy() and not self._has_unwritten_logs():
            await self.close()
            return
        await self._detach()

    async def _detach(self) -> None:
        self._closing = True
        self._restarts.close()
        self._deadlines.close()
        self._keeper.cancel()
        self._auditing.cancel()
        await leaving.leave_ends(self._containers.values(), self._children, self._tasks)
        self._execs.close()
        await self._starter.close()
        await self._children.close()
        self._shims.close()
        self._keeping.close()
        self._memory.close()
        await asyncio.to_thread(self._pipeline.close)
        self._event_log.close()
        self._records.close()
        self._state.unlock()

    async def close(self) -> Sequence[str]:
        """Stop every container and leave no process, mount or control group of ours.

        Returns what could not be ended, a line each; that stays with the shim for the next supervisor, as all does
        after ``detach``.
        """
        await self.stop_all()
        await self._children.close()
        left = [self._remaining[each.record.id] for each in self._busy()]
        left += [await asyncio.to_thread(killing.remains, child.group, child.pid) for child in self._children.lingering]
        if left:
            self._ender.close()
            others = [each for each in self._containers.values() if each not in self._busy()]
            with contextlib.suppress(TimeoutError):
                settling = asyncio.gather(*(each.settled.wait() for each in others))
                await asyncio.wait_for(settling, killing.KILL_SECONDS)
            await self._detach()
            return left
        self._keeper.cancel()
        self._auditing.cancel()
        self._ender.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=30)
        self._execs.close()
        await self._starter.close()
        self._memory.close()
        await self._shims.shutdown()
        self._keeping.end()
        await asyncio.to_thread(self._pipeline.close)
        left = await recovery.sweep(self._layout, self._parent, set())
        if not left:
            await killing.remove_group(cgroups.Group(self._layout, self._parent))
        self._remove_parent_group()
        self._event_log.close()
        self._records.retry()
        self._records.close()
        self._state.unlock()
        return left


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
