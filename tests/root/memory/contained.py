"""Processes in pid namespaces and groups of their own, under any memory enforcer, without a supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.root.harness import REPOSITORY
from tests.waiting import wait_until

from wherry.kernel import cgroup_memory, cgroups
from wherry.kernel import cgroup_trees as trees
from wherry.kernel.polling import readable
from wherry.memory import Host, Kind, Limits, MemoryEvent, MemoryLimiter, Target, choice, selftest

MIB = 1 << 20
HOSTILE = str(REPOSITORY / "build/workloads/memory_hostile")
KINDS = str(REPOSITORY / "build/workloads/memory_kinds")
GROW = str(REPOSITORY / "build/workloads/memory_grow")


class Contained:
    """``command`` as the first process of a pid namespace; it waits for ``go`` and is watched from its execve on."""

    def __init__(self, enforced: Enforced, output: Path, *command: str) -> None:
        self.id = os.urandom(32).hex()
        self.group = cgroups.Group(enforced.host.layout, f"{enforced.host.parent}/{self.id[:12]}")
        self._enforced = enforced
        self._output = output
        with contextlib.ExitStack() as undo:
            self.group.create_for_container()
            undo.callback(self._remove_group)
            shell = ["/bin/sh", "-c", 'exec "$@" >"$0"', str(output), *command]
            self._helper = selftest.start_helper(self.group.inner, shell)
            undo.callback(selftest.end_helper, self._helper)
            (self.pid,) = selftest.read_numbers(self._helper)
            self.pidfd = os.pidfd_open(self.pid)
            undo.callback(os.close, self.pidfd)
            self.namespace = os.open(f"/proc/{self.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, self.namespace)
            undo.pop_all()
        self.target = Target(self.id, self.pid, self.pidfd, self.namespace, self.group)
        self.kept: dict[str, int] = {}
        """What a shim would keep with it."""

    def go(self) -> None:
        assert self._helper.stdin is not None
        self._helper.stdin.write(b".")

    def word(self) -> None:
        """What the workloads wait for between two steps."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGUSR1)

    def said(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    def wait_for_words(self, words: str, times: int = 1) -> None:
        """Until it has said them so often. Whoever tells of its memory is read meanwhile: with control groups version
        2 it hardly gets on above its soft limit as long as nobody has read of that.
        """

        def is_said() -> bool:
            self._enforced.read()
            return self.said().count(words) >= times

        wait_until(is_said)

    def events(self) -> list[MemoryEvent]:
        """All that was told of it by now."""
        self._enforced.read()
        return [event for event in self._enforced.events if event.container_id == self.id]

    def kinds(self) -> list[Kind]:
        return [event.kind for event in self.events()]

    def wait_for(self, kind: Kind, times: int = 1) -> MemoryEvent:
        wait_until(lambda: self.kinds().count(kind) >= times)
        return [event for event in self.events() if event.kind is kind][times - 1]

    def has_ended(self) -> bool:
        """Whether its first process has: all others of its namespace have ended then."""
        return bool(readable([self.pidfd]))

    def kill(self) -> None:
        """What a supervisor does when it reads of a hard limit."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def usage(self) -> int:
        """Bytes, as its enforcer counts them."""
        return self._enforced.limiter.stat(self.id).rss_bytes

    def oom_kills(self) -> int:
        return cgroup_memory.oom_kills(self.group)

    def close_kept(self) -> None:
        for descriptor in self.kept.values():
            os.close(descriptor)
        self.kept = {}

    def close(self) -> None:
        self.kill()
        wait_until(self.has_ended)
        selftest.end_helper(self._helper)
        for descriptor in (self.pidfd, self.namespace):
            os.close(descriptor)
        self.close_kept()
        self._remove_group()

    def _remove_group(self) -> None:
        wait_until(lambda: trees.remove(self.group.places, cgroups.INNER))


class Enforced:
    """An enforcer and the containers that it watches. ``column`` is where the contract has its promises."""

    def __init__(self, name: str, host: Host, directory: Path) -> None:
        self.host = host
        self.limiter: MemoryLimiter = choice.open_limiter(name, host, {})
        self.column = f"{name}{host.layout.version}" if name == "cgroup" else name
        self.events: list[MemoryEvent] = []
        self.contained: list[Contained] = []
        self._is_alone = False
        self._directory = directory

    def start(self, limits: Limits, *command: str, go: bool = True) -> Contained:
        contained = Contained(self, self._directory / f"output-{len(self.contained)}", *command)
        self.contained.append(contained)
        contained.kept = self.limiter.arm(contained.target, limits)
        if go:
            contained.go()
        return contained

    def read(self) -> list[MemoryEvent]:
        found = self.limiter.read()
        self.events += found
        return found

    def die(self) -> None:
        """What a supervisor had is closed."""
        self.limiter.close()
        self._is_alone = True

    def open_another(self, kept: dict[str, int]) -> None:
        """As the next supervisor, with what a shim has kept."""
        self.limiter = choice.open_limiter(self.limiter.name, self.host, kept)
        self._is_alone = False

    def take_over(self, limits: Limits, *contained: Contained) -> None:
        """As the next supervisor does: supervisor/memory_watch/rearming.py."""
        for each in contained:
            target = each.target._replace(namespace=each.kept.get("memory-namespace", -1))
            try:
                self.limiter.adopt(target, limits, each.kept)
            except (KeyError, OSError):
                kept = self.limiter.rearm(each.target, limits)
                each.close_kept()
                each.kept = kept
        self.limiter.take_stock()
        self.limiter.sweep()

    def close(self) -> None:
        for contained in self.contained:
            contained.close()
        if not self._is_alone:
            self.limiter.close()


@contextlib.contextmanager
def enforced_by(name: str, directory: Path) -> Iterator[Enforced]:
    """``name`` is an enforcer's; it is not tested before, since the tests themselves see what it does."""
    host = Host(cgroups.detect(), f"wherry-test-{os.getpid()}")
    group = cgroups.Group(host.layout, host.parent)
    group.create()
    try:
        enforced = Enforced(name, host, directory)
        try:
            yield enforced
        finally:
            enforced.close()
    finally:
        wait_until(group.remove)


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_writev.argtypes = [
    *(ctypes.c_int, ctypes.POINTER(_Vector), ctypes.c_ulong, ctypes.POINTER(_Vector), ctypes.c_ulong),
    ctypes.c_ulong,
]
_libc.process_vm_writev.restype = ctypes.c_ssize_t


def write_from_outside(pid: int, address: int, size: int) -> None:
    """Write a byte in each page of another process's memory by process_vm_writev(2), until that is refused: it has
    ended then, or its group is full.
    """
    byte = ctypes.create_string_buffer(b"x", 1)
    ours = _Vector(ctypes.addressof(byte), 1)
    for offset in range(0, size, 4096):
        theirs = _Vector(address + offset, 1)
        if _libc.process_vm_writev(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0) < 0:
            return
