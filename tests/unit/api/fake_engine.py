"""An engine that keeps its containers in memory.

It keeps the promises of ``needs.Engine`` (what registers when, which error, what ``hold`` holds), and plays some
commands.
"""

from __future__ import annotations

import asyncio
import builtins
import copy
import itertools
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from signal import SIGKILL, SIGTERM
from typing import Any, cast

from tests.unit.api.fake_log import FakeLog

from wherry import errors
from wherry.logs import Log
from wherry.storage import trees
from wherry.storage.catalogue import Unpacked
from wherry.storage.tar.budget import Space
from wherry.supervisor.containers.execution import ExecRequest
from wherry.supervisor.containers.names import generate_name
from wherry.supervisor.containers.process_list import ProcessList
from wherry.supervisor.containers.record import End, EngineInfo, Reason, Record, State
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.containers.stdin import Stdin
from wherry.supervisor.containers.usage import Resident, Usage
from wherry.supervisor.disk import ContainerUsage, Disk, DiskUsage, Pruned
from wherry.supervisor.events import Events
from wherry.supervisor.lifecycle.execing import Execution
from wherry.supervisor.lifecycle.updating import changed


class Entry:
    """A container of the fake engine."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.log = FakeLog()
        self.held = False
        self.waiters: dict[str, builtins.list[asyncio.Future[End]]] = {"next-exit": [], "removed": []}


class FakeDisk:
    """See ``supervisor.disk.Disk``: two archives, one of them in use; each container has 100 bytes of layer and 10 of
    log.
    """

    cache_limit = 1000

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.measured = False, False
        """Whether archives and containers were, the last time."""
        self.found = [Unpacked("a" * 64, "/a.tar", trees.TreeUsage(5000, 7), 10**9, 2 * 10**9, 1), Unpacked("b" * 64)]

    def space(self) -> Space:
        return Space(1 << 30, 1 << 20, 1000, 10)

    def archives(self) -> builtins.list[Unpacked]:
        return self.found

    async def usage(self, *, archives: bool = True, containers: bool = True) -> DiskUsage:
        self.measured = archives, containers
        there = [ContainerUsage(entry.record, 100, 10) for entry in self._engine.entries.values() if containers]
        return DiskUsage(self.found, there, self.space())

    async def prune_containers(self, wanted: Callable[[Record], bool]) -> Pruned:
        gone = [entry.record for entry in self._engine.entries.values() if wanted(entry.record)]
        return Pruned([record.id for record in gone if record.state is not State.RUNNING], 110 * len(gone))

    async def prune_archives(self, before_ns: int | None) -> builtins.list[Unpacked]:
        return [each for each in self.found if not each.users and (before_ns is None or each.used_ns < before_ns)]


class FakeEngine:
    """See ``needs.Engine``. Commands: true, false, echo, mixed (both streams, exits 3), sleep, missing, broken."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.pids_limit: int | None = 100
        self.userns = "host"
        self.slow = 0.0  # seconds that create and start take
        self.stop_calls: builtins.list[float | None] = []
        self.stop_signals: builtins.list[int | None] = []
        self.kill_calls: builtins.list[int] = []
        self.update_calls: builtins.list[dict[str, Any]] = []
        self._pids = itertools.count(1000)
        self.told = Events(capacity=64)

    async def create(self, name: str | None, request: CreateRequest) -> Record:
        name = name or generate_name(self.entries)
        if name in self.entries:
            raise errors.NameInUse(f"the name {name} is in use")
        entry = Entry(Record(id=secrets.token_hex(32), name=name, request=request, created_ns=time.time_ns()))
        self.entries[name] = entry
        await asyncio.sleep(self.slow)
        return entry.record

    async def start(self, ref: str) -> Record | None:
        entry = self._entry(ref)
        if entry.record.state is State.RUNNING:
            return None
        return await self._launch(entry)

    async def _launch(self, entry: Entry) -> Record:
        record = entry.record
        await asyncio.sleep(self.slow)
        command, *words = record.request.command
        if command == "missing":
            raise errors.CommandNotFound(f"cannot start {record.name}: exec missing: no such file (ENOENT)")
        if command == "broken":
            raise RuntimeError("a fault of ours")
        record.state, record.pid, record.started_ns = State.RUNNING, next(self._pids), time.time_ns()
        launched = copy.copy(record)
        self._play(entry, command, words)
        return launched

    def _play(self, entry: Entry, command: str, words: builtins.list[str]) -> None:
        if command == "echo":
            entry.log.write(1, " ".join(words).encode() + b"\n")
        if command == "mixed":
            entry.log.write(1, b"out\n")
            entry.log.write(2, b"err\n")
        if command != "sleep":
            code = {"false": 1, "mixed": 3}.get(command, 0)
            self.end(entry, Reason.EXITED, code, None)

    async def run(
        self, name: str | None, request: CreateRequest, *, hold: bool = False, replace: bool = False
    ) -> Record:
        if replace and name in self.entries:
            await self.remove(name, force=True)
        record = await self.create(name, request)
        entry = self.entries[record.name]
        entry.held = hold
        try:
            return await self._launch(entry)
        except BaseException:
            del self.entries[record.name]
            raise

    async def release(self, ref: str) -> None:
        await asyncio.sleep(0)
        for entry in [entry for entry in self.entries.values() if entry.record.id == ref]:
            entry.held = False
            self._remove_if_due(entry)

    def create_exec(self, ref: str, request: ExecRequest) -> Execution:
        raise errors.Conflict(f"container {self._entry(ref).record.name} is not running")

    def find_exec(self, ref: str) -> Execution:
        raise errors.NotFound(f"No such exec instance: {ref}")

    def check_exec(self, execution: Execution) -> None:
        raise AssertionError(f"there is none: {execution}")

    async def start_exec(self, execution: Execution, *, attached: bool) -> None:
        raise AssertionError(f"there is none: {execution}, {attached}")

    def leave_exec(self, execution: Execution) -> None:
        raise AssertionError(f"there is none: {execution}")

    def end(self, entry: Entry, reason: Reason, exit_code: int | None, number: int | None) -> None:
        record = entry.record
        record.state, record.reason, record.exit_code, record.signal = State.EXITED, reason, exit_code, number
        record.pid, record.finished_ns = 0, time.time_ns()
        entry.log.finish()
        self._tell(entry, "next-exit")
        self._remove_if_due(entry)

    def _remove_if_due(self, entry: Entry) -> None:
        record = entry.record
        if record.request.auto_remove and record.state is State.EXITED and not entry.held:
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        self.entries.pop(entry.record.name, None)
        self._tell(entry, "removed")

    def _tell(self, entry: Entry, condition: str) -> None:
        for waiter in entry.waiters[condition]:
            if not waiter.done():
                waiter.set_result(End.of(entry.record))
        entry.waiters[condition].clear()

    async def stop(self, ref: str, seconds: float | None = None, signal: int | None = None) -> bool:
        self.stop_calls.append(seconds)
        self.stop_signals.append(signal)
        entry = self._entry(ref)
        if entry.record.state is not State.RUNNING:
            return False
        entry.record.stop_requested = True
        await asyncio.sleep(self.slow)
        self.end(entry, Reason.STOPPED, None, SIGTERM)
        return True

    async def kill(self, ref: str, signal: int) -> None:
        entry = self._entry(ref)
        if entry.record.state is not State.RUNNING:
            raise errors.Conflict(f"container {entry.record.name} is not running")
        self.kill_calls.append(signal)
        self.end(entry, Reason.SIGNALED, None, signal)

    async def restart(self, ref: str, seconds: float | None = None, signal: int | None = None) -> Record:
        await self.stop(ref, seconds, signal)
        return await self._launch(self._entry(ref))

    async def pause(self, ref: str) -> None:
        self._move(ref, State.RUNNING, State.PAUSED)

    async def unpause(self, ref: str) -> None:
        self._move(ref, State.PAUSED, State.RUNNING)

    def _move(self, ref: str, before: State, after: State) -> None:
        record = self._entry(ref).record
        if record.state is not before:
            raise errors.Conflict(f"container {record.name} is {record.state}")
        record.state = after

    async def rename(self, ref: str, name: str) -> None:
        entry = self._entry(ref)
        if name in self.entries:
            raise errors.NameInUse(f"name in use: {name}")
        del self.entries[entry.record.name]
        entry.record.name = name
        self.entries[name] = entry

    async def processes(self, ref: str, options: str) -> ProcessList:
        record = self._entry(ref).record
        return ProcessList(["PID", "CMD"], [[str(record.pid), f"{record.request.command[0]} {options}"]])

    async def update(self, ref: str, changes: Mapping[str, Any]) -> None:
        entry = self._entry(ref)
        entry.record.request = changed(entry.record.request, changes)
        self.update_calls.append(dict(changes))

    async def wait(self, ref: str, condition: str) -> End:
        entry = self._entry(ref)
        if condition == "not-running" and entry.record.state is not State.RUNNING:
            return End.of(entry.record)
        waiter: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        entry.waiters["removed" if condition == "removed" else "next-exit"].append(waiter)
        return await waiter

    async def remove(self, ref: str, force: bool) -> None:
        entry = self._entry(ref)
        if entry.record.state is State.RUNNING:
            if not force:
                raise errors.Conflict(f"container {entry.record.name} is running: stop it first or use force")
            self.end(entry, Reason.SIGNALED, None, SIGKILL)
        self._forget(entry)

    def _entry(self, ref: str) -> Entry:
        if ref in self.entries:
            return self.entries[ref]
        found = [entry for entry in self.entries.values() if entry.record.id.startswith(ref)]
        if not found:
            raise errors.NotFound(f"No such container: {ref}")
        if len(found) > 1:
            raise errors.Conflict(f"{ref} is ambiguous")
        return found[0]

    def get(self, ref: str) -> Record:
        return self._entry(ref).record

    def list(self) -> builtins.list[Record]:
        return sorted((entry.record for entry in self.entries.values()), key=lambda record: -record.created_ns)

    async def usages(self, refs: Sequence[str]) -> dict[str, Usage]:
        for ref in refs:
            self.get(ref)
        return {}

    def resident(self, ref: str) -> Resident | None:
        self.get(ref)
        return None

    def log(self, ref: str) -> Log:
        return cast(Log, self._entry(ref).log)

    def stdin(self, ref: str) -> Stdin | None:
        self.get(ref)
        return None

    def events(self) -> Events:
        return self.told

    def disk(self) -> Disk:
        return cast(Disk, FakeDisk(self))

    def info(self) -> EngineInfo:
        states = [entry.record.state for entry in self.entries.values()]
        return EngineInfo(
            version="0.1",
            state_dir="/var/lib/wherry",
            socket="/run/wherry/engine.sock",
            pid=1,
            shim_pid=2,
            cgroup_version=1,
            cgroup_parent="wherry",
            kernel="6.18",
            cpus=2,
            rootfs="",
            memory_bytes=1 << 30,
            enforcer="cgroup",
            enforcers_refused={"bpf": "no BTF"},
            enforcer_dropped=0,
            has_backstop=True,
            not_counted=("page tables",),
            drift_bytes=-4096,
            drift_of="alpha",
            containers_running=states.count(State.RUNNING),
            containers_paused=states.count(State.PAUSED),
            containers_restarting=states.count(State.RESTARTING),
            containers_created=states.count(State.CREATED),
            containers_exited=states.count(State.EXITED),
            hostname="box",
            spares=0,
        )
