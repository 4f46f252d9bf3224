"""The start of a container: one function that is a list of steps, each with its undo."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec

from wherry.errors import InvalidRequest, RootfsInUse, StartFailed, WherryError
from wherry.kernel.id_maps import IdMap
from wherry.kernel.libc import describe_errno
from wherry.kernel.polling import readable
from wherry.logs import Pipeline, duplicate_pipe, make_buffer, make_pipe
from wherry.runtime import binds, cgroup_limits, launch, users
from wherry.runtime.plan import ChildKind, Plan, make_plan, wants_init
from wherry.storage import layers
from wherry.storage.rootfs import RootfsStore
from wherry.supervisor.containers import states
from wherry.supervisor.containers.bounds import is_large
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import Record
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.containers.spec_of import make_spec
from wherry.supervisor.containers.stdin import Stdin
from wherry.supervisor.events import Notice
from wherry.supervisor.id_ranges import IdRanges
from wherry.supervisor.memory_watch.memory import MemoryWatch
from wherry.supervisor.processes.children import Child, Children
from wherry.supervisor.processes.shims import Shims
from wherry.supervisor.records import Records
from wherry.supervisor.user_lookup import find_user

_log = logging.getLogger(__name__)
_REFILL_SECONDS = 0.02
_LOG_SECONDS = 2
_GIVEN = (("stdout", "write1"), ("stderr", "write2"), ("stdin", "read0"))
"""What the first process gets: names in its plan and in ``Starter._connect_output``."""
_PLAIN = CreateRequest(rootfs="/", command=("/bin/true",))


class Starter:
    """What a start needs of the supervisor."""

    def __init__(  # noqa: PLR0913 (by name)
        self,
        *,
        shims: Shims,
        children: Children,
        records: Records,
        pipeline: Pipeline,
        store: RootfsStore,
        layer_store: layers.Layers,
        memory: MemoryWatch,
        stage: str,
        id_ranges: IdRanges,
    ) -> None:
        self._shims = shims
        self._children = children
        self._records = records
        self._pipeline = pipeline
        self._store = store
        self._layers = layer_store
        self._memory = memory
        self._stage = stage
        self._id_ranges = id_ranges
        self._unpacking = asyncio.Semaphore(2)
        self._template = ""
        self._last = _PLAIN
        self._refill_timer: asyncio.TimerHandle | None = None
        self._refilling: asyncio.Task[None] | None = None
        self._wanted_maps: Sequence[IdMap | None] | None = None
        """What the next look at the layers is to find; None when it has been looked for."""
        self._in_use: dict[tuple[int, int], list[tuple[Record, bool]]] = {}

    async def start(self, container: Container) -> Notice:
        """Start a container that is not running; returns when its command has been executed, with what is to be told.

        Raises StartFailed (or a subclass) naming the step, InvalidRequest, RootfsInUse; then nothing is left but the
        record.
        """
        record = container.record
        states.begin(record)
        container.log_ended.clear()
        async with contextlib.AsyncExitStack() as undo:
            with contextlib.ExitStack() as used:
                rootfs = await self._open_rootfs(container, used)
                self._reserve(container, rootfs)
                undo.callback(self.release_rootfs, container)
                child, mapping = await self._take_ids(container, undo)
                root = self._mount_root(container, rootfs, mapping)
                unowned = await undo.enter_async_context(contextlib.AsyncExitStack())
                # In a thread: the last reference to an overlay syncs the file system under it.
                unowned.push_async_callback(asyncio.to_thread, os.close, root)
                plan = await self._plan(container, root)
                names, descriptors, directories = self._open_binds(plan, used, -1 if child is None else child.namespace)
                child = child or await self._take_child(plan, undo)
                child.close_namespace()
                unowned.pop_all()
                child.root = root
                self._limit(child, plan)
                kept = self._memory.arm(container, child)
                undo.callback(self._memory.disarm, container)
                for descriptor in kept.values():
                    used.callback(os.close, descriptor)
                unread = undo.enter_context(contextlib.ExitStack())
                undo.callback(container.close_stdin)
                outputs = self._connect_output(container, used, unread)
                states.took_slot(record, child.slot, child.group.path)
                undo.callback(states.gave_slot_back, record)
                self._records.save(record)
                self._hand_over(container, child, outputs, kept)
                given = {name: outputs[key] for name, key in _GIVEN if key in outputs}
                self._favour(child, plan, outputs)
                message = launch.finish_message(
                    ["root", *given, *names],
                    plan.finish(directories),
                    list(plan.spec.process.args),
                    list(plan.spec.process.env),
                    wants_init(plan.spec),
                )
                await child.finish(message, [root, *given.values(), *descriptors])
            self._capture_output(container, outputs, unread)
            started = await self._wait_executed(container, child)
            undo.pop_all()
        self._refill_later(plan.template, record.request)
        return started

    async def _take_ids(
        self, container: Container, undo: contextlib.AsyncExitStack
    ) -> tuple[Child | None, layers.Mapping | None]:
        """With ids of its own, a child comes first: the root is mounted with the ids of its user namespace."""
        record = container.record
        id_map = self._id_ranges.choose(record.request)
        if id_map is None:
            return None, None
        states.took_ids(record, id_map)
        taken: list[Child] = []
        undo.callback(self._give_ids_back, container, taken)
        taken.append(await self._take_child(self._outline(record.request, id_map), undo))
        return taken[0], layers.Mapping(id_map, taken[0].namespace)

    def _give_ids_back(self, container: Container, taken: list[Child]) -> None:
        """Of a failed start: others may have them when its process is gone, which may sit in the kernel."""
        clearing = next((self._children.lingering[each] for each in taken if each in self._children.lingering), None)
        if clearing is None:
            states.gave_ids_back(container.record)
        else:
            clearing.add_done_callback(lambda _: self._give_ids_back_late(container))

    def _give_ids_back_late(self, container: Container) -> None:
        states.gave_ids_back(container.record)
        if not container.removed.is_set():
            self._records.keep(container.record)

    async def _take_child(self, plan: Plan, undo: contextlib.AsyncExitStack) -> Child:
        child = await self._children.get(plan)
        undo.push_async_callback(self._children.discard, child)
        return child

    def _outline(self, request: CreateRequest, id_map: IdMap | None) -> Plan:
        """A plan of the right kind, before anything of the container has been looked at. Without its words, which can
        be megabytes and change nothing about the kind.
        """
        short = msgspec.structs.replace(request, command=_PLAIN.command, env=())
        return make_plan(make_spec("prepared", short, "/", users.User(0, 0, (), "/"), id_map), self._stage)

    def prepare_ahead(self, default_userns: str) -> None:
        """Have spare children made for containers without special wishes."""
        self._last = msgspec.structs.replace(_PLAIN, userns=default_userns)
        self._template = self._outline(_PLAIN, None).template
        self.refill()

    def refill(self) -> None:
        """Make up for what the last start took of what had been prepared ahead."""
        if self._refill_timer is not None:
            self._refill_timer.cancel()
            self._refill_timer = None
        if not self._template:
            return  # a container taken over has ended before anything was prepared
        plain = ChildKind(self._template)
        try:
            maps = self._id_ranges.reserve(self._last, self._children.spare_count)
            kinds = [plain if each is None else self._outline(self._last, each).kind for each in maps]
        except (WherryError, OSError) as error:
            # As a child that cannot be made ahead: the next start meets the same error and reports it to who asks.
            _log.warning("cannot prepare a container ahead: %s", error)
            return
        self._children.refill(kinds)
        self._wanted_maps = maps
        if self._refilling is None or self._refilling.done():
            self._refilling = asyncio.get_running_loop().create_task(self._refill_all_layers())

    async def _refill_all_layers(self) -> None:
        while (maps := self._wanted_maps) is not None:
            self._wanted_maps = None
            await self._refill_layers(maps)

    async def _refill_layers(self, maps: Sequence[IdMap | None]) -> None:
        """A mapped one needs the user namespace of a child that is there."""
        if any(maps):
            await self._children.refilled()
        namespaces = {id_map: os.dup(descriptor) for id_map, descriptor in self._children.mappings() if id_map in maps}
        try:
            wanted = (None if each is None else layers.Mapping(each, namespaces.get(each, -1)) for each in maps)
            await self._layers.refill([each for each in wanted if each is None or each.namespace >= 0])
        finally:
            for descriptor in namespaces.values():
                os.close(descriptor)
        if self._layers.has_retired:
            await asyncio.to_thread(self._layers.drop_retired)

    def _refill_later(self, template: str, request: CreateRequest) -> None:
        # Not at once: cloning and mounting would compete with the container's own first milliseconds, which many a
        # container's whole life fits in. The end of a container calls refill as well, whichever comes first.
        self._template, self._last = template, request
        if self._refill_timer is None:
            self._refill_timer = asyncio.get_running_loop().call_later(_REFILL_SECONDS, self.refill)

    async def close(self) -> None:
        """Prepare nothing any more, and delete the layers that were."""
        if self._refill_timer is not None:
            self._refill_timer.cancel()
        self._wanted_maps = None
        if self._refilling is not None:
            await self._refilling
        await asyncio.to_thread(self._layers.close)

    async def _open_rootfs(self, container: Container, used: contextlib.ExitStack) -> int:
        path = container.record.request.rootfs
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(os.stat(path).st_mode):
                descriptor = layers.open_rootfs(path)
                used.callback(os.close, descriptor)
                return descriptor
        if container.record.request.rw_rootfs:
            raise InvalidRequest(
                f"rootfs {path!r} is an archive: its unpacked files are shared and cannot be written to"
            )
        descriptor = layers.open_rootfs(str(await self._unpacked(container.record)))
        used.callback(os.close, descriptor)
        return descriptor

    async def _unpacked(self, record: Record) -> Path:
        """The directory of its archive, which it holds until it is removed: its layer fits over no other one."""
        directory = self._store.find(record.unpacked)
        if directory is None:
            async with self._unpacking:
                digest = await asyncio.to_thread(self._store.take, record.request.rootfs)
            self._store.drop(states.took_archive(record, digest))
            directory = self._store.directory_of(digest)
        return directory

    def _reserve(self, container: Container, rootfs: int) -> None:
        """Note who runs on which directory, and refuse what would change a directory under another container."""
        status = os.fstat(rootfs)
        writable = container.record.request.rw_rootfs
        users_of_it = self._in_use.setdefault((status.st_dev, status.st_ino), [])
        for other, other_writable in users_of_it:
            if writable or other_writable:
                path = container.record.request.rootfs
                raise RootfsInUse(
                    f"rootfs {path} is in use by {other.name}, and one of the two runs on the directory itself"
                )
        users_of_it.append((container.record, writable))

    def reserve_adopted(self, container: Container) -> None:
        """For a container of an earlier supervisor: note its directory, as far as it is still there."""
        with contextlib.suppress(OSError, WherryError):
            request = container.record.request
            if not os.path.isdir(request.rootfs):
                return
            status = os.stat(request.rootfs)
            self._in_use.setdefault((status.st_dev, status.st_ino), []).append((container.record, request.rw_rootfs))

    def release_rootfs(self, container: Container) -> None:
        for key, entries in list(self._in_use.items()):
            remaining = [entry for entry in entries if entry[0] is not container.record]
            if remaining:
                self._in_use[key] = remaining
            else:
                del self._in_use[key]

    def _mount_root(self, container: Container, rootfs: int, mapping: layers.Mapping | None) -> int:
        record = container.record
        if record.request.rw_rootfs:
            self._layers.stop_sparing(rootfs)
            return layers.clone_writable(rootfs, mapping)
        layer, root = self._layers.mount(record.layer, rootfs, mapping)
        states.took_layer(record, layer)
        return root

    async def _plan(self, container: Container, root: int) -> Plan:
        request = container.record.request
        user = await find_user(root, request.user, request.group_add)
        if is_large(request):
            return await asyncio.to_thread(self._make_plan, container, user)
        return self._make_plan(container, user)

    def _make_plan(self, container: Container, user: users.User) -> Plan:
        record = container.record
        spec = make_spec(record.name, record.request, record.request.rootfs, user, record.id_map)
        plan = make_plan(spec, self._stage)
        if _log.isEnabledFor(logging.DEBUG):
            for step in [*plan.prepare, *plan.finish(set())]:
                _log.debug("%s: step: %s", record.name, step.describe())
        return plan

    def _open_binds(
        self, plan: Plan, used: contextlib.ExitStack, namespace: int
    ) -> tuple[list[str], list[int], set[str]]:
        names: list[str] = []
        descriptors: list[int] = []
        directories: set[str] = set()
        for bind in plan.binds:
            tree, is_directory = binds.open_bind(bind, namespace)
            used.callback(os.close, tree)
            names.append(bind.descriptor)
            descriptors.append(tree)
            if is_directory:
                directories.add(bind.descriptor)
        return names, descriptors, directories

    def _limit(self, child: Child, plan: Plan) -> None:
        if plan.spec.process.scheduler.policy in ("SCHED_FIFO", "SCHED_RR"):
            cgroup_limits.check_real_time(child.group)
        try:
            cgroup_limits.apply(child.group, plan.spec.linux.resources)
        except OSError as error:
            raise StartFailed(f"set limit {error.filename}: {describe_errno(error.errno or 0)}") from error

    def _connect_output(
        self, container: Container, used: contextlib.ExitStack, unread: contextlib.ExitStack
    ) -> dict[str, int]:
        """The two pipes and the log's ``buffer``: that and the read ends ``read1`` and ``read2`` close with ``unread``,
        write ends with ``used``. Merged streams have two descriptors of one pipe, which the log takes for stdout.
        """
        outputs: dict[str, int] = {}
        try:
            if not container.log.path.exists():  # else it is started anew and its log goes on
                container.log.create()
        except OSError as error:
            raise StartFailed(f"make log {container.record.log_path}: {describe_errno(error.errno or 0)}") from error
        outputs["buffer"] = make_buffer(container.log)
        unread.callback(os.close, outputs["buffer"])
        for stream in (1, 2):
            is_merged = stream == 2 and container.record.request.merge_streams
            ends = duplicate_pipe(outputs["read1"], outputs["write1"]) if is_merged else make_pipe()
            outputs[f"read{stream}"], outputs[f"write{stream}"] = ends
            unread.callback(os.close, outputs[f"read{stream}"])
            used.callback(os.close, outputs[f"write{stream}"])
        if container.record.request.stdin:
            self._connect_input(container, outputs, used)
        return outputs

    def _connect_input(self, container: Container, outputs: dict[str, int], used: contextlib.ExitStack) -> None:
        """A pipe: its read end is ``read0`` and closes with ``used``, its write end is the container's ``stdin``."""
        outputs["read0"], outputs["write0"] = make_pipe()
        used.callback(os.close, outputs["read0"])
        record = container.record
        let_go = lambda: self._shims.let_go(record.slot, ["stdin"])  # noqa: E731
        container.stdin = Stdin(outputs["write0"], once=record.request.stdin_once, let_go=let_go)

    def _hand_over(self, container: Container, child: Child, outputs: dict[str, int], kept: dict[str, int]) -> None:
        """From here on the next supervisor would find this container in the shim."""
        held = {"stdout": outputs["read1"], "stderr": outputs["read2"], "buffer": outputs["buffer"], **kept}
        if "write0" in outputs:
            held["stdin"] = outputs["write0"]
        if child.channel is not None:
            held["channel"] = child.channel.fileno()
        self._shims.claim(child.slot, held, self._memory.alarm_of(container))

    def _favour(self, child: Child, plan: Plan, outputs: dict[str, int]) -> None:
        """What a process in a user namespace of its own may not do itself."""
        favours, owner = plan.favours, plan.output_owner
        if favours is None or owner is None:
            return
        if readable([child.pidfd]):
            return  # it has ended, as the wait for its report will tell: the number may be another's
        try:
            favours.do(child.pid)
            for _, end in _GIVEN:
                if end in outputs:
                    os.fchown(outputs[end], *owner)
        except OSError as error:
            raise StartFailed(f"set limits and scheduling: {describe_errno(error.errno or 0)}") from error

    def _capture_output(self, container: Container, outputs: dict[str, int], unread: contextlib.ExitStack) -> None:
        done = container.log_ended_in_thread()
        try:
            self._pipeline.add(container.log, outputs["read1"], outputs["read2"], done, outputs["buffer"])
        except OSError as error:
            raise StartFailed(f"open log {container.record.log_path}: {describe_errno(error.errno or 0)}") from error
        unread.pop_all()  # the pipeline closes them

    async def _wait_executed(self, container: Container, child: Child) -> Notice:
        """Until the command runs; the container is booked as running the moment before execve."""
        running: Record | None = None

        def executing() -> None:
            nonlocal running
            running = states.about_to_run(container.record, child.pid)
            self._records.keep(running)

        report = await child.wait_executed(executing)
        child.close_channel()
        if report.failure is None and running is not None:
            container.begin(child)
            return states.started(container.record, running)
        await _wait_for_end_of(container)
        if report.failure is not None:
            raise launch.start_error(container.record.name, report.failure)
        raise StartFailed("the container's first process was killed during set-up")


async def _wait_for_end_of(container: Container) -> None:
    """Of its log: a failed start has written nothing, and its first process is gone or going."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(container.log_ended.wait(), _LOG_SECONDS)
