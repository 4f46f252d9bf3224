"""The supervisor's end of the shim, with a real one: started, lost, taken over; its loop never waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from tests.forked import in_child
from tests.patience import PATIENCE
from tests.root.harness import Traces
from tests.waiting import wait_until

from wherry.errors import InternalError
from wherry.kernel.cgroups import Layout
from wherry.runtime import steps
from wherry.runtime.exit_status import ExitStatus
from wherry.runtime.plan import make_plan
from wherry.runtime.spec import Spec
from wherry.runtime.users import User
from wherry.shim import protocol
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.containers.spec_of import make_spec
from wherry.supervisor.processes.children import Children
from wherry.supervisor.processes.shimlink import Spawn
from wherry.supervisor.processes.shims import Shims

pytestmark = pytest.mark.root
T = TypeVar("T")


class Link:
    """Shims and what they have told."""

    def __init__(self, directory: Path) -> None:
        self.exits: dict[str, ExitStatus] = {}
        self.lost = asyncio.Event()
        self.link = Shims(directory, self._on_exit, self.lost.set)
        self._exited = asyncio.Event()

    def _on_exit(self, slot: str, status: ExitStatus) -> None:
        self.exits[slot] = status
        self._exited.set()

    async def spawn(self, slot: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            _pid, pidfd = await self.link.spawn(slot, Spawn([], [], {"channel": theirs.fileno()}, ["pid"]))
            os.close(pidfd)
        return ours

    async def exit_of(self, slot: str) -> ExitStatus:
        while slot not in self.exits:
            self._exited.clear()
            await self._exited.wait()
        return self.exits[slot]


@pytest.fixture
def run(tmp_path: Path, leftovers: Traces) -> Callable[[Callable[[Path], Awaitable[T]]], T]:
    """Runs a coroutine function on ``tmp_path``, in a process of its own that all orphans come to."""
    assert leftovers.directory == str(tmp_path)

    def run(work: Callable[[Path], Awaitable[T]]) -> T:
        async def limited() -> T:
            return await asyncio.wait_for(work(tmp_path), PATIENCE)

        return in_child(lambda: asyncio.run(limited()))

    return run


Run = Callable[[Callable[[Path], Awaitable[None]]], None]


def test_from_start_to_shutdown(run: Run) -> None:
    async def check(directory: Path) -> None:
        made = Link(directory)
        assert await made.link.connect() == []
        assert (directory / "shim.sock").stat().st_mode & 0o777 == 0o600
        with await made.spawn("c") as channel:
            assert await asyncio.get_running_loop().sock_recv(channel, 100) == b'{"ready": true}\n'
        # Its channel is closed: it goes.
        assert (await made.exit_of("c"))[:2] == (os.CLD_EXITED, 125)
        made.link.release("c")
        pid = made.link.pid
        await made.link.shutdown()
        assert not (directory / "shim.sock").exists()
        assert is_reaped(pid)
        assert (directory / "shim.log").read_text() == ""
        assert not made.lost.is_set()

    run(check)


def is_reaped(pid: int) -> bool:
    """By the link: a supervisor that is reloaded lives on, and would keep its old shim as a zombie."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def variables_of(pid: int) -> list[str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return [entry.partition("=")[0] for entry in entries if entry]


def open_files_of(pid: int) -> list[str]:
    numbers = os.listdir(f"/proc/{pid}/fd")
    return [os.readlink(f"/proc/{pid}/fd/{number}").partition(":")[0] for number in numbers]


def test_the_shim_inherits_only_what_it_needs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parked process shows it in /proc/PID/environ, and any process of the host's root can read that."""
    monkeypatch.setenv("SECRET_TOKEN", "x")

    async def check(directory: Path) -> None:
        made = Link(directory)
        await made.link.connect()
        assert set(variables_of(made.link.pid)) <= {"PATH", "LANG", "LD_LIBRARY_PATH"}
        log = str(directory / "shim.log")
        epoll_and_signals = ["anon_inode", "anon_inode"]
        found = sorted(open_files_of(made.link.pid))
        assert found == ["/dev/null", log, log, *epoll_and_signals, "socket", "socket"]
        await made.link.shutdown()
        assert is_reaped(made.link.pid)

    run(check)


def test_a_directory_with_a_long_name(run: Run) -> None:
    async def check(directory: Path) -> None:
        deep = directory / ("d" * 120)
        deep.mkdir()
        made = Link(deep)
        await made.link.connect()
        (await made.spawn("c")).close()
        await made.link.shutdown()
        assert is_reaped(made.link.pid)

    run(check)


def test_a_stale_socket_is_replaced(run: Run) -> None:
    async def check(directory: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(str(directory / "shim.sock"))
        made = Link(directory)
        await made.link.connect()
        await made.link.shutdown()
        assert is_reaped(made.link.pid)

    run(check)


def test_the_loop_does_not_wait_for_a_shim_that_does_not_read(run: Run) -> None:
    """Two processes that block in a send to each other would stay so."""

    async def check(directory: Path) -> None:
        made = Link(directory)
        await made.link.connect()
        os.kill(made.link.pid, signal.SIGSTOP)
        spawning = [asyncio.create_task(made.spawn(f"c{number}")) for number in range(300)]
        for number in range(2000):
            made.link.release(f"nobody{number}")
        await asyncio.sleep(0)  # else we would not get here before the time limit
        assert not any(task.done() for task in spawning)
        os.kill(made.link.pid, signal.SIGCONT)
        for channel in await asyncio.gather(*spawning):
            channel.close()
        for number in range(300):
            assert (await made.exit_of(f"c{number}"))[:2] == (os.CLD_EXITED, 125)
            made.link.release(f"c{number}")
        await made.link.shutdown()
        assert is_reaped(made.link.pid)

    run(check)


def test_takeover_with_descriptors(run: Run) -> None:
    async def check(directory: Path) -> None:
        first = Link(directory)
        await first.link.connect()
        channel = await first.spawn("c")
        reader, writer = os.pipe()
        first.link.claim("c", {"stdout": reader, "channel": channel.fileno()})
        os.close(reader)
        channel.close()
        second = Link(directory)
        (held,) = await second.link.connect()
        assert (held.name, held.claimed, held.exit) == ("c", True, None)
        assert list(held.descriptors) == ["pidfd", "stdout", "channel"]
        await first.lost.wait()
        with pytest.raises(InternalError, match="there is no shim"):
            first.link.claim("c", {})
        os.write(writer, b"kept")
        assert os.read(held.descriptors["stdout"], 10) == b"kept"
        signal.pidfd_send_signal(held.descriptors["pidfd"], signal.SIGKILL)
        assert (await second.exit_of("c"))[:2] == (os.CLD_KILLED, 9)
        await second.link.shutdown()
        first.link.release("c")

    run(check)


def test_a_shim_that_is_killed(run: Run) -> None:
    async def check(directory: Path) -> None:
        made = Link(directory)
        await made.link.connect()
        os.kill(made.link.pid, signal.SIGSTOP)
        spawning = asyncio.create_task(made.spawn("c"))
        for _ in range(10):  # until it waits for the answer
            await asyncio.sleep(0)
        first = made.link.pid
        os.kill(first, signal.SIGKILL)
        await made.lost.wait()
        with pytest.raises(InternalError, match="the shim died"):
            await spawning
        made.link.release("c")
        assert await made.link.connect() == []
        assert made.link.pid != first
        (await made.spawn("d")).close()
        await made.link.shutdown()
        wait_until(lambda: not Path(f"/proc/{first}").exists())  # reaped by the link
        assert is_reaped(made.link.pid)

    run(check)


def spec() -> Spec:
    return make_spec("a", CreateRequest(rootfs="/", command=("/bin/true",)), "/", User(0, 0, (), "/"))


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_child_that_is_given_up_after_the_shim_died(run: Run, is_replaced: bool) -> None:
    """A start that fails because the shim has just died must end, and leave no process."""

    async def check(directory: Path) -> None:
        for name in ("stage", "groups", "groups/parent"):
            (directory / name).mkdir()
        made = Link(directory)
        await made.link.connect()
        children = Children(made.link, Layout(1, {}), "parent", 0)
        child = await children.get(make_plan(spec(), str(directory / "stage")))
        await child.wait_ready()
        os.kill(made.link.pid, signal.SIGKILL)
        await made.lost.wait()
        children.watch_orphans()
        if is_replaced:
            await made.link.connect()
        await asyncio.wait_for(children.discard(child), PATIENCE)
        assert children.by_slot == {}
        await made.link.shutdown()
        if is_replaced:
            assert is_reaped(made.link.pid)

    run(check)


@pytest.mark.parametrize("version", [protocol.OLDEST - 1, protocol.VERSION + 1])
def test_a_shim_that_cannot_be_understood_is_left_alone(run: Run, version: int) -> None:
    """Its containers are more than a supervisor; and nobody takes its place."""

    async def check(directory: Path) -> None:
        path = str(directory / "shim.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen()
            made = Link(directory)
            connecting = asyncio.create_task(made.link.connect())
            listener.setblocking(False)
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            with connection:
                protocol.send(connection, {"type": "hello", "version": version, "pid": os.getpid(), "dialect": "x"})
                with pytest.raises(InternalError, match=f"speaks protocol {version}, this supervisor 2 to 3"):
                    await connecting
        assert os.listdir(directory) == ["shim.sock"]

    run(check)


def test_a_shim_of_other_steps_keeps_what_it_has(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(directory: Path) -> None:
        first = Link(directory)
        await first.link.connect()
        old = first.link.pid
        with await first.spawn("c"):
            first.link.claim("c", {})
            monkeypatch.setattr(steps, "dialect", lambda: "other")
            second = Link(directory)
            # The new one is started from the same files as the old one, as if it were this process that is old.
            for _ in range(2):
                with pytest.raises(InternalError, match="another version of the program has been installed"):
                    await second.link.connect()
                assert sorted(os.listdir(directory)) == [f"shim-{old}.sock", "shim.log"]
            second.link.close()
            monkeypatch.undo()
            third = Link(directory)
            held = await third.link.connect()
            assert [slot.name for slot in held] == ["c"]
            for slot in held:
                os.close(slot.descriptors["pidfd"])
            assert third.link.has("c")
            assert third.link.pid != old
            await third.link.shutdown()
            assert os.listdir(directory) == ["shim.log"]

    run(check)
