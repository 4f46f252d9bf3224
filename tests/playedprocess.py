"""A container's first process without a machine, as the shim of ``tests/lifeworld.py`` has it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from wherry.kernel import unix_sockets
from wherry.runtime.exit_status import ExitStatus

if TYPE_CHECKING:
    from tests.lifeworld import World

MINDS, LAZY, FAILS = "minds", "lazy", "fails"
"""Commands: one that ends at SIGTERM, one that has made no arrangement for it, and one that cannot be executed."""
EXECUTED = b'{"exec": true}\n'
FAILED = b'{"step": "execute fails", "kind": "execve", "call": "execve", "path": "fails", "errno": 2}\n'


class Process:
    """The first process of a container, as the shim has it."""

    def __init__(self, world: World, slot: str, pid: int, group: Path, channel: socket.socket) -> None:
        self.world = world
        self.slot = slot
        self.pid = pid
        self.pidfd = os.memfd_create(slot[:8])
        self.group = group
        self.command = ""
        self.status: ExitStatus | None = None
        self.is_stuck = False
        """It sits in the kernel: SIGKILL has to wait."""
        self._pending: list[int] = []
        self._channel: socket.socket | None = channel
        self._outputs: list[int] = []
        self.held: dict[str, int] = {}
        """What the shim keeps of it."""
        channel.setblocking(False)
        world.loop.add_reader(channel.fileno(), self._hear)

    @property
    def is_alive(self) -> bool:
        return self.status is None

    @property
    def is_frozen(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return (self.group / "freezer.state").read_text() == "FROZEN"
        return False

    def _hear(self) -> None:
        """The finish message, or the end of a supervisor that did not get that far."""
        assert self._channel is not None
        message, descriptors = unix_sockets.receive(self._channel, 1 << 20, 250)
        if not message:
            self.end(1)
            return
        for descriptor in (descriptors[0], *descriptors[3:]):
            os.close(descriptor)
        self._outputs = descriptors[1:3]
        self.command = next(each for each in (MINDS, LAZY, FAILS) if f'"args": ["{each}"'.encode() in message)
        self._channel.send(FAILED if self.command == FAILS else EXECUTED)
        self._close_channel()
        if self.command == FAILS:
            self.end(127)

    def _close_channel(self) -> None:
        if self._channel is not None:
            self.world.loop.remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def signal(self, number: int) -> None:
        if self.is_alive:
            self._pending.append(number)
            self.look()

    def look(self) -> None:
        """At its signals, when it is free to."""
        if self.is_frozen or self.is_stuck or not self.is_alive:
            return
        pending, self._pending = self._pending, []
        if signal.SIGKILL in pending:
            self._end(ExitStatus(os.CLD_KILLED, signal.SIGKILL))
        elif signal.SIGTERM in pending and self.command == MINDS:
            self.end(0)

    def end(self, code: int) -> None:
        self._end(ExitStatus(os.CLD_EXITED, code))

    def _end(self, status: ExitStatus) -> None:
        self.status = status
        self._close_channel()
        for descriptor in self._outputs:
            os.close(descriptor)
        self._outputs = []
        if self.world.link is not None:
            self.world.loop.call_soon(self.world.link.tell, self.slot, status)

    def close(self) -> None:
        for descriptor in (self.pidfd, *self.held.values()):
            os.close(descriptor)
        self.held = {}
        if self.is_alive:
            self._end(ExitStatus(os.CLD_KILLED, signal.SIGKILL))
