"""Execs: commands in containers that run, from their start to what is left of them.

The start is a list of steps, as that of a container. Everything is sent to shim and child at once: nobody waits for an
answer before the child can go on. The record is written before, so that the next supervisor knows whose the process is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping

from wherry.errors import (
    Conflict,
    InternalError,
    InvalidRequest,
    NotFound,
    NotSupported,
    StartFailed,
    WherryError,
)
from wherry.kernel import cgroup_trees as trees
from wherry.kernel.cgroups import Group, Layout
from wherry.kernel.libc import describe
from wherry.kernel.polling import readable
from wherry.runtime import launch, steps
from wherry.runtime.exec import ExecPlan, make_exec
from wherry.runtime.spec import Spec
from wherry.runtime.steps import encode
from wherry.supervisor.containers import states
from wherry.supervisor.containers.bounds import is_large
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.execution import ExecRecord, ExecRequest, merged
from wherry.supervisor.containers.spec_of import make_spec
from wherry.supervisor.containers.stdin import Stdin
from wherry.supervisor.events import Action, Events, Notice
from wherry.supervisor.exec_books import ExecBooks
from wherry.supervisor.lifecycle import killing, recovery
from wherry.supervisor.processes.children import Child, Children
from wherry.supervisor.processes.output import Output
from wherry.supervisor.processes.shimlink import CloneFailed, HeldSlot, Spawn
from wherry.supervisor.processes.shims import Shims
from wherry.supervisor.user_lookup import find_user

_log = logging.getLogger(__name__)
_MOST = 1000
"""How many are remembered that have ended, and how many that nobody has started, over all containers."""
_INTO_DIRECTORY = frozenset({steps.EnterDirectory.__name__, steps.ChangeDirectory.__name__})


class Execution:
    """One exec as the supervisor holds it in memory."""

    def __init__(self, record: ExecRecord, container: Container) -> None:
        self.record = record
        self.container = container
        self.output: Output | None = None
        """None when nothing is attached, and before the start."""
        self.stdin: Stdin | None = None
        """As ``output``. The shim has no duplicate: it ends with its client, or with this supervisor."""
        self.child: Child | None = None
        self.is_starting = False
        """Or has been started."""
        self.ended = asyncio.Event()
        """The end is booked."""
        self.timer: asyncio.TimerHandle | None = None

    def close_stdin(self) -> None:
        if self.stdin is not None:
            self.stdin.close()


class Execs:
    """``begin`` runs something in the background."""

    def __init__(
        self,
        *,
        shims: Shims,
        children: Children,
        books: ExecBooks,
        events: Events,
        layout: Layout,
        begin: Callable[[Coroutine[object, object, None]], None],
    ) -> None:
        self._shims = shims
        self._children = children
        self._books = books
        self._events = events
        self._layout = layout
        self._begin = begin
        self._all: dict[str, Execution] = {}

    def find(self, ref: str) -> Execution:
        if ref not in self._all:
            raise NotFound(f"No such exec instance: {ref}")
        return self._all[ref]

    def ids_of(self, container_id: str) -> list[str]:
        return [each.record.id for each in self._all.values() if each.container.record.id == container_id]

    def create(self, container: Container, request: ExecRequest) -> Execution:
        """Raises Conflict, InvalidRequest."""
        states.require(states.can_exec, container.record)
        merged(container.record.request, request)
        record = ExecRecord(
            id=secrets.token_hex(32), container_id=container.record.id, request=request, created_ns=time.time_ns()
        )
        execution = self._all[record.id] = Execution(record, container)
        self._forget_some()
        self._tell(execution, Action.EXEC_CREATE)
        return execution

    def forget_those_of(self, container_id: str) -> None:
        """It is removed."""
        self._forget(self.ids_of(container_id))

    def _forget_some(self) -> None:
        waiting = [key for key, each in self._all.items() if not each.record.is_begun]
        over = [key for key, each in self._all.items() if each.record.finished_ns and not each.record.group]
        self._forget([*waiting[:-_MOST], *over[:-_MOST]])

    def _forget(self, ids: list[str]) -> None:
        for each in ids:
            del self._all[each]
        if ids:
            self._books.forget(ids)

    def check(self, execution: Execution) -> None:
        """Raises Conflict when it cannot be started as things are."""
        record = execution.record
        if record.is_begun or execution.is_starting:
            raise Conflict(f"exec {record.id[:12]} has been started already")
        states.require(states.can_exec, execution.container.record)

    async def start(self, execution: Execution, *, attached: bool) -> None:
        """Returns when its command has been executed. Raises Conflict, StartFailed (and its subclasses),
        InvalidRequest; then nothing is left of it but its record.
        """
        self.check(execution)
        execution.is_starting = True
        try:
            await self._shims.ready()
            async with contextlib.AsyncExitStack() as undo:
                await self._start(execution, attached, undo)
                undo.pop_all()
        except (WherryError, OSError) as error:
            raise self._failed(execution, error) from error
        except BaseException:
            self._failed(execution, InternalError("its start was interrupted"))
            raise
        self._tell(execution, Action.EXEC_START)
        self._begin(self._watch(execution))

    async def _start(self, execution: Execution, attached: bool, undo: contextlib.AsyncExitStack) -> None:
        record, container = execution.record, execution.container
        with contextlib.ExitStack() as used:
            group = self._make_group(execution, undo)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            used.callback(theirs.close)
            ours.setblocking(False)
            execution.child = child = Child(secrets.token_hex(32), _nothing(), ours)
            undo.push_async_callback(self._children.discard, child)
            self._children.adopt(child)
            names, given, readers = _connect_streams(execution, attached, used, undo)
            plan, spec = await self._plan(execution, names)
            if plan.output_owner is not None:
                for descriptor in given:
                    os.fchown(descriptor, *plan.output_owner)
            states.require(states.can_exec, container.record)
            record.began(child.slot, group)
            self._books.save(record)
            undo.callback(self._books.forget, [record.id])
            spawning = self._shims.ask(child.slot, self._spawn(execution, plan, theirs))
            undo.callback(_give_up, spawning, child)
            theirs.close()  # else a child that dies, or is never made, would not be seen to
            self._shims.claim(child.slot, {**readers, "channel": ours.fileno()})
            command = (list(spec.process.args), list(spec.process.env))
            await child.finish(launch.finish_message(names, plan.finish, *command, with_init=False), given)
            child.pid, child.pidfd = await spawning
        record.runs_as(child.pid)
        self._arm_timeout(execution)
        report = await child.wait_executed(lambda: None)
        child.close_channel()
        if report.failure is not None:
            raise _explained(container.record.name, report.failure)
        if not report.executed:
            states.require(states.can_exec, container.record)
            raise StartFailed("its process was killed during set-up")

    def _spawn(self, execution: Execution, plan: ExecPlan, theirs: socket.socket) -> Spawn:
        first = execution.container.child
        if first is None:
            raise Conflict(f"container {execution.container.record.name} is not running")
        files = first.group.inner.process_files()
        if execution.record.group:
            group = self._group_of(execution.record.group)
            (own,) = group.places
            shared = f"{first.group.directories[next(iter(group.layout.mounts))]}/"
            files = [file for file in files if not file.startswith(shared)] + [f"{own}/cgroup.procs"]
        descriptors = {launch.CHANNEL: theirs.fileno(), launch.TARGET: first.pidfd}
        return Spawn(encode(plan.template), files, descriptors, [], plan.joined)

    async def _plan(self, execution: Execution, names: list[str]) -> tuple[ExecPlan, Spec]:
        record, request = execution.container.record, execution.record.request
        asked = merged(record.request, request)
        root = _open_root(execution.container)
        try:
            user = await find_user(root, asked.user)
        finally:
            os.close(root)

        def make() -> tuple[ExecPlan, Spec]:
            spec = make_spec(record.name, asked, asked.rootfs, user, record.id_map)
            streams = [name if name in names else "" for name in ("stdout", "stderr", "stdin")]
            return make_exec(spec, *streams, privileged=request.privileged), spec

        return await asyncio.to_thread(make) if is_large(asked) else make()

    def _failed(self, execution: Execution, error: WherryError | OSError) -> WherryError:
        name = execution.container.record.name
        execution.child = execution.output = execution.stdin = None
        if isinstance(error, CloneFailed) or (isinstance(error, OSError) and error.errno):
            _log.info("%s: exec failed: %s", name, error)
            text = str(error) if isinstance(error, CloneFailed) else describe(error)
            known: WherryError = StartFailed(f"cannot execute in {name}: {text}")
            if not states.can_exec(execution.container.record):
                known = Conflict(f"container {name} has ended")
        elif isinstance(error, OSError):
            known = InternalError(f"cannot execute in {name}: {str(error) or type(error).__name__}")
        else:
            known = error
        execution.record.could_not_begin(known.exit_code, str(known))
        execution.ended.set()
        return known

    async def _watch(self, execution: Execution) -> None:
        """Until its process has ended, that is booked, and nothing of it is left."""
        record, child = execution.record, execution.child
        if child is None:
            raise InternalError("an exec without a process is watched")
        status = await child.exited
        if execution.output is not None:
            execution.output.process_ended()
        execution.close_stdin()
        record.ended(status)
        self._books.keep(record)
        self._tell(execution, Action.EXEC_DIE)
        execution.ended.set()
        execution.child = None
        await self._children.discard(child)
        if record.group and not await asyncio.to_thread(trees.processes, self._group_of(record.group).places):
            await self._remove_group(execution)

    def _tell(self, execution: Execution, action: Action) -> None:
        record = execution.record
        own = {"execID": record.id}
        if action is Action.EXEC_DIE:
            own["exitCode"] = "" if record.exit_code is None else str(record.exit_code)
        self._events.tell(execution.container.record, Notice(action, own))

    def lose_client(self, execution: Execution) -> None:
        """Nobody reads its output any more: it is not to wait for that, nor for input if none has come yet."""
        if execution.stdin is not None:
            execution.stdin.missed()
        if execution.output is not None:
            self._begin(execution.output.drain())

    # Time-outs: all that an exec with one starts is in a control group of its own.

    def _group_of(self, path: str) -> Group:
        """In one hierarchy, which is enough to find what is in it. Raises NotSupported where none is fit for it."""
        layout = self._layout.taking_processes()
        if layout is None:
            raise NotSupported("an exec with a timeout needs a hierarchy of control groups other than cpuset's")
        return Group(layout, path)

    def _make_group(self, execution: Execution, undo: contextlib.AsyncExitStack) -> str:
        """Beside the group of the container's own processes, out of its reach, and below the one with its limits."""
        record, first = execution.record, execution.container.child
        if record.request.timeout_seconds is None or first is None:
            return ""
        group = self._group_of(f"{first.group.path}/exec-{record.id[:16]}")
        os.mkdir(group.places[0], 0o755)
        undo.push_async_callback(killing.remove_group, group)
        return group.path

    def _arm_timeout(self, execution: Execution) -> None:
        record = execution.record
        if record.group:
            seconds = max(record.deadline_ns - time.monotonic_ns(), 0) / 1e9
            loop = asyncio.get_running_loop()
            execution.timer = loop.call_later(seconds, lambda: self._begin(self._time_out(execution)))

    async def _time_out(self, execution: Execution) -> None:
        record, child = execution.record, execution.child
        if not record.group:
            return
        _log.info("%s: exec %s has timed out", execution.container.record.name, record.id[:12])
        record.times_out()
        self._books.keep(record)
        killing.send(child, signal.SIGKILL)
        delay = 0.001
        while await asyncio.to_thread(trees.kill, self._group_of(record.group).places):
            await asyncio.sleep(delay)
            delay = min(2 * delay, 1.0)
        await execution.ended.wait()
        await self._remove_group(execution)

    async def _remove_group(self, execution: Execution) -> None:
        record = execution.record
        if execution.timer is not None:
            execution.timer.cancel()
        if record.group:
            await killing.remove_group(self._group_of(record.group))
            record.group_removed()
            if record.id in self._all:
                self._books.keep(record)

    # What an earlier supervisor has left.

    def recover(self, held: dict[str, HeldSlot], containers: Mapping[str, Container]) -> None:
        """Take those slots out of ``held`` that are execs'."""
        for record in self._books.load():
            container = containers.get(record.container_id)
            if container is None:
                self._books.forget([record.id])
                continue
            execution = self._all[record.id] = Execution(record, container)
            slot = held.pop(record.slot, None) if record.slot else None
            if slot is not None:
                self._begin(self._go_on(execution, self._adopt(execution, slot)))
            elif record.is_running:
                record.ended(None)
                self._books.keep(record)
            if record.finished_ns:
                execution.ended.set()
                self._arm_timeout(execution)

    def _adopt(self, execution: Execution, held: HeldSlot) -> Child:
        """At once: the end of one that nobody has adopted is nobody's."""
        execution.child = child = recovery.adopt(held, _nothing())
        self._children.adopt(child)
        execution.record.runs_as(child.pid)
        streams = ((1, "stdout"), (2, "stderr"))
        if pipes := {number: held.descriptors[name] for number, name in streams if name in held.descriptors}:
            execution.output = Output(pipes)
            self.lose_client(execution)
        self._arm_timeout(execution)
        return child

    async def _go_on(self, execution: Execution, child: Child) -> None:
        """Learn how its start ended, before its end is booked with that."""
        report = await recovery.report_of(child)
        if report is None:
            execution.record.was_not_executed("the supervisor was killed while it started the command")
        elif report.failure is not None:
            execution.record.was_not_executed(str(_explained(execution.container.record.name, report.failure)))
        await self._watch(execution)

    def close(self) -> None:
        """What runs stays with the shim."""
        for execution in self._all.values():
            if execution.timer is not None:
                execution.timer.cancel()
            if execution.output is not None:
                execution.output.close()
            execution.close_stdin()


def _nothing() -> Group:
    """The group of nobody: an exec's process is in its container's, which must not be ended with it."""
    return Group(Layout(1, {}), "")


def _open_root(container: Container) -> int:
    """Its root directory as it is now, to look a user up in. Raises Conflict when it has just ended."""
    child, name = container.child, container.record.name
    try:
        if child is None:
            raise ProcessLookupError
        root = os.open(f"/proc/{child.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        raise Conflict(f"container {name} has ended") from None
    if readable([child.pidfd]):  # then it may have been another process's
        os.close(root)
        raise Conflict(f"container {name} has ended")
    return root


def _connect_streams(
    execution: Execution, attached: bool, used: contextlib.ExitStack, undo: contextlib.AsyncExitStack
) -> tuple[list[str], list[int], dict[str, int]]:
    """Names and ends of pipes for the child, read ends for the shim; these are ours in ``execution.output``, and the
    write end of its input in ``execution.stdin``.
    """
    request = execution.record.request
    wanted = {1: ("stdout", request.stdout), 2: ("stderr", request.stderr)}
    pipes: dict[int, int] = {}
    names, given, readers = [], [], {}
    for stream, (name, is_wanted) in wanted.items():
        if attached and is_wanted:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            used.callback(os.close, writer)
            pipes[stream] = readers[name] = reader
            names.append(name)
            given.append(writer)
    if pipes:
        execution.output = Output(pipes)
        undo.callback(execution.output.close)
    if attached and request.stdin:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        used.callback(os.close, reader)
        execution.stdin = Stdin(writer, once=True, let_go=_nobody)
        undo.callback(execution.stdin.close)
        names.append("stdin")
        given.append(reader)
    return names, given, readers


def _nobody() -> None:
    """Has a duplicate."""


def _give_up(spawning: asyncio.Future[tuple[int, int]], child: Child) -> None:
    """The release of its slot ends the process; this is for its pidfd, which may be under way."""
    if not spawning.cancel() and not spawning.cancelled() and spawning.exception() is None and child.pidfd < 0:
        os.close(spawning.result()[1])


def _explained(name: str, failure: dict[str, object]) -> WherryError:
    error = launch.start_error(name, failure, doing="execute in")
    if failure.get("kind") in _INTO_DIRECTORY:
        return InvalidRequest(str(error))
    return error
