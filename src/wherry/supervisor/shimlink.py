"""The supervisor's end of the connection to its shim: start or find one, send requests, hand on what it says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import wherry
from wherry.errors import InternalError
from wherry.kernel import mounts, trust, unix_sockets
from wherry.memory import Alarm
from wherry.runtime.exit_status import ExitStatus
from wherry.shim import protocol

_log = logging.getLogger(__name__)
_CONNECT_SECONDS = 10
_ATTEMPTS = 3
_CODE = "import sys; sys.path.append({path!r}); from wherry.shim.main import main; main(3)"


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


class ShimLink:
    """``on_exit(slot, status)`` and ``on_lost()`` are called on the loop. Requests go out in the order they are
    made.
    """

    def __init__(
        self, directory: Path, on_exit: Callable[[str, ExitStatus], None], on_lost: Callable[[], None]
    ) -> None:
        self._socket_path = directory / "shim.sock"
        self._log_path = directory / "shim.log"
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._connection: socket.socket | None = None
        self._connected = asyncio.Event()
        self._queue: deque[tuple[protocol.Message, list[int]]] = deque()
        self._spawning: dict[str, asyncio.Future[tuple[int, int]]] = {}
        self.pid = 0
        self.kept: dict[str, int] = {}
        """What ``keep`` of an earlier supervisor left with the shim, after ``connect``; whoever takes one out closes
        it.
        """
        self.alarms: list[Alarm] = []
        """Of ``keep`` as well."""
        self.is_new = False
        """Whether ``connect`` had to start a shim, so that what an earlier one had is not in it."""

    async def connect(self) -> list[HeldSlot]:
        """Connect to the shim of an earlier supervisor or start one; returns what it holds. Raises InternalError,
        OSError.
        """
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(ConnectionResetError):  # it was just leaving
                return await self._connect()
        raise InternalError(f"the shim does not answer on {self._socket_path}; see {self._log_path}")

    async def _connect(self) -> list[HeldSlot]:
        connection = self._find()
        self.is_new = connection is None
        if connection is None:
            self._start()
            connection = self._find()
        if connection is None:
            raise ConnectionResetError
        try:
            held = await asyncio.wait_for(self._synchronize(connection), _CONNECT_SECONDS)
        except TimeoutError:
            connection.close()
            raise InternalError(f"the shim is not answering; see {self._log_path}") from None
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._connected.set()
        asyncio.get_running_loop().add_reader(connection.fileno(), self._receive)
        return held

    def _find(self) -> socket.socket | None:
        """None when nobody listens there. Raises InternalError for a socket that is not ours, or not there itself."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            # connect(2) follows links: what is there is opened and looked at first.
            file = os.open(self._socket_path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                trust.check_socket(os.fstat(file), str(self._socket_path))
                connection.connect(f"/proc/self/fd/{file}")
            finally:
                os.close(file)
            if not protocol.peer_is_trusted(connection):
                raise InternalError(f"{self._socket_path} belongs to user {unix_sockets.peer_uid(connection)}")
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

    def _start(self) -> None:
        self._socket_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as listener:
            # bind(2) makes the file with the mode of the socket's own inode.
            os.fchmod(listener.fileno(), 0o600)
            with _ShortPath(self._socket_path) as path:
                listener.bind(path)
            listener.listen(8)
            self.child = _execute_shim(listener.fileno(), self._log_path)

    async def _synchronize(self, connection: socket.socket) -> list[HeldSlot]:
        held: list[HeldSlot] = []
        while True:
            message, descriptors = await _next_message(connection)
            names: list[str] = message.get("held") or message.get("names") or []
            if len(descriptors) != len(names):
                _close_all(descriptors)
                raise InternalError(
                    f"the shim hands over {len(names)} descriptors for one container, and this supervisor may open no "
                    "more: raise its limit (LimitNOFILE= of the service, ulimit -n); the containers go on"
                )
            if message["type"] == "hello":
                self.pid = message["pid"]
                if message["version"] != protocol.VERSION:
                    text = f"the running shim speaks protocol {message['version']}, this supervisor {protocol.VERSION}"
                    raise InternalError(f"{text}: stop the containers with the version that started them")
            elif message["type"] == "kept":
                self.kept = dict(zip(message["names"], descriptors, strict=True))
                self.alarms = [Alarm(**alarm) for alarm in message.get("alarms", [])]
            elif message["type"] == "slot":
                held.append(_held_slot(message, descriptors))
            elif message["type"] == "synced":
                return held

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
            _close_all(descriptors)
        elif kind == "spawned" and descriptors:
            future.set_result((message["pid"], descriptors[0]))
        elif kind == "spawned":
            self.release(slot)
            future.set_exception(InternalError("the supervisor has too many open descriptors"))
        else:
            future.set_exception(InternalError(message["message"]))

    def _lose(self) -> None:
        self._disconnect()
        self._reaping = asyncio.get_running_loop().run_in_executor(None, _reap, self.pid)
        for future in self._spawning.values():
            if not future.done():
                future.set_exception(InternalError("the shim died"))
        self._spawning.clear()
        self._on_lost()

    def _disconnect(self) -> None:
        if self._connection is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._connection.fileno())
            loop.remove_writer(self._connection.fileno())
            self._connection.close()
            self._connection = None
            self._connected.clear()
        while self._queue:
            _close_all(self._queue.popleft()[1])

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
            _close_all(descriptors)
            self._queue.popleft()
        if self._connection is not None:
            asyncio.get_running_loop().remove_writer(self._connection.fileno())

    async def ready(self) -> None:
        """Until there is a shim: after the death of one it takes a moment. Raises TimeoutError."""
        if not self._connected.is_set():
            await asyncio.wait_for(self._connected.wait(), _CONNECT_SECONDS)

    async def spawn(self, slot: str, template: list[list[object]], cgroups: list[str], channel: int) -> tuple[int, int]:
        """Clone a process; ``channel`` (not closed here) is its end of the socket. Returns (pid, pidfd)."""
        await self.ready()
        future: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._spawning[slot] = future
        try:
            self._send({"type": "spawn", "slot": slot, "template": template, "cgroups": cgroups}, [channel])
            return await future
        finally:
            self._spawning.pop(slot, None)

    def claim(self, slot: str, descriptors: dict[str, int], alarm: protocol.Message | None = None) -> None:
        """The slot is a container's from now on; the shim keeps duplicates of these descriptors for the next
        supervisor. ``alarm`` has fields of the message by which it finds the container's crossing.
        """
        message = {"type": "claim", "slot": slot, "names": list(descriptors), **(alarm or {})}
        self._send(message, list(descriptors.values()))

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
        ``_CONNECT_SECONDS``.
        """
        if self._connection is None:
            return
        self._send({"type": "shutdown"})
        connection, loop = self._connection, asyncio.get_running_loop()
        loop.remove_reader(connection.fileno())
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(_CONNECT_SECONDS):
                while await loop.sock_recv(connection, 1):
                    pass
        self._connection = None
        connection.close()
        self._socket_path.unlink(missing_ok=True)
        await asyncio.to_thread(_reap, self.pid)  # we may live on: see reload


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # not ours when an earlier supervisor started it
        os.waitpid(pid, 0)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class _ShortPath:
    """A name for a socket below the 107 bytes that sun_path holds, whatever the length of the directory:
    /proc/self/fd/N/name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._directory}/{self._path.name}"

    def __exit__(self, *_exception: object) -> None:
        os.close(self._directory)


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


def _execute_shim(listener: int, log_path: Path) -> int:
    """Start the shim's interpreter from a read-only mount of its file; returns its pid.

    /proc/PID/exe of a container's first process is that file until it calls execve. A hostile rootfs can get a
    descriptor of it (CVE-2019-5736: a script with ``#!/proc/self/exe``), but not open it for writing: the mount it
    came from is read-only, is in no namespace, and so cannot be remounted.
    """
    package = str(Path(wherry.__file__).resolve().parent.parent)
    arguments = [sys.executable, "-I", "-S", "-B", "-c", _CODE.format(path=package)]
    with contextlib.ExitStack() as used:
        log = _open_log(log_path)
        used.callback(os.close, log)
        executable = mounts.clone_tree(os.path.realpath(sys.executable))
        used.callback(os.close, executable)
        mounts.set_attributes(executable, mounts.MOUNT_ATTR_RDONLY)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
            (os.POSIX_SPAWN_DUP2, listener, 3),
        ]
        # Nothing else of our environment: a parked process shows it in /proc/PID/environ.
        environment = {key: value for key, value in os.environ.items() if key in ("PATH", "LD_LIBRARY_PATH")}
        environment["LANG"] = "C.UTF-8"
        return os.posix_spawn(f"/proc/self/fd/{executable}", arguments, environment, file_actions=actions)


def _open_log(path: Path) -> int:
    try:
        return trust.open_file(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except trust.DistrustedError as error:
        raise InternalError(f"cannot start the shim: {error}") from None
