"""Supervisors without a machine: the real engine, records, events, starts, ends, take-overs and kills, on played ones.

Played are the shim, which outlives supervisors and can be killed as well, the processes, the log pipeline's threads,
memory limits, overlays and the clock: time passes when nothing else is to be done. Control groups are plain directories
with a freezer's file. A SIGKILL cuts a supervisor off, at once or after so many more things that it does to the world
(``World.fuse``): what its code still does until it is thrown away reaches nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from tests.playedprocess import MINDS, Process
from tests.playedtime import Loop, here

from wherry.kernel import unix_sockets
from wherry.kernel.cgroups import Group, Layout
from wherry.logs import Log
from wherry.runtime import launch
from wherry.runtime.exit_status import ExitStatus
from wherry.supervisor import lifespan
from wherry.supervisor.containers.cause import MemoryEvidence
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.engine import Engine
from wherry.supervisor.event_log import EventLog
from wherry.supervisor.events import Event
from wherry.supervisor.processes.children import Child
from wherry.supervisor.processes.shimlink import HeldSlot, Spawn
from wherry.supervisor.records import Records
from wherry.supervisor.state_directory import StateDirectory

T = TypeVar("T")
_MEMORY = "/dev/shm"
LONGEST = 1000.0
"""Played seconds: nothing that is waited for takes longer."""


class Link:
    """``Shims`` of one supervisor: the one that is ``world.slots``."""

    kept: dict[str, int] = {}  # noqa: RUF012 (never written)
    alarms = ()

    def __init__(self, _: Path, on_exit: Callable[[str, ExitStatus], None], __: Callable[[], None]) -> None:
        self.pid = os.getpid()
        self._on_exit = on_exit
        self._world = World.of_now
        self.has_started = self._world.has_new_shim
        self._world.has_new_shim = False

    def tell(self, slot: str, status: ExitStatus) -> None:
        if self._world.link is self:
            self._on_exit(slot, status)

    async def connect(self) -> list[HeldSlot]:
        self._world.link = self
        return [self._held(each) for each in self._world.slots.values()]

    def _may(self) -> bool:
        return self._world.link is self and self._world.acts()

    @staticmethod
    def _held(each: Process) -> HeldSlot:
        descriptors = {name: os.dup(held) for name, held in {"pidfd": each.pidfd, **each.held}.items()}
        return HeldSlot(each.slot, each.pid, bool(each.held), each.status, descriptors)

    async def ready(self) -> None: ...

    def has(self, slot: str) -> bool:
        return slot in self._world.slots

    async def spawn(self, slot: str, request: Spawn) -> tuple[int, int]:
        if not self._may():
            await asyncio.Event().wait()
        group = Path(request.cgroups[0]).parents[1]
        (group / "freezer.state").write_text("THAWED")
        pid = self._world.next_pid()
        process = Process(
            self._world, slot, pid, group, socket.socket(fileno=os.dup(request.descriptors[launch.CHANNEL]))
        )
        self._world.slots[slot] = process
        await asyncio.sleep(0)
        return process.pid, os.dup(process.pidfd)

    def claim(self, slot: str, held: Mapping[str, int], _: object) -> None:
        if self._may():
            self._world.slots[slot].held |= {name: os.dup(each) for name, each in held.items()}

    def release(self, slot: str) -> None:
        if self._may() and (process := self._world.slots.pop(slot, None)) is not None:
            process.close()

    def close(self) -> None:
        self._world.link = None

    async def shutdown(self) -> None:
        self.close()


class Pipes:
    """The log pipeline: a log ends with its pipes."""

    def __init__(self, *_: object) -> None:
        self._logs: dict[Log, tuple[set[int], Callable[[], None]]] = {}

    def start(self) -> None: ...

    def add(self, log: Log, stdout: int, stderr: int, done: Callable[[], None], buffer: int) -> None:
        os.close(buffer)
        self._logs[log] = ({stdout, stderr}, done)
        for descriptor in (stdout, stderr):
            asyncio.get_running_loop().add_reader(descriptor, self._ended, log, descriptor)

    def _ended(self, log: Log, descriptor: int) -> None:
        open_ones, done = self._logs[log]
        self._drop(open_ones, descriptor)
        if not open_ones:
            del self._logs[log]
            done()

    @staticmethod
    def _drop(open_ones: set[int], descriptor: int) -> None:
        World.of_now.loop.remove_reader(descriptor)
        os.close(descriptor)
        open_ones.discard(descriptor)

    def finish(self, log: Log) -> None:
        if log in self._logs:
            done = self._logs[log][1]
            self.abandon(log)
            done()

    def abandon(self, log: Log) -> None:
        for descriptor in list(self._logs.get(log, [()])[0]):
            self._drop(self._logs[log][0], descriptor)
        self._logs.pop(log, None)

    def close(self) -> None:
        for log in list(self._logs):
            self.abandon(log)


class NoMemory:
    """``MemoryWatch`` without an enforcer."""

    name, refused, dropped, has_backstop, on_change = "", {}, 0, False, None  # type: ignore[var-annotated]

    def __init__(self, *_: object) -> None:
        self.auditor = self.rearming = self
        self.worst = None

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None

    async def open(self, *_: object) -> None: ...

    async def run(self) -> None:
        await asyncio.Event().wait()

    def arm(self, *_: object) -> dict[str, int]:
        return {}

    def alarm_of(self, *_: object) -> dict[str, int]:
        return {}

    def adopt(self, *_: object, **__: object) -> dict[str, int]:
        return {}

    def disarm(self, *_: object) -> MemoryEvidence:
        return MemoryEvidence()

    def evidence_of_lost(self, *_: object) -> MemoryEvidence:
        return MemoryEvidence()


class NoKeeping:
    def __init__(self, *_: object) -> None: ...

    def inherited(self, _: object) -> dict[str, int]:
        return {}

    def keep(self) -> None: ...

    def close(self) -> None: ...

    def end(self) -> None: ...


class Overlays:
    """``Layers`` that hold nothing."""

    has_retired = False

    def __init__(self, *_: object) -> None:
        self._made = World.of_now.layers

    def mount(self, layer: str, rootfs: int, _mapping: object) -> tuple[str, int]:
        layer = layer or f"layer{len(self._made)}"
        self._made.add(layer)
        return layer, os.dup(rootfs)

    def known(self) -> set[str]:
        return set(self._made)

    def remove(self, layer: str) -> None:
        if World.of_now.link is not None:
            self._made.discard(layer)

    async def refill(self, _wanted: object) -> None: ...

    def close(self) -> None: ...


class World:
    """One state directory and its shim, and the supervisors that come and go; ``engine`` is the one of now."""

    of_now: World
    """The one that is played: one at a time."""

    def __init__(self) -> None:
        World.of_now = self
        self.folder = Path(tempfile.mkdtemp(prefix="wherry-life-", dir=_MEMORY if os.path.isdir(_MEMORY) else None))
        self.rootfs = self.folder / "rootfs"
        self.groups = self.folder / "cgroup"
        for path in (self.rootfs, self.groups):
            path.mkdir()
        self.loop = Loop()
        asyncio.set_event_loop(self.loop)
        self.slots: dict[str, Process] = {}
        self.link: Link | None = None
        """Of the supervisor that lives."""
        self.fuse: int | None = None
        """How many more things it does to the world."""
        self.has_new_shim = True
        """The next supervisor has to start one."""
        self.layers: set[str] = {""}
        self.told: list[Event] = []
        """What supervisors have told, and clients may have heard."""
        self.on_event: Callable[[Event], None] = lambda _: None
        self._pid = 1000
        self._patches = contextlib.ExitStack()
        for target, replacement in self._replacements():
            self._patches.enter_context(mock.patch(target, replacement))
        self.open()

    def _replacements(self) -> Iterator[tuple[str, object]]:
        for name, replacement in {
            "Layers": Overlays,
            "MemoryWatch": NoMemory,
            "Keeping": NoKeeping,
            "Shims": Link,
            "Pipeline": Pipes,
        }.items():
            yield f"{lifespan.__name__}.{name}", replacement
        yield "wherry.kernel.process.become_subreaper", lambda: None
        yield "wherry.kernel.cgroups.detect", lambda: Layout(1, {"freezer": str(self.groups)})
        yield "wherry.kernel.cgroup_trees.remove", self._remove_group
        yield "wherry.kernel.cgroup_trees.write_at", self._write_at
        yield "wherry.kernel.cgroups.Group.write", lambda *words: self._write(*words)  # noqa: PLW0108 (a bound method would not be given the group)
        yield "wherry.runtime.cgroup_limits.apply", lambda *_: None
        yield "wherry.runtime.cgroup_limits.peak_memory", lambda _: None
        yield "wherry.runtime.cgroup_limits.peak_pids", lambda _: None
        yield "wherry.kernel.procfs.receives", lambda pid, _: self._process(pid).command == MINDS
        yield "wherry.kernel.procfs.ignores", lambda *_: False
        yield "signal.pidfd_send_signal", self._signal
        yield "wherry.supervisor.records.Records._execute", self._when_alive(Records._execute)
        yield "wherry.supervisor.event_log.EventLog.flush", self._when_alive(EventLog.flush)
        yield "wherry.supervisor.processes.children.Child._read", self._read(Child._read)
        yield "wherry.kernel.unix_sockets.send", self._send(unix_sockets.send)
        yield "asyncio.to_thread", here

    # What supervisors do to it.

    def acts(self) -> bool:
        """Whether what a supervisor does now still happens."""
        if self.link is not None and self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.link = None
        return self.link is not None

    def _send(self, do: Callable[..., int]) -> Callable[..., int]:
        return lambda to, data, *words: do(to, data, *words) if self.acts() else len(data)

    def _read(self, do: Callable[[Child], Coroutine[Any, Any, bool]]) -> Callable[[Child], Coroutine[Any, Any, bool]]:
        async def read(child: Child) -> bool:
            if self.link is None:  # what it took from the channel would be lost to the next
                await asyncio.Event().wait()
            return await do(child)

        return read

    def _when_alive(self, do: Callable[..., None]) -> Callable[..., None]:
        return lambda *words: do(*words) if self.acts() else None

    def next_pid(self) -> int:
        self._pid += 1
        return self._pid

    def _process(self, pid: int) -> Process:
        return next(each for each in self.slots.values() if each.pid == pid)

    def _signal(self, pidfd: int, number: int) -> None:
        wanted = os.fstat(pidfd).st_ino
        for process in list(self.slots.values()):
            if os.fstat(process.pidfd).st_ino == wanted and self.acts():
                process.signal(number)

    def _write(self, group: Group, controller: str, file: str, value: object) -> None:
        if self.acts():
            Path(group.directories[controller], file).write_text(str(value))
            self._look()

    def _write_at(self, descriptor: int, file: str, value: str) -> None:
        if self.acts():
            with contextlib.suppress(FileNotFoundError):
                Path(f"/proc/self/fd/{descriptor}", file).write_text(value)
            self._look()

    def _look(self) -> None:
        for process in list(self.slots.values()):
            process.look()

    def _remove_group(self, directories: list[str], _: str) -> bool:
        if self.link is not None:
            for directory in directories:
                shutil.rmtree(directory, ignore_errors=True)
        return True

    # What happens to it.

    def request(self, command: str, **fields: Any) -> CreateRequest:
        return CreateRequest(rootfs=str(self.rootfs), command=(command,), **fields)

    def process_of(self, container_id: str) -> Process | None:
        slot = self.engine.get(container_id).slot
        return self.slots.get(slot) if slot else None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(LONGEST):
                return await work

        return self.loop.run_until_complete(bounded())

    def settle(self) -> None:
        """Until nothing happens by itself any more: longer than anybody waits for anything."""
        self.run(asyncio.sleep(60))

    def open(self) -> None:
        """A new supervisor: takes over what there is."""
        self.fuse = None
        self.engine = Engine(StateDirectory(str(self.folder / "state")), "/nowhere", 0)
        tell = self.engine._events._add

        def told(event: Event) -> None:
            if self.link is not None:
                self.told.append(event)
                self.on_event(event)
            tell(event)

        self.engine._events._add = told  # type: ignore[method-assign]
        self.run(self.engine.open())

    def kill_during(self, work: Coroutine[Any, Any, object], things: int) -> None:
        """SIGKILL after so many more things that it does to the world, at the end of ``work`` at the latest."""

        async def wait() -> None:
            while self.link is not None and not task.done():  # noqa: ASYNC110 (sleep takes no time)
                await asyncio.sleep(0.1)

        self.fuse = things
        task = self.loop.create_task(work)
        self.run(wait())
        self.kill()

    def kill(self) -> None:
        """SIGKILL of the supervisor."""
        engine = self.engine
        self.link = self.fuse = None
        engine._records.close()
        engine._event_log.close()
        self._cancel_all()
        self._close_descriptors(engine)
        engine._pipeline.close()
        engine._state.unlock()
        self.loop.run_until_complete(asyncio.sleep(0.001))  # parked processes see the end of their channels

    @staticmethod
    def _close_descriptors(engine: Engine) -> None:
        """As the end of the process does."""
        for child in engine._children.by_slot.values():
            child.close()
            if child.root >= 0:
                os.close(child.take_root())

    def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))

    def kill_shim(self) -> None:
        """With the supervisor dead: its containers are lost, and what they still do is swept away."""
        assert self.link is None
        for process in self.slots.values():
            process.close()
        self.slots.clear()
        self.has_new_shim = True

    def detach(self) -> None:
        """What a supervisor does that makes room for another in an orderly way."""
        self.run(self.engine.detach())
        self._close_descriptors(self.engine)

    def close(self) -> None:
        try:
            for process in self.slots.values():
                process.is_stuck = False
            left = self.run(self.engine.close())
            assert not left, left
            assert not self.slots
            assert not list(self.groups.rglob("freezer.state"))
        finally:
            self._cancel_all()
            self._patches.close()
            self.loop.close()
            asyncio.set_event_loop(None)
            shutil.rmtree(self.folder)
