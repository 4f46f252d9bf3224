"""The engine: all containers of one supervisor, and what can be done with them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any

import wherry
from wherry.errors import Conflict, InternalError, InvalidRequest, NameInUse, NotFound, StartFailed, WherryError
from wherry.kernel.libc import describe
from wherry.logs import Log
from wherry.runtime.signals import signal_number
from wherry.supervisor import turns
from wherry.supervisor.containers import process_list, states, usage
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.execution import ExecRequest
from wherry.supervisor.containers.names import find, generate_name
from wherry.supervisor.containers.process_list import ProcessList
from wherry.supervisor.containers.record import End, EngineInfo, Record, State
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.containers.stdin import Stdin
from wherry.supervisor.containers.usage import Resident
from wherry.supervisor.disk import Disk
from wherry.supervisor.events import Events
from wherry.supervisor.lifecycle import pausing, replacing, stopping, updating
from wherry.supervisor.lifecycle.execing import Execution
from wherry.supervisor.lifespan import Lifespan

_log = logging.getLogger(__name__)


class Engine(Lifespan):
    """Open it inside a running loop; all methods belong to that loop. Every method raises ``wherry.errors`` only."""

    async def create(self, name: str | None, request: CreateRequest) -> Record:
        container = self._create(name, request)
        try:
            self._records.save(container.record)
        except BaseException:
            self._take_out(container)
            raise
        self._events.tell(container.record, states.created())
        return container.record

    def _create(self, name: str | None, request: CreateRequest) -> Container:
        if self._closing:
            raise Conflict("the supervisor is shutting down")
        container_id = secrets.token_hex(32)
        name = name or generate_name(self._names)
        self._check_free(name)
        path = self._log_path(name, container_id)
        record = Record(id=container_id, name=name, request=request, created_ns=time.time_ns(), log_path=str(path))
        container = Container(record, Log(path, container_id, request.log))
        if path.exists():  # of a container that was removed while its supervisor was being killed
            container.log.remove()
        self._containers[container_id] = self._names[name] = container
        return container

    def _check_free(self, name: str) -> None:
        if name in self._names:
            other = self._names[name].record
            hint = f'; "engine rm {name}" frees it' if states.can_remove(other) else ""
            raise NameInUse(f"name in use: {name} ({other.state}){hint}")

    def _log_path(self, name: str, container_id: str) -> Path:
        """Named after the container, unless another one that had the name has its log there."""
        taken = {each.record.log_path for each in self._containers.values()}
        path = self._state.log_of(name)
        return path if str(path) not in taken else self._state.log_of(f"{name}.{container_id}")

    async def start(self, ref: str) -> Record | None:
        """A copy of the record as it was when the command had been executed; None when it runs already. One that is
        restarting does not wait any longer.
        """
        container = self._find(ref)
        async with container.lock:
            if container.record.state is State.RUNNING:
                return None
            if states.can_give_up(container.record):
                self._restarts.give_up(container)
            states.require(states.can_start, container.record)
            self._check_present(container)
            _check_stays(container)
            if not container.settled.is_set() and (trouble := container.log.trouble):
                raise Conflict(f"the log of the last run of {container.record.name} is not written yet: {trouble}")
            await container.settled.wait()
            await self._try_start(container)
            return copy.copy(container.record)

    async def run(
        self, name: str | None, request: CreateRequest, *, hold: bool = False, replace: bool = False
    ) -> Record:
        """Create and start as one: when it fails, nothing is left, not even a record.

        Returns a copy of the record as it was when the command had been executed. With ``hold`` automatic removal
        waits until ``release``, so that a caller can read the output of a container that ends at once, and its log
        keeps all of it for the first who asks (``Log.watch``). With ``replace`` a container that has the name is
        stopped and removed before.
        """
        replaced = replace and await replacing.make_way(
            name, request, self._names, self._store, self.stop, self._discard
        )
        with replacing.told(replaced):
            return await self._run(self._create(name, request), hold)

    async def _run(self, container: Container, hold: bool) -> Record:
        if hold:
            container.held = True
            container.log.keep()
        self._events.tell(container.record, states.created())
        async with container.lock:
            try:
                await self._start(container)
                return copy.copy(container.record)
            except BaseException:
                with contextlib.suppress(InternalError):  # then the next supervisor finds it, as one that was lost
                    self._records.delete(container.record)
                self._take_out(container)
                self._events.tell(container.record, states.removed())
                await self._remove_layer(container)
                raise

    async def release(self, ref: str) -> None:
        """End the hold of ``run``; a container that has ended and is to be removed is gone then."""
        container = self._containers.get(ref)
        if container is None or not container.held:
            return
        container.held = False
        container.released.set()
        container.log.stop_keeping()
        if container.is_to_go:
            self._forget(container)

    async def _try_start(self, container: Container) -> None:
        try:
            await self._start(container)
        except WherryError as error:
            self._book_failed_start(container, error)
            raise

    async def _start(self, container: Container) -> None:
        name = container.record.name
        if self._closing:
            raise Conflict("the supervisor is shutting down")
        try:
            with self._room.start(self._shims.pid):
                started = await self._starter.start(container)
        except StartFailed as error:
            raise _named(error, name) from error
        except OSError as error:  # TimeoutError is one
            _log.exception("%s: start failed", name)
            raise InternalError(f"cannot start {name}: {_described(error)}") from error
        child = container.child
        if child is None:
            raise InternalError(f"cannot start {name}: it has no process")
        _log.info("%s: started, pid %d", name, container.record.pid)
        self._events.tell(container.record, started)
        self._background(self._watch(container, child))

    def _book_failed_start(self, container: Container, error: WherryError) -> None:
        record = container.record
        told = states.start_failed(record, error)
        self._records.keep(record)
        self._events.tell(record, told)
        if record.request.auto_remove:  # as docker does: nobody would remove it later
            self._discard(container)

    async def stop(self, ref: str, seconds: float | None = None, signal: int | None = None) -> bool:
        """False when it does not run; else returns after the end has been booked. Waits for a start under way.

        ``seconds`` and ``signal`` None are what the container was made with: ``stopping.stop``. Raises NotKilled.
        """
        container = self._find(ref)
        await stopping.wait_for_start(container, seconds)
        if self._give_up_restart(container):
            return True
        if not states.can_signal(container.record):
            return False
        if not self._closing:
            states.kept_down(container.record)
        await stopping.stop(container, self._records, seconds, self._events, signal)
        self._events.tell(container.record, states.stopped())
        return True

    async def kill(self, ref: str, signal: int) -> None:
        container = self._find(ref)
        is_final = signal in (SIGKILL, signal_number(container.record.request.stop_signal))
        if is_final and self._give_up_restart(container):
            return
        states.require(states.can_signal, container.record)
        if is_final:
            states.kept_down(container.record)
            self._records.keep(container.record)
        if signal == SIGKILL:
            stopping.kill(container, self._records, self._events)
            return
        stopping.send(container, self._records, signal, self._events)

    def _give_up_restart(self, container: Container) -> bool:
        """The new start that its restart policy wants; False when it wants none."""
        if not states.can_give_up(container.record):
            return False
        self._restarts.give_up(container)
        self._events.tell(container.record, states.stopped())
        return True

    async def restart(self, ref: str, seconds: float | None = None, signal: int | None = None) -> Record:
        """``stop`` if it runs, and ``start``; a container that would be removed at its end stays. When the start fails
        it has ended. Returns what ``start`` does, also when somebody else was quicker to start it.
        """
        container = self._find(ref)
        _check_stays(container)
        with self._staying(container):
            await self.stop(container.record.id, seconds, signal)
            record = await self.start(container.record.id) or copy.copy(container.record)
            self._events.tell(container.record, states.restarted())
            return record

    @contextlib.contextmanager
    def _staying(self, container: Container) -> Iterator[None]:
        """An end meanwhile is no reason for automatic removal; if it has then ended for good, it is removed."""
        container.restarts += 1
        try:
            yield
        finally:
            container.restarts -= 1
            if container.is_to_go and not container.held and not container.lock.locked():
                self._discard(container)

    async def pause(self, ref: str) -> None:
        """Returns when all its processes have stopped. Raises Conflict, NotSupported: ``pausing.pause``."""
        container = self._find(ref)
        async with container.lock:
            self._check_present(container)
            await pausing.pause(container, self._records, self._events)

    async def unpause(self, ref: str) -> None:
        pausing.unpause(self._find(ref), self._records, self._events)

    async def rename(self, ref: str, name: str) -> None:
        """In whatever state it is. Its log stays where it is, and its host name until the next start.

        Raises NameInUse, InvalidRequest when it has that name.
        """
        container = self._find(ref)
        record = container.record
        if name == record.name:
            raise InvalidRequest(f"{name} is the container's name already")
        self._check_free(name)
        before, told = record.name, states.renamed(record, name)
        try:
            self._records.save(record)
        except WherryError:
            states.renamed(record, before)
            raise
        del self._names[before]
        self._names[name] = container
        self._events.tell(record, told)

    async def update(self, ref: str, changes: Mapping[str, Any]) -> None:
        """Change fields of its request, and what holds it to them: ``updating``."""
        container = self._find(ref)
        async with container.lock:
            self._check_present(container)
            told = await updating.update(container, self._records, self._memory, changes)
        self._events.tell(container.record, told)

    async def wait(self, ref: str, condition: str) -> End:
        """``not-running``, ``next-exit`` or ``removed``; the first and the last also of what has been removed."""
        try:
            container = self._find(ref)
        except NotFound:
            if condition == "next-exit":
                raise  # there will be none
            return self._records.ends.find(ref)
        if condition == "removed":
            await container.removed.wait()
        elif condition == "next-exit" or container.running:
            return await container.exit_waiter()
        return End.of(container.record)

    async def remove(self, ref: str, force: bool) -> None:
        """With ``force`` a running container is killed first. Raises NotKilled."""
        container = self._find(ref)
        while True:
            if not force:
                states.require(states.can_remove, container.record)
            if not self._give_up_restart(container) and not states.can_remove(container.record):
                await stopping.stop(container, self._records, 0, self._events)
            await stopping.wait_for_start(container, 0)
            async with container.lock:
                if force and container.removed.is_set():
                    return  # by itself, when we had ended it
                self._check_present(container)
                if states.can_remove(container.record):
                    self._forget(container)
                    await self._remove_layer(container)
                    return

    def create_exec(self, ref: str, request: ExecRequest) -> Execution:
        return self._execs.create(self._find(ref), request)

    def find_exec(self, ref: str) -> Execution:
        return self._execs.find(ref)

    def check_exec(self, execution: Execution) -> None:
        """Raises Conflict when it cannot be started as things are."""
        self._execs.check(execution)

    async def start_exec(self, execution: Execution, *, attached: bool) -> None:
        """``execing.Execs.start``."""
        if self._closing:
            raise Conflict("the supervisor is shutting down")
        with self._room.start(self._shims.pid):
            await self._execs.start(execution, attached=attached)

    def leave_exec(self, execution: Execution) -> None:
        """Its client has gone: it goes on without."""
        self._execs.lose_client(execution)

    async def processes(self, ref: str, options: str) -> ProcessList:
        """``options`` are ps's: ``process_list.list_processes``. Raises Conflict when it does not run."""
        container = self._find(ref)
        words = process_list.options_of(options)
        states.require(states.can_list_processes, container.record)
        if container.child is None:  # it is just ending
            raise Conflict(f"container {container.record.name} is not running")
        async with self._listing:
            return await process_list.list_processes(container.child.group, words)

    def get(self, ref: str) -> Record:
        return self._find(ref).record

    def list(self) -> list[Record]:
        """Newest first."""
        records = [container.record for container in self._containers.values()]
        return sorted(records, key=lambda record: record.created_ns, reverse=True)

    def log(self, ref: str) -> Log:
        return self._find(ref).log

    def stdin(self, ref: str) -> Stdin | None:
        return self._find(ref).stdin

    def events(self) -> Events:
        return self._events

    def disk(self) -> Disk:
        return self._disk

    async def usages(self, refs: Sequence[str]) -> dict[str, usage.Usage]:
        children = {ref: self._find(ref).child for ref in refs}
        groups = {ref: child.group for ref, child in children.items() if child is not None}
        return await asyncio.to_thread(usage.measure_all, groups)

    def resident(self, ref: str) -> Resident | None:
        return self._memory.usage(self._find(ref))

    def info(self) -> EngineInfo:
        drift = self._memory.auditor.worst
        found = Counter(container.record.state for container in self._containers.values())
        return EngineInfo(
            version=wherry.__version__,
            state_dir=str(self._state.path),
            socket=self._socket,
            pid=os.getpid(),
            shim_pid=self._shims.pid,
            cgroup_version=self._layout.version,
            cgroup_parent="/" + self._parent,
            kernel=os.uname().release,
            cpus=os.cpu_count() or 1,
            rootfs=self._rootfs,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            enforcer=self._memory.name,
            enforcers_refused=self._memory.refused,
            enforcer_dropped=self._memory.dropped,
            has_backstop=self._memory.has_backstop,
            drift_bytes=None if drift is None else drift.size,
            drift_of="" if drift is None else drift.name,
            not_counted=self._memory.not_counted,
            containers_running=found[State.RUNNING],
            containers_paused=found[State.PAUSED],
            containers_restarting=found[State.RESTARTING],
            containers_created=found[State.CREATED],
            containers_exited=found[State.EXITED],
            hostname=os.uname().nodename,
            spares=self._children.spares,
            longest_turn_ms=round(turns.OF_SUPERVISOR.longest.seconds * 1e3, 1),
            longest_turn_cpu_ms=round(turns.OF_SUPERVISOR.most_cpu.cpu_seconds * 1e3, 1),
            slow_turns=turns.OF_SUPERVISOR.slow,
        )

    def _find(self, ref: str) -> Container:
        return find(ref, self._names, self._containers)


def _check_stays(container: Container) -> None:
    if container.is_to_go:
        raise Conflict(f"container {container.record.name} has ended and is being removed")


def _named(error: StartFailed, name: str) -> StartFailed:
    """Every failed start says whose: steps before the clone do not know the name."""
    prefix = f"cannot start {name}: "
    return error if str(error).startswith(prefix) else type(error)(prefix + str(error))


def _described(error: OSError) -> str:
    return describe(error) if error.errno else str(error) or type(error).__name__
