"""The shim as a process of its own, the supervisor's end of its socket, and children that run no plan."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.patience import PATIENCE
from tests.root.harness import PACKAGES

from wherry.kernel.polling import readable
from wherry.runtime import launch
from wherry.runtime.steps import Step, encode
from wherry.shim import protocol

CODE = "import sys; sys.path.append(sys.argv[1]); from wherry.shim.main import main; main(int(sys.argv[2]))"
NEW_PID: dict[str, list[str]] = {"new": ["pid"], "joined": [], "names": ["channel"]}


class Child:
    """One that this connection has spawned: its channel and its pidfd."""

    def __init__(self, name: str, channel: socket.socket, pid: int, pidfd: int) -> None:
        self.name = name
        self.channel = channel
        self.pid = pid
        self.pidfd = pidfd

    def execute(self, *command: str) -> None:
        """Have it execute a command; returns when it has."""
        self.channel.sendall(launch.finish_message([], [], list(command), [], False))
        report = self.reports()
        assert (report.executed, report.failure) == (True, None)

    def reports(self) -> launch.Report:
        """All, to the end of file."""
        text = b""
        while chunk := self.channel.recv(4096):
            text += chunk
        return launch.parse_reports(text)

    def has_ended(self) -> bool:
        return bool(readable([self.pidfd]))

    def close(self) -> None:
        self.channel.close()
        os.close(self.pidfd)


class Connection:
    """A supervisor's end: what the shim said first is in ``slots``, name to message and descriptors. ``then`` is called
    when it is connected, before anything is read.
    """

    def __init__(self, address: str, then: Callable[[], object] = lambda: None) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.slots: dict[str, tuple[protocol.Message, dict[str, int]]] = {}
        self.children: list[Child] = []
        self.kept: dict[str, int] = {}
        try:
            self.socket.connect(address)
            then()
            self.hello, _ = self.receive()
            while (received := self.receive())[0]["type"] != "synced":
                message, descriptors = received
                if message["type"] == "kept":
                    self.kept = dict(zip(message["names"], descriptors, strict=True))
                    continue
                self.slots[message["slot"]] = message, dict(zip(message["held"], descriptors, strict=True))
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()
        for child in self.children:
            child.close()
        for descriptors in (self.kept, *(descriptors for _, descriptors in self.slots.values())):
            for descriptor in descriptors.values():
                os.close(descriptor)

    def exit_of(self, slot: str) -> tuple[int, int] | None:
        """si_code and si_status, None while it runs; the time must be one of this boot that has passed."""
        found = self.slots[slot][0]["exit"]
        assert found is None or 0 < found["time"] <= time.monotonic_ns()
        return found and (found["code"], found["status"])

    def receive(self) -> tuple[protocol.Message, list[int]]:
        """The next message; fails when there is none within ten seconds."""
        assert readable([self.socket.fileno()], PATIENCE)
        received = protocol.receive(self.socket)
        if received is None:
            raise ConnectionResetError("the shim closed the connection")
        return received

    def is_closed(self) -> bool:
        """Takes one message when it is not; fails when neither is known within ten seconds."""
        assert readable([self.socket.fileno()], PATIENCE)
        return protocol.receive(self.socket) is None

    def send(self, descriptors: list[int] | None = None, **message: Any) -> None:
        protocol.send(self.socket, message, descriptors)

    def spawn(self, name: str, *template: Step, cgroups: tuple[str, ...] = (), beside: Child | None = None) -> Child:
        """In a pid namespace of its own, or in that of ``beside``."""
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        fields = {"template": encode(list(template)), "cgroups": list(cgroups), **NEW_PID}
        if beside is not None:
            fields |= {"new": [], "joined": ["pid"], "names": ["channel", "target"]}
        with theirs:
            descriptors = [theirs.fileno(), *([beside.pidfd] if beside is not None else [])]
            self.send(descriptors, type="spawn", slot=name, **fields)
        answer, descriptors = self.receive()
        assert (answer["type"], answer["slot"], len(descriptors)) == ("spawned", name, 1)
        child = Child(name, ours, answer["pid"], descriptors[0])
        self.children.append(child)
        return child

    def claim(self, name: str, **descriptors: int) -> None:
        self.send(list(descriptors.values()), type="claim", slot=name, names=list(descriptors))

    def start(self, name: str, *command: str, **held: int) -> Child:
        """A container: claimed, and executing ``command``."""
        child = self.spawn(name)
        self.claim(name, **held)
        child.execute(*command)
        return child

    def next_exit(self) -> tuple[str, int, int]:
        """Slot, si_code and si_status."""
        message, _ = self.receive()
        assert message["type"] == "exit"
        return message["slot"], message["code"], message["status"]


class ShimProcess:
    def __init__(self, directory: Path) -> None:
        # An abstract name, so that another user's process can try to connect whatever the mode of the directory is.
        self.address = f"\0{directory}/shim"
        self.log = directory / "shim.log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, self.log.open("wb") as log:
            listener.bind(self.address)
            listener.listen(8)
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-c", CODE, PACKAGES, str(listener.fileno())],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def connect(self, then: Callable[[], object] = lambda: None) -> Connection:
        return Connection(self.address, then)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
