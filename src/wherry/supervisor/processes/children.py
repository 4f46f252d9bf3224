"""First processes of containers, seen from the supervisor: cloned by the shim, prepared ahead where that is
possible.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from wherry.errors import StartFailed, WherryError
from wherry.kernel import id_maps, procfs, unix_sockets
from wherry.kernel.cgroups import Group, Layout
from wherry.kernel.id_maps import IdMap
from wherry.kernel.libc import describe
from wherry.runtime import launch
from wherry.runtime.exit_status import ExitStatus
from wherry.runtime.plan import ChildKind, Plan
from wherry.supervisor.lifecycle import killing
from wherry.supervisor.processes.shimlink import Spawn
from wherry.supervisor.processes.shims import Shims

_MAKING_AT_ONCE = 16
_log = logging.getLogger(__name__)


class Child:
    """One first process: its slot in the shim, its cgroup, and the channel it reports on."""

    def __init__(self, slot: str, group: Group, channel: socket.socket | None) -> None:
        self.slot = slot
        self.group = group
        self.channel = channel
        self.pid = 0
        self.pidfd = -1
        self.root = -1
        """A descriptor of the root mount: see ``remove_group``."""
        self.kind = ChildKind("")
        self.namespace = -1
        """A descriptor of its user namespace, if it has one of its own, for as long as it is prepared."""
        # None: it has ended, but its status went to another process (the shim that was its parent died).
        self.exited: asyncio.Future[ExitStatus | None] = asyncio.get_running_loop().create_future()
        self.killing: asyncio.Task[None] | None = None
        """Set by ``killing.kill``."""
        self._reports = b""

    async def wait_ready(self) -> None:
        """Until the prepare steps are done. Raises StartFailed."""
        while True:
            report = launch.parse_reports(self._reports)
            if report.failure is not None:
                raise launch.start_error("a container", report.failure)
            if report.ready:
                return
            if not await self._read():
                raise StartFailed("the prepared process died")

    async def finish(self, message: bytes, descriptors: list[int]) -> None:
        """Send the finish message; a child that is still preparing finds it later."""
        if self.channel is None:
            raise StartFailed("the process is gone")
        try:
            sent = unix_sockets.send(self.channel, message, descriptors)
            await asyncio.get_running_loop().sock_sendall(self.channel, message[sent:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has died or failed: its last report says why
        except OSError as error:
            raise StartFailed(
                f"send {len(descriptors)} descriptors to the prepared process: {describe(error)}"
            ) from error

    async def wait_executed(self, on_executing: Callable[[], None]) -> launch.Report:
        """All reports, after end of file: execve has closed the channel, or the process has ended.

        ``on_executing`` is called when the child says that it calls execve, before that line is taken from the
        channel: if we are killed in between, the next supervisor still finds it there.
        """
        while self.channel is not None:
            await _readable(self.channel)
            waiting = self._peek()
            report = launch.parse_reports(self._reports + waiting)
            if report.executed:
                on_executing()
            if report.executed or report.failure is not None or not waiting:
                break
            await self._read()
        while await self._read():
            pass
        return launch.parse_reports(self._reports)

    def _peek(self) -> bytes:
        if self.channel is None:
            return b""
        try:
            return self.channel.recv(65536, socket.MSG_PEEK)
        except ConnectionResetError:
            return b""

    async def _read(self) -> bool:
        if self.channel is None:
            return False
        try:
            chunk = await asyncio.get_running_loop().sock_recv(self.channel, 65536)
        except ConnectionResetError:
            chunk = b""
        self._reports += chunk
        return bool(chunk)

    def take_root(self) -> int:
        """The root mount's descriptor, -1 when there is none; the caller closes it."""
        root, self.root = self.root, -1
        return root

    def close_channel(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def close_namespace(self) -> None:
        if self.namespace >= 0:
            os.close(self.namespace)
            self.namespace = -1

    def close(self) -> None:
        self.close_channel()
        self.close_namespace()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


async def _readable(channel: socket.socket) -> None:
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(channel.fileno(), event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(channel.fileno())


class Children:
    """Makes children, and keeps some of the kinds last asked for prepared ahead (``spare_count``)."""

    def __init__(self, shims: Shims, layout: Layout, cgroup_parent: str, spare_count: int) -> None:
        self._shims = shims
        self._layout = layout
        self._parent = cgroup_parent
        self.spare_count = spare_count
        self._spares: deque[Child] = deque()
        self._making = asyncio.Semaphore(_MAKING_AT_ONCE)
        self._refilling: asyncio.Task[None] | None = None
        self._wanted: Sequence[ChildKind] | None = None
        """What the next refill is to find; None when it has been looked for."""
        self._has_orphans = False
        """A shim has died, and what it was the parent of has come to us."""
        self.by_slot: dict[str, Child] = {}
        self.lingering: dict[Child, asyncio.Task[None]] = {}
        """Discarded, and not dead yet."""
        self._early: dict[str, ExitStatus] | None = {}
        """Of children that the shim has handed over and that nobody has adopted yet; None when all have been."""

    @property
    def spares(self) -> int:
        return len(self._spares)

    async def get(self, plan: Plan) -> Child:
        """A child for this plan: a spare one of its kind, else a new one."""
        await self._shims.ready()  # spare ones may belong to one that has just died
        kind = plan.kind
        while spare := next((each for each in self._spares if each.kind == kind), None):
            self._spares.remove(spare)
            if not spare.exited.done() and spare.channel is not None:  # closed when its shim died
                return spare
            await self.discard(spare)
        return await self._make(kind, at_once=True)

    def mappings(self) -> list[tuple[IdMap, int]]:
        """Ids and user namespaces of the spares that have some; the descriptors stay theirs."""
        namespaces = ((spare.kind.namespace, spare.namespace) for spare in self._spares)
        return [(given.id_map, descriptor) for given, descriptor in namespaces if given and descriptor >= 0]

    async def _make(self, kind: ChildKind, *, at_once: bool) -> Child:
        """``at_once``: somebody waits for it. Else the groups are made in a thread, and others are served meanwhile."""
        async with self._making:
            return await self._clone(kind, at_once)

    async def _clone(self, kind: ChildKind, at_once: bool) -> Child:
        slot = secrets.token_hex(32)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        ours.setblocking(False)
        child = Child(slot, Group(self._layout, f"{self._parent}/{slot}"), ours)
        child.kind = kind
        self.by_slot[slot] = child
        try:
            with theirs:
                if at_once:
                    child.group.create_for_container()
                else:
                    await _create_in_thread(child.group)
                files = child.group.inner.process_files()
                new = ["pid"] if kind.namespace is None else ["user", "pid"]
                channel = {launch.CHANNEL: theirs.fileno()}
                request = Spawn(json.loads(kind.template), files, channel, new, namespace=kind.namespace)
                child.pid, child.pidfd = await self._shims.spawn(slot, request)
            if kind.namespace is not None:
                child.namespace = _namespace_of(child)
        except BaseException:
            await self.discard(child)
            raise
        return child

    def adopt(self, child: Child) -> None:
        """Take over a child of an earlier supervisor."""
        self.by_slot[child.slot] = child
        status = None if self._early is None else self._early.pop(child.slot, None)
        if status is not None and not child.exited.done():
            child.exited.set_result(status)

    def all_adopted(self) -> None:
        """An exit of one that is not known is nobody's from now on."""
        self._early = None

    async def discard(self, child: Child) -> None:
        """Kill a child if it lives, and leave nothing of it: process, slot, descriptors, cgroup.

        One that does not die within ``killing.KILL_SECONDS`` is waited for in the background from then on.
        """
        self._shims.release(child.slot)
        if child.pid and not child.exited.done():
            killing.kill(child)  # by ourselves as well: the shim may have died
            if not await killing.has_ended(child, killing.KILL_SECONDS):
                _log.error("%s", await killing.not_killed(f"the first process of slot {child.slot[:12]}", child))
                self.lingering[child] = asyncio.get_running_loop().create_task(self._clear(child))
                return
        await self._clear(child)

    async def _clear(self, child: Child) -> None:
        if child.pid:
            await child.exited
        child.close()
        await killing.remove_group(child.group, child.take_root())
        self.by_slot.pop(child.slot, None)
        self.lingering.pop(child, None)

    def refill(self, kinds: Sequence[ChildKind]) -> None:
        """See to it, in the background, that spares of these kinds are there, one for each; others go."""
        self._wanted = kinds
        if self._refilling is None or self._refilling.done():
            self._refilling = asyncio.get_running_loop().create_task(self._refill_all())

    async def refilled(self) -> None:
        """Until the refill is done that is under way."""
        if self._refilling is not None:
            await asyncio.wait([self._refilling])

    async def _refill_all(self) -> None:
        while (kinds := self._wanted) is not None:  # a spare may have been taken after it was counted
            self._wanted = None
            await self._refill(kinds)

    async def _refill(self, kinds: Sequence[ChildKind]) -> None:
        missing = list(kinds)
        for spare in list(self._spares):
            if spare.kind in missing:
                missing.remove(spare.kind)
            elif spare in self._spares:  # still: we have waited meanwhile
                self._spares.remove(spare)
                await self.discard(spare)
        try:
            for kind in missing:
                child = await self._make(kind, at_once=False)
                try:
                    await child.wait_ready()
                except BaseException:
                    await self.discard(child)
                    raise
                self._spares.append(child)
        except (WherryError, OSError) as error:
            # Nobody asked for this one. The next start meets the same error and reports it to who asks.
            _log.warning("cannot prepare a container ahead: %s", error)

    async def drop_spares(self) -> None:
        while self._spares:
            await self.discard(self._spares.popleft())

    async def close(self) -> None:
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.gather(self._refilling, return_exceptions=True)
        self.spare_count = 0
        await self.drop_spares()

    def exited(self, slot: str, status: ExitStatus) -> None:
        """The shim has reaped the child in this slot."""
        child = self.by_slot.get(slot)
        if child is None:
            if self._early is not None:
                self._early[slot] = status
        elif not child.exited.done():
            child.exited.set_result(status)

    def watch_orphans(self) -> None:
        """Those whose shim has died we watch ourselves: we are their new parent when that was our own child
        (subreaper).
        """
        orphans = [child for slot, child in self.by_slot.items() if not self._shims.has(slot)]
        self._has_orphans |= bool(orphans)
        for child in orphans:
            if child.pidfd >= 0 and not child.exited.done():
                asyncio.get_running_loop().add_reader(child.pidfd, self._reap, child)
            if child in self._spares:
                child.close_channel()  # which makes it exit

    def reap_strays(self) -> None:
        """After the death of a shim: children of ours that nobody has made (``Shim.reap`` says who does, and why they
        must go).
        """
        known = {child.pid for child in self.by_slot.values()} if self._has_orphans else set[int]()
        while self._has_orphans:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            # Others wait for what is of our own pid namespace.
            if found is None or found.si_pid in known or procfs.namespaced_pids(found.si_pid) < 2:
                return
            os.waitid(os.P_PID, found.si_pid, os.WEXITED | os.WNOHANG)

    def _reap(self, child: Child) -> None:
        asyncio.get_running_loop().remove_reader(child.pidfd)
        status = None
        with contextlib.suppress(ChildProcessError):
            information = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
            if information is not None:
                status = ExitStatus(information.si_code, information.si_status, time.monotonic_ns())
        if not child.exited.done():
            child.exited.set_result(status)


def _namespace_of(child: Child) -> int:
    try:
        return id_maps.namespace_of(child.pid, child.pidfd)
    except OSError as error:
        raise StartFailed(f"open the user namespace of the prepared process: {describe(error)}") from error


async def _create_in_thread(group: Group) -> None:
    """A thread cannot be interrupted: who is cancelled waits for it, so that all it makes is there to be removed."""
    work = asyncio.ensure_future(asyncio.to_thread(group.create_for_container))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise
