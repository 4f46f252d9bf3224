"""The supervisor's end of the connection to a shim: find it, send requests, hand on what it says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from wherry.errors import InternalError
from wherry.kernel import trust, unix_sockets
from wherry.memory import Alarm
from wherry.runtime import steps
from wherry.runtime.exit_status import ExitStatus
from wherry.runtime.user_namespace import UserNamespace
from wherry.shim import protocol

_log = logging.getLogger(__name__)
CONNECT_SECONDS = 10


class HeldSlot(NamedTuple):
    """A slot that the shim kept from an earlier supervisor, with its descriptors by name (``pidfd`` among them)."""

    name: str
    pid: int
    claimed: bool
    exit: ExitStatus | None
    descriptors: dict[str, int]
    answered: bool = False
    """The shim has killed it for a crossing of its hard limit, while there was no supervisor."""
    element: tuple[str, int] | None = None
    """Which one it is in which of ``ShimLink.alarms``, by that one's id."""


class Spawn(NamedTuple):
    """What to clone, as the message has it; ``descriptors`` stay the caller's."""

    template: list[list[object]]
    cgroups: list[str]
    descriptors: dict[str, int]
    new: list[str]
    """Namespaces, by type."""
    joined: tuple[str, ...] = ()
    """Of the process that is ``target`` among the descriptors."""
    namespace: UserNamespace | None = None
    """What to give to the user namespace, if there is one among the new."""


class CloneFailed(InternalError):
    """``number`` is the errno of clone(2) or setns(2), 0 when it was something else."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class ShimLink:
    """The connection to one shim. ``on_exit(slot, status)`` and ``on_lost(self)`` are called on the loop. Requests go
    out in the order they are made.
    """

    def __init__(
        self,
        socket_path: Path,
        log_path: Path,
        on_exit: Callable[[str, ExitStatus], None],
        on_lost: Callable[[ShimLink], None],
        pid: int = 0,
    ) -> None:
        self.socket_path = socket_path
        self._log_path = log_path
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._connection: socket.socket | None = None
        self._queue: deque[tuple[protocol.Message, list[int]]] = deque()
        self._spawning: dict[str, asyncio.Future[tuple[int, int]]] = {}
        self.pid = pid
        """Until it is connected, what it is taken to be."""
        self.speaks_ours = False
        """Whether it can carry out our templates."""
        self.kept: dict[str, int] = {}
        """What ``keep`` of an earlier supervisor left with the shim, after ``connect``; whoever takes one out closes
        it.
        """
        self.alarms: list[Alarm] = []
        """Of ``keep`` as well."""

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def connect(self) -> list[HeldSlot] | None:
        """What the shim there holds; None when nobody listens. Raises InternalError, ConnectionResetError when it was
        just leaving, OSError.
        """
        connection = self._find()
        if connection is None:
            return None
        try:
            held = await asyncio.wait_for(self._synchronize(connection), CONNECT_SECONDS)
        except TimeoutError:
            connection.close()
            raise InternalError(f"the shim is not answering; see {self._log_path}") from None
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        asyncio.get_running_loop().add_reader(connection.fileno(), self._receive)
        return held

    def _find(self) -> socket.socket | None:
        """None when nobody listens there. Raises InternalError for a socket that is not ours, or not there itself."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            # connect(2) follows links: what is there is opened and looked at first.
            file = os.open(self.socket_path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                trust.check_socket(os.fstat(file), str(self.socket_path))
                connection.connect(f"/proc/self/fd/{file}")
            finally:
                os.close(file)
            if not protocol.peer_is_trusted(connection):
                raise InternalError(f"{self.socket_path} belongs to user {unix_sockets.peer_uid(connection)}")
            connection.setblocking(False)
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        except trust.DistrustedError as error:
            connection.close()
            raise InternalError(f"cannot reach the shim: {error}") from None
        except BaseException:
            connection.close()
            raise

    async def _synchronize(self, connection: socket.socket) -> list[HeldSlot]:
        held: list[HeldSlot] = []
        while True:
            message, descriptors = await _next_message(connection)
            names: list[str] = message.get("held") or message.get("names") or []
            if len(descriptors) != len(names):
                close_all(descriptors)
                raise InternalError(
                    f"the shim hands over {len(names)} descriptors for one container, and this supervisor may open no "
                    "more: raise its limit (LimitNOFILE= of the service, ulimit -n); the containers go on"
                )
            if message["type"] == "hello":
                self._greeted(message)
            elif message["type"] == "kept":
                self.kept = dict(zip(message["names"], descriptors, strict=True))
                self.alarms = [Alarm(**alarm) for alarm in message.get("alarms", [])]
            elif message["type"] == "slot":
                held.append(_held_slot(message, descriptors))
            elif message["type"] == "synced":
                return held

    def _greeted(self, hello: protocol.Message) -> None:
        self.pid, version = hello["pid"], hello["version"]
        if not protocol.OLDEST <= version <= protocol.VERSION:
            text = (
                f"the running shim speaks protocol {version}, this supervisor {protocol.OLDEST} to {protocol.VERSION}"
            )
            raise InternalError(f"{text}: stop the containers with the version that started them")
        self.speaks_ours = version == protocol.VERSION and hello["dialect"] == steps.dialect()

    def _receive(self) -> None:
        while self._connection is not None:
            try:
                received = protocol.receive(self._connection)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self._lose()
                return
            self._handle(*received)

    def _handle(self, message: protocol.Message, descriptors: list[int]) -> None:
        kind, slot = message["type"], message["slot"]
        if kind == "exit":
            self._on_exit(slot, _exit_status(message))
            return
        if kind == "refused":
            _log.error("the shim may open no more descriptors, and has killed the container in slot %s", slot)
            return
        future = self._spawning.pop(slot, None)
        if future is None or future.done():
            close_all(descriptors)
        elif kind == "spawned" and descriptors:
            future.set_result((message["pid"], descriptors[0]))
        elif kind == "spawned":
            self.release(slot)
            future.set_exception(InternalError("the supervisor has too many open descriptors"))
        else:
            future.set_exception(CloneFailed(message["message"], message["errno"]))

    def _lose(self) -> None:
        self._disconnect()
        for future in self._spawning.values():
            if not future.done():
                future.set_exception(InternalError("the shim died"))
        self._spawning.clear()
        self._on_lost(self)

    def _disconnect(self) -> None:
        if self._connection is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._connection.fileno())
            loop.remove_writer(self._connection.fileno())
            self._connection.close()
            self._connection = None
        while self._queue:
            close_all(self._queue.popleft()[1])

    def _send(self, message: protocol.Message, descriptors: list[int] | None = None) -> None:
        """Send now, or queue when the shim does not read: waiting for it here could be waiting for each other.

        Descriptors in the queue are duplicates. Raises InternalError when there is no shim.
        """
        if self._connection is None:
            raise InternalError("there is no shim")
        if self._queue or not self._try_send(message, descriptors or []):
            self._queue.append((message, [os.dup(descriptor) for descriptor in descriptors or []]))
            asyncio.get_running_loop().add_writer(self._connection.fileno(), self._send_queued)

    def _try_send(self, message: protocol.Message, descriptors: list[int]) -> bool:
        if self._connection is None:
            return True
        try:
            protocol.send(self._connection, message, descriptors)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            pass  # its end of file is on the way to _receive
        return True

    def _send_queued(self) -> None:
        while self._queue:
            message, descriptors = self._queue[0]
            if not self._try_send(message, descriptors):
                return
            close_all(descriptors)
            self._queue.popleft()
        if self._connection is not None:
            asyncio.get_running_loop().remove_writer(self._connection.fileno())

    async def spawn(self, slot: str, request: Spawn) -> tuple[int, int]:
        """Clone a process. Returns (pid, pidfd). Raises CloneFailed, InternalError when there is no shim."""
        future: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._spawning[slot] = future
        fields = request._asdict()
        descriptors = fields.pop("descriptors")
        try:
            message = {"type": "spawn", "slot": slot, "names": list(descriptors), **fields}
            self._send(message, list(descriptors.values()))
            return await future
        finally:
            self._spawning.pop(slot, None)

    def claim(self, slot: str, descriptors: dict[str, int], alarm: protocol.Message | None = None) -> None:
        """The slot is a container's from now on; the shim keeps duplicates of these descriptors for the next
        supervisor. ``alarm`` has fields of the message by which it finds the container's crossing.
        """
        message = {"type": "claim", "slot": slot, "names": list(descriptors), **(alarm or {})}
        self._send(message, list(descriptors.values()))

    def let_go(self, slot: str, names: list[str]) -> None:
        """Let the shim close what it keeps of the slot by these names. No error when the shim is gone."""
        if self._connection is not None:
            self._send({"type": "let_go", "slot": slot, "names": names})

    def keep(self, descriptors: dict[str, int], alarms: Sequence[Alarm]) -> None:
        """The shim keeps duplicates of these, and nothing else of the kind, for as long as it lives."""
        message = {"type": "keep", "names": list(descriptors), "alarms": [alarm._asdict() for alarm in alarms]}
        self._send(message, list(descriptors.values()))

    def release(self, slot: str) -> None:
        """Let the shim forget a slot; kills it when it lives. No error when the shim is gone: then it has forgotten."""
        if self._connection is not None:
            self._send({"type": "release", "slot": slot})

    def close(self) -> None:
        """Leave the shim, and all it has, to another supervisor."""
        if self._connection is not None:
            self._disconnect()

    async def shutdown(self) -> None:
        """End the shim and all it has; returns when its end of the connection has closed, or does not within
        ``CONNECT_SECONDS``.
        """
        if self._connection is None:
            return
        self._send({"type": "shutdown"})
        connection, loop = self._connection, asyncio.get_running_loop()
        loop.remove_reader(connection.fileno())
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(CONNECT_SECONDS):
                while await loop.sock_recv(connection, 1):
                    pass
        self._connection = None
        connection.close()
        self.socket_path.unlink(missing_ok=True)
        await asyncio.to_thread(reap, self.pid)  # we may live on: see reload


def reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # not ours when an earlier supervisor started it
        os.waitpid(pid, 0)


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


async def _next_message(connection: socket.socket) -> tuple[protocol.Message, list[int]]:
    loop = asyncio.get_running_loop()
    while True:
        try:
            received = protocol.receive(connection)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(connection.fileno(), readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection.fileno())
            continue
        if received is None:
            raise ConnectionResetError("the shim closed the connection")
        return received


def _exit_status(fields: protocol.Message) -> ExitStatus:
    return ExitStatus(fields["code"], fields["status"], fields["time"])


def _held_slot(message: protocol.Message, descriptors: list[int]) -> HeldSlot:
    ended = message["exit"]
    status = _exit_status(ended) if ended else None
    by_name = dict(zip(message["held"], descriptors, strict=True))
    # A shim that was started by an earlier version answers nothing.
    answered, element = message.get("answered", False), message.get("element")
    found = (element[0], element[1]) if element else None
    return HeldSlot(message["slot"], message["pid"], message["claimed"], status, by_name, answered, found)
