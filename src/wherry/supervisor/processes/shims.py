"""The shims of one supervisor: the one that new processes come from, and older ones that still have containers.

A shim outlives the program it was started from. What it has is taken over by any later supervisor; but a template is
made of steps, which it must know to carry out. So where the shim found is an older one, its socket steps aside, a new
shim takes its place, and the older one goes when the last of its containers has been released.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

from wherry.errors import InternalError
from wherry.memory import Alarm
from wherry.runtime.exit_status import ExitStatus
from wherry.shim import protocol
from wherry.supervisor.processes.shim_start import start_shim
from wherry.supervisor.processes.shimlink import CONNECT_SECONDS, HeldSlot, ShimLink, Spawn, close_all, reap

_log = logging.getLogger(__name__)
_ATTEMPTS = 5


class Shims:
    """``on_exit(slot, status)`` and ``on_lost()`` are called on the loop."""

    def __init__(
        self, directory: Path, on_exit: Callable[[str, ExitStatus], None], on_lost: Callable[[], None]
    ) -> None:
        self._directory = directory
        self._log_path = directory / "shim.log"
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._own = self._link("shim.sock")
        self._older: list[ShimLink] = []
        self._having: dict[str, ShimLink] = {}
        """By slot, the shim that has it, or had it before it died."""
        self._connected = asyncio.Event()
        self._connecting = asyncio.Lock()
        self.has_started = False
        """Whether there was none, or only such as speak another protocol, and one has been started."""
        self._work: set[asyncio.Task[None]] = set()
        self.kept: dict[str, int] = {}
        """What ``keep`` of an earlier supervisor left, after ``connect``; whoever takes one out closes it."""
        self.alarms: list[Alarm] = []
        """Of ``keep`` as well."""

    @property
    def pid(self) -> int:
        """Of the one that new processes come from."""
        return self._own.pid

    def has(self, slot: str) -> bool:
        """Whether a shim that lives has it, and so is the parent of its process."""
        link = self._having.get(slot)
        return link is not None and link.is_connected

    async def connect(self) -> list[HeldSlot]:
        """Connect to all that we are not connected to, and start one if need be; returns what they hold.

        Raises InternalError, OSError.
        """
        async with self._connecting:
            held = await self._connect_older()
            if not self._own.is_connected:
                held += await self._connect_own()
            self._connected.set()
            for link in tuple(self._older):
                self._retire_if_empty(link)
            return held

    async def _connect_older(self) -> list[HeldSlot]:
        held: list[HeldSlot] = []
        known = {link.socket_path for link in self._older}
        for path in sorted(self._directory.glob("shim-*.sock")):
            if path not in known:
                link = self._link(path.name)
                try:
                    slots = await link.connect()
                except ConnectionResetError:  # it was just leaving
                    slots = None
                if slots is None:
                    path.unlink(missing_ok=True)
                    continue
                self._older.append(link)
                held += self._taken(link, slots)
        return held

    async def _connect_own(self) -> list[HeldSlot]:
        held: list[HeldSlot] = []
        has_started = False
        for _ in range(_ATTEMPTS):
            try:
                slots = await self._own.connect()
            except ConnectionResetError:  # it was just leaving
                continue
            if slots is None:
                start_shim(self._own.socket_path, self._log_path)
                has_started = self.has_started = True
                continue
            held += self._taken(self._own, slots)
            if self._own.speaks_ours:
                return held
            if has_started:  # from files that are not those this supervisor was started from
                await self._own.shutdown()
                raise InternalError(
                    "cannot start a shim: another version of the program has been installed meanwhile; "
                    "reload the supervisor (SIGHUP), or restart it: the containers go on"
                )
            self._step_aside(self._own)
            self._own = self._link("shim.sock")
        raise InternalError(f"the shim does not answer on {self._own.socket_path}; see {self._log_path}")

    def _step_aside(self, link: ShimLink) -> None:
        _log.info("the shim with pid %d is of an earlier version: it keeps what it has, a new one is started", link.pid)
        path = self._directory / f"shim-{link.pid}.sock"
        link.socket_path.rename(path)
        link.socket_path = path
        self._older.append(link)

    def _taken(self, link: ShimLink, slots: list[HeldSlot]) -> list[HeldSlot]:
        self._having |= {slot.name: link for slot in slots}
        if self.kept:  # all have been given the same
            close_all(list(link.kept.values()))
        else:
            self.kept, self.alarms = link.kept, link.alarms
        link.kept = {}
        return slots

    def _link(self, name: str, pid: int = 0) -> ShimLink:
        return ShimLink(self._directory / name, self._log_path, self._on_exit, self._lost, pid)

    def _lost(self, link: ShimLink) -> None:
        self._begin(asyncio.to_thread(reap, link.pid))
        if link is self._own:
            self._connected.clear()
            self._own = self._link("shim.sock", link.pid)
        else:
            self._older.remove(link)
        self._on_lost()

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _retire_if_empty(self, link: ShimLink) -> None:
        if link in self._older and link not in self._having.values():
            self._older.remove(link)
            _log.info("the shim with pid %d has no container any more and goes", link.pid)
            self._begin(link.shutdown())

    async def ready(self) -> None:
        """Until there is a shim: after the death of one it takes a moment. Raises TimeoutError."""
        if not self._connected.is_set():
            await asyncio.wait_for(self._connected.wait(), CONNECT_SECONDS)

    async def spawn(self, slot: str, request: Spawn) -> tuple[int, int]:
        """Clone a process. Returns (pid, pidfd). Raises CloneFailed, InternalError, TimeoutError."""
        await self.ready()
        return await self.ask(slot, request)

    def ask(self, slot: str, request: Spawn) -> asyncio.Future[tuple[int, int]]:
        """As ``spawn``, but whatever else is asked for comes after it from now on. Raises InternalError."""
        self._having[slot] = self._own
        return self._own.spawn(slot, request)

    def claim(self, slot: str, descriptors: dict[str, int], alarm: protocol.Message | None = None) -> None:
        """The slot is a container's, or an exec's, from now on; its shim keeps duplicates of these descriptors for the
        next supervisor. ``alarm`` has fields of the message by which it finds the container's crossing.

        Raises InternalError when there is no shim.
        """
        self._having.get(slot, self._own).claim(slot, descriptors, alarm)

    def let_go(self, slot: str, names: list[str]) -> None:
        """Its shim closes what it keeps of the slot by these names. No error when the shim is gone."""
        if (link := self._having.get(slot)) is not None:
            link.let_go(slot, names)

    def keep(self, descriptors: dict[str, int], alarms: Sequence[Alarm]) -> None:
        """The shims keep duplicates of these, and nothing else of the kind, for as long as they live.

        Raises InternalError when there is no shim.
        """
        for link in self._older:
            link.keep(descriptors, alarms)
        self._own.keep(descriptors, alarms)

    def release(self, slot: str) -> None:
        """Let its shim forget a slot; kills it when it lives. No error when the shim is gone: then it has forgotten."""
        link = self._having.pop(slot, None)
        if link is not None:
            link.release(slot)
            self._retire_if_empty(link)

    def close(self) -> None:
        """Leave the shims, and all they have, to another supervisor."""
        for link in (*self._older, self._own):
            link.close()

    async def shutdown(self) -> None:
        """End the shims and all they have; returns when they have gone, or do not within CONNECT_SECONDS."""
        await asyncio.gather(*(link.shutdown() for link in (*self._older, self._own)))
        if self._work:
            await asyncio.wait(self._work)
