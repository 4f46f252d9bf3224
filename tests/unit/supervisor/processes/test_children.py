"""A child as the supervisor sees it, over a real channel; and which ones are kept ready, with a shim that plays."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
from tests.patience import PATIENCE

from wherry.errors import InternalError, StartFailed
from wherry.kernel import unix_sockets
from wherry.kernel.cgroups import Group, Layout
from wherry.runtime.exit_status import ExitStatus
from wherry.runtime.plan import ChildKind, Plan
from wherry.supervisor.processes.children import Child, Children
from wherry.supervisor.processes.shimlink import Spawn
from wherry.supervisor.processes.shims import Shims

READY, EXECUTED = b'{"ready": true}\n', b'{"exec": true}\n'
FAILED = b'{"step": "mount /proc", "call": "mount", "path": "", "errno": 1, "message": "Operation not permitted"}\n'


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE))


class Channel:
    """A child whose other end is the test's, ``theirs``."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.child = Child("slot", Group(Layout(1, {}), "x"), ours)

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.child.close()
        self.theirs.close()


def test_ready() -> None:
    async def check() -> None:
        with Channel() as channel:
            waiting = asyncio.create_task(channel.child.wait_ready())
            for part in (READY[:5], READY[5:]):
                await asyncio.sleep(0)
                assert not waiting.done()
                channel.theirs.send(part)
            await waiting

    run(check())


@pytest.mark.parametrize(
    ("said", "message"), [(FAILED, "mount /proc: operation not permitted"), (b"", "died"), (READY[:4], "died")]
)
def test_never_ready(said: bytes, message: str) -> None:
    async def check() -> None:
        with Channel() as channel:
            channel.theirs.send(said)
            channel.theirs.close()
            with pytest.raises(StartFailed, match=message):
                await channel.child.wait_ready()

    run(check())


def test_an_end_before_it_is_adopted_is_not_lost() -> None:
    """A supervisor hears of ends as soon as it is connected, and adopts when it has read its records."""

    async def check() -> None:
        children = Children(cast(Shims, None), Layout(1, {}), "parent", 0)
        ended, status = ExitStatus(os.CLD_KILLED, 9, 5), None
        children.exited("slot", ended)
        with Channel() as channel:
            children.adopt(channel.child)
            status = await channel.child.exited
        assert status == ended
        children.all_adopted()
        children.exited("other", ended)
        with Channel() as channel:
            channel.child.slot = "other"
            children.adopt(channel.child)
            assert not channel.child.exited.done()

    run(check())


def test_the_finish_message_arrives_whole_with_its_descriptors() -> None:
    message = struct.pack(">I", 1 << 20) + b"x" * (1 << 20)  # more than a socket buffer

    async def check() -> None:
        with Channel() as channel:
            sending = asyncio.create_task(channel.child.finish(message, [0, 1, 2]))
            await asyncio.sleep(0)
            received, descriptors = unix_sockets.receive(channel.theirs, 4, 250)
            for descriptor in descriptors:
                os.close(descriptor)
            channel.theirs.setblocking(False)
            while len(received) < len(message):
                received += await asyncio.get_running_loop().sock_recv(channel.theirs, 65536)
            await sending
            assert (received, len(descriptors)) == (message, 3)

    run(check())


def test_to_finish_a_child_that_has_died_is_no_error() -> None:
    """Its last report says why, or its exit status."""

    async def check() -> None:
        with Channel() as channel:
            channel.theirs.close()
            await channel.child.finish(b"message", [0])

    run(check())


def test_more_descriptors_than_a_message_can_carry() -> None:
    """SCM_MAX_FD of the kernel is 253. The child would wait for the message for ever."""

    async def check() -> None:
        with Channel() as channel, pytest.raises(StartFailed, match="260 descriptors"):
            await channel.child.finish(b"message", [0] * 260)

    run(check())


def executed_in(parts: list[bytes]) -> tuple[list[bytes], bool, bool]:
    """What was still in the channel when ``on_executing`` was called (once a call), and the report."""
    seen: list[bytes] = []

    async def check() -> tuple[bool, bool]:
        with Channel() as channel:
            ours = channel.child.channel
            assert ours is not None

            def on_executing() -> None:
                seen.append(ours.recv(100, socket.MSG_PEEK))

            waiting = asyncio.create_task(channel.child.wait_executed(on_executing))
            for part in parts:
                channel.theirs.send(part)
                for _ in range(5):
                    await asyncio.sleep(0)
            assert not waiting.done()
            channel.theirs.close()
            report = await waiting
            return report.executed, report.failure is not None

    executed, failed = asyncio.run(asyncio.wait_for(check(), PATIENCE))
    return seen, executed, failed


@pytest.mark.parametrize("parts", [[READY, EXECUTED], [READY + EXECUTED], [READY, EXECUTED[:3], EXECUTED[3:]]])
def test_executing_is_told_before_it_is_taken_from_the_channel(parts: list[bytes]) -> None:
    seen, executed, failed = executed_in(parts)
    assert (executed, failed) == (True, False)
    assert len(seen) == 1
    assert seen[0].endswith(b"true}\n")


def test_a_command_that_could_not_be_executed() -> None:
    assert executed_in([READY, FAILED]) == ([], False, True)
    seen, executed, failed = executed_in([READY, EXECUTED, FAILED])
    assert (len(seen), executed, failed) == (1, True, True)


def test_a_child_that_was_killed() -> None:
    assert executed_in([READY]) == ([], False, False)


def is_in_directory(path: str) -> bool:
    return os.path.isdir(os.path.dirname(path))


class PlayedShim:
    """Its processes are the ends of channels; one that is released ends at the next turn of the loop."""

    def __init__(self) -> None:
        self.channels: dict[str, socket.socket] = {}
        self.released: list[str] = []
        self.failing = False
        self.on_exit: Callable[[str, ExitStatus], None] = lambda _slot, _status: None

    async def ready(self) -> None: ...

    async def spawn(self, slot: str, request: Spawn) -> tuple[int, int]:
        if self.failing:
            raise InternalError("clone: no")
        assert all(is_in_directory(path) for path in request.cgroups)
        self.channels[slot] = socket.socket(fileno=os.dup(request.descriptors["channel"]))
        self.channels[slot].send(READY)
        return 1000 + len(self.channels), os.open("/dev/null", os.O_RDONLY)

    def release(self, slot: str) -> None:
        self.released.append(slot)
        self.end(slot)

    def end(self, slot: str) -> None:
        if slot in self.channels:
            self.channels.pop(slot).close()
            self.on_exit(slot, ExitStatus(os.CLD_KILLED, 9))


class Nursery:
    """Children with two spares, their shim, and their control groups in a plain directory."""

    def __init__(self, directory: Path) -> None:
        (directory / "wherry").mkdir()
        self.shim = PlayedShim()
        layout = Layout(1, {"memory": str(directory)})
        self.children = Children(cast(Shims, self.shim), layout, "wherry", 2)
        self.shim.on_exit = self.children.exited
        self.groups = directory / "wherry"

    async def refilled(self, template: str) -> list[str]:
        """The slots that are there after a refill."""
        self.children.refill([ChildKind(template)] * 2)
        for _ in range(20_000):
            await asyncio.sleep(0.001)
            task = self.children._refilling
            if task is not None and task.done():
                return sorted(self.shim.channels)
        raise AssertionError("still refilling")

    def nothing_is_left(self) -> bool:
        return not (self.children.by_slot or self.shim.channels or list(self.groups.iterdir()))


def plan(template: str) -> Plan:
    return Plan(template, [], [], cast(Any, None))


def test_spares_are_used_for_their_template_only(tmp_path: Path) -> None:
    async def check() -> None:
        nursery = Nursery(tmp_path)
        spares = await nursery.refilled("[1]")
        assert len(spares) == nursery.children.spares == 2
        other = await nursery.children.get(plan("[2]"))
        assert other.slot not in spares
        first = await nursery.children.get(plan("[1]"))
        second = await nursery.children.get(plan("[1]"))
        third = await nursery.children.get(plan("[1]"))
        assert sorted([first.slot, second.slot]) == spares
        assert third.slot not in spares
        for child in (other, first, second, third):
            await nursery.children.discard(child)
        assert nursery.nothing_is_left()

    run(check())


def test_a_spare_taken_during_a_refill_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    create = Group.create

    def slow(group: Group) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        create(group)

    async def check() -> None:
        nursery = Nursery(tmp_path)
        await nursery.refilled("[1]")
        taken = [await nursery.children.get(plan("[1]"))]
        monkeypatch.setattr(Group, "create", slow)
        nursery.children.refill([ChildKind("[1]")] * 2)
        assert await asyncio.to_thread(begun.wait, PATIENCE)  # one has been counted
        taken.append(await nursery.children.get(plan("[1]")))
        nursery.children.refill([ChildKind("[1]")] * 2)
        go_on.set()
        await nursery.children.refilled()
        assert nursery.children.spares == 2
        for child in taken:
            await nursery.children.discard(child)
        await nursery.children.close()
        assert nursery.nothing_is_left()

    run(check())


def test_spares_of_another_template_go(tmp_path: Path) -> None:
    async def check() -> None:
        nursery = Nursery(tmp_path)
        first = await nursery.refilled("[1]")
        second = await nursery.refilled("[2]")
        assert not set(first) & set(second)
        assert sorted(nursery.shim.released) == first
        await nursery.children.close()
        assert nursery.nothing_is_left()

    run(check())


def test_a_spare_that_has_died_is_not_used(tmp_path: Path) -> None:
    async def check() -> None:
        nursery = Nursery(tmp_path)
        for slot in await nursery.refilled("[1]"):
            nursery.shim.end(slot)
        child = await nursery.children.get(plan("[1]"))
        assert list(nursery.shim.channels) == [child.slot]
        assert [path.name for path in nursery.groups.iterdir()] == [child.slot]
        await nursery.children.discard(child)
        assert nursery.nothing_is_left()

    run(check())


def test_a_failing_spawn_leaves_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        nursery = Nursery(tmp_path)
        nursery.shim.failing = True
        before = os.listdir("/proc/self/fd")
        with pytest.raises(InternalError, match="clone: no"):
            await nursery.children.get(plan("[1]"))
        assert await nursery.refilled("[1]") == []
        assert nursery.nothing_is_left()
        assert os.listdir("/proc/self/fd") == before

    run(check())


def test_closing_waits_for_a_control_group_that_is_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread, which goes on making directories when the refill is cancelled."""
    begun, go_on, made = threading.Event(), threading.Event(), threading.Event()
    create = Group.create

    def slow(group: Group) -> None:
        begun.set()
        go_on.wait(PATIENCE)
        create(group)
        made.set()

    monkeypatch.setattr(Group, "create", slow)

    async def check() -> None:
        nursery = Nursery(tmp_path)
        nursery.children.refill([ChildKind("[1]")] * 2)
        await asyncio.to_thread(begun.wait, 20)
        closing = asyncio.create_task(nursery.children.close())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        await closing
        await asyncio.to_thread(made.wait, 20)
        assert nursery.nothing_is_left()

    run(check())
