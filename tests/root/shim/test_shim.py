"""The shim as a process of its own, spoken to over its socket; its children run no plan, only a command."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.forked import in_child
from tests.patience import PATIENCE
from tests.root.harness import PACKAGES, end_group
from tests.root.shim.shim_process import NEW_PID, Connection, ShimProcess, is_gone
from tests.waiting import wait_until

from wherry.kernel import cgroups
from wherry.kernel.cgroups import Group
from wherry.kernel.polling import readable
from wherry.runtime.steps import JoinNamespaces, LoopbackUp, MountStage, dialect
from wherry.shim import protocol

pytestmark = pytest.mark.root
LAYOUT = cgroups.detect()
EXITED, KILLED = os.CLD_EXITED, os.CLD_KILLED


def test_it_says_who_it_is(shim: ShimProcess) -> None:
    with shim.connect() as connection:
        said = {"version": protocol.VERSION, "pid": shim.process.pid, "dialect": dialect()}
        assert connection.hello == {"type": "hello", **said}
        assert connection.slots == {}
    assert shim.process.wait(PATIENCE) == 0


def test_a_life(shim: ShimProcess) -> None:
    with shim.connect() as connection:
        before = shim.descriptors()
        child = connection.start("c", "/bin/sh", "-c", "exit 7")
        assert connection.next_exit() == ("c", EXITED, 7)
        assert child.has_ended()
        connection.send(type="release", slot="c")
        wait_until(lambda: shim.descriptors() == before)
        connection.spawn("c")  # the name is free again


def test_a_child_that_fails_to_prepare(shim: ShimProcess) -> None:
    with shim.connect() as connection:
        child = connection.spawn("c", MountStage("/nowhere"))
        failure = child.reports().failure
        assert failure is not None
        assert failure["step"] == "mount stage /nowhere"
        assert connection.next_exit() == ("c", EXITED, 125)


def test_children_have_none_of_its_descriptors(shim: ShimProcess) -> None:
    reader, writer = os.pipe()
    with shim.connect() as connection:
        connection.start("first", "/bin/sleep", "1000", stdout=reader)
        child = connection.spawn("second")
        assert child.channel.recv(100) == b'{"ready": true}\n'
        numbers = sorted(map(int, os.listdir(f"/proc/{child.pid}/fd")))
        assert numbers[:3] == [0, 1, 2]
        assert len(numbers) == 4
        assert os.readlink(f"/proc/{child.pid}/fd/{numbers[3]}").startswith("socket:")
    os.close(reader)
    os.close(writer)


def test_a_live_slot_that_is_released_is_killed(shim: ShimProcess) -> None:
    with shim.connect() as connection:
        connection.start("c", "/bin/sleep", "1000")
        connection.send(type="release", slot="c")
        assert connection.next_exit() == ("c", KILLED, signal.SIGKILL)
        connection.start("other", "/bin/sleep", "1000")
    with shim.connect() as connection:
        assert list(connection.slots) == ["other"]


@pytest.mark.host_variant
@pytest.mark.skipif("freezer" not in LAYOUT.mounts, reason="version 2 kills what is frozen")
@pytest.mark.parametrize("way", ["release", "shutdown"])
def test_one_that_has_frozen_itself_is_thawed_until_it_is_dead(shim: ShimProcess, way: str) -> None:
    """Case 20: also below its own group, and when no supervisor is there any more."""
    group = Group(LAYOUT, f"wherry-test-{os.getpid()}")
    group.create_for_container()
    nested = Group(LAYOUT, f"{group.inner.path}/n/m")
    nested.create()
    try:
        with shim.connect() as connection:
            child = connection.spawn("c", cgroups=tuple(group.inner.process_files()))
            connection.claim("c")
            child.execute("/bin/sleep", "1000")
            nested.write("freezer", "cgroup.procs", child.pid)
            for frozen in (nested, group.inner):
                frozen.write("freezer", "freezer.state", "FROZEN")
            wait_until(lambda: group.inner.read("freezer", "freezer.state") == "FROZEN")
            connection.send(type=way, slot="c")
        wait_until(child_is_dead(child.pid))
    finally:
        wait_until(lambda: end_group(group))


def child_is_dead(pid: int) -> Callable[[], bool]:
    return lambda: not os.path.exists(f"/proc/{pid}")


def test_takeover(shim: ShimProcess) -> None:
    """After the supervisor has died: what runs, with its descriptors, and what has ended meanwhile."""
    outputs = [os.pipe(), os.pipe()]
    inodes = {name: os.fstat(reader).st_ino for name, (reader, _) in zip(("stdout", "stderr"), outputs, strict=True)}
    with shim.connect() as first:
        running = first.start("running", "/bin/sleep", "1000", stdout=outputs[0][0], stderr=outputs[1][0])
        pid = running.pid
        first.start("ended", "/bin/sh", "-c", "exit 3")
        assert first.next_exit() == ("ended", EXITED, 3)
        first.start("ending", "/bin/sleep", "0.1")
    for pipe in outputs:
        for descriptor in pipe:
            os.close(descriptor)
    wait_until(lambda: shim.process.poll() is None and shim_has_reaped(shim, 2))
    with shim.connect() as second:
        assert sorted(second.slots) == ["ended", "ending", "running"]
        message, descriptors = second.slots["running"]
        assert (message["pid"], message["claimed"], message["exit"]) == (pid, True, None)
        assert list(descriptors) == ["pidfd", "stdout", "stderr"]
        assert {name: os.fstat(descriptors[name]).st_ino for name in inodes} == inodes
        assert second.exit_of("ended") == (EXITED, 3)
        assert second.exit_of("ending") == (EXITED, 0)
        signal.pidfd_send_signal(descriptors["pidfd"], signal.SIGTERM)  # pid 1 of its namespace: not heard
        signal.pidfd_send_signal(descriptors["pidfd"], signal.SIGKILL)
        assert second.next_exit() == ("running", KILLED, 9)
        for name in second.slots:
            second.send(type="release", slot=name)
    assert shim.process.wait(PATIENCE) == 0


def test_what_one_supervisor_gives_to_keep_the_next_one_gets(shim: ShimProcess) -> None:
    def inodes(connection: Connection) -> dict[str, int]:
        return {name: os.fstat(descriptor).st_ino for name, descriptor in connection.kept.items()}

    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as two:
        with shim.connect() as first:
            assert first.kept == {}
            first.start("running", "/bin/sleep", "1000")
            first.send([one.fileno(), one.fileno()], type="keep", names=["a", "b"])
            first.send([two.fileno(), one.fileno()], type="keep", names=["a", "c"])
            first.send([two.fileno()], type="keep", names=["too", "many"])
        expected = {"a": os.fstat(two.fileno()).st_ino, "c": os.fstat(one.fileno()).st_ino}
        for _ in range(2):  # they stay until others take their place
            with shim.connect() as following:
                assert inodes(following) == expected
        with shim.connect() as last:
            last.send(type="keep", names=[])
            last.send(type="release", slot="running")
            last.next_exit()
    assert shim.process.wait(PATIENCE) == 0


def shim_has_reaped(shim: ShimProcess, but_one: int) -> bool:
    """Whether so many of its three children are gone."""
    children = Path(f"/proc/{shim.process.pid}/task/{shim.process.pid}/children").read_text().split()
    return len(children) == 3 - but_one


def test_what_was_only_prepared_goes_with_its_supervisor(shim: ShimProcess) -> None:
    with shim.connect() as first:
        parked = first.spawn("parked")
        kept = first.start("kept", "/bin/sleep", "1000")
    wait_until(lambda: is_gone(parked.pid))
    assert not is_gone(kept.pid)
    with shim.connect() as second:
        wait_until(lambda: is_gone(parked.pid))
        assert "kept" in second.slots
        assert all(message["exit"] for message, _ in second.slots.values() if not message["claimed"])


def test_what_a_supervisor_said_before_it_was_killed_counts(shim: ShimProcess) -> None:
    """When a UNIX socket is closed with something unread, its peer gets ECONNRESET ahead of what is still in its own
    queue: a container that runs must not be killed because its claim was there.
    """
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as supervisor, ours:
        supervisor.connect(shim.address)
        assert readable([supervisor.fileno()], PATIENCE)
        shim.process.send_signal(signal.SIGSTOP)
        with theirs:
            spawn = {"type": "spawn", "slot": "c", "template": [], "cgroups": []}
            protocol.send(supervisor, {**spawn, **NEW_PID}, [theirs.fileno()])
        protocol.send(supervisor, {"type": "claim", "slot": "c", "names": []})
        supervisor.close()
        shim.process.send_signal(signal.SIGCONT)
        with shim.connect() as next_one:
            message, _ = next_one.slots["c"]
            assert (message["claimed"], message["exit"]) == (True, None)


def test_a_new_supervisor_takes_the_place_of_the_old_one(shim: ShimProcess) -> None:
    with shim.connect() as old:
        parked = old.spawn("parked")
        running = old.start("running", "/bin/sleep", "1000")
        with shim.connect() as new:
            assert old.is_closed()
            assert new.slots["running"][0]["pid"] == running.pid
            # Killed by the takeover; its end may have been known before the list was made, or is told after.
            if (exit_status := new.slots["parked"][0]["exit"]) is None:
                assert new.next_exit() == ("parked", KILLED, 9)
            else:
                assert exit_status == {"code": KILLED, "status": 9}
            assert parked.has_ended()
            assert not running.has_ended()


def test_it_goes_when_nobody_needs_it(shim: ShimProcess) -> None:
    with shim.connect() as connection:
        connection.start("c", "/bin/sleep", "1000")
    with shim.connect() as connection:
        connection.send(type="release", slot="c")
    assert shim.process.wait(PATIENCE) == 0


def test_it_stays_for_an_exit_that_nobody_knows(shim: ShimProcess) -> None:
    with shim.connect() as connection:
        child = connection.start("c", "/bin/sh", "-c", "exit 5")
    wait_until(lambda: is_gone(child.pid))
    with shim.connect() as connection:
        if connection.slots["c"][0]["exit"] is None:
            assert connection.next_exit() == ("c", EXITED, 5)
    assert shim.process.poll() is None
    with shim.connect() as connection:
        assert connection.exit_of("c") == (EXITED, 5)


def test_shutdown_leaves_no_process(shim: ShimProcess) -> None:
    with shim.connect() as connection:
        pids = [connection.start(f"c{number}", "/bin/sleep", "1000").pid for number in range(3)]
        pids.append(connection.spawn("parked").pid)
        connection.send(type="shutdown")
        assert {connection.next_exit()[1:] for _ in pids} == {(KILLED, 9)}
        assert connection.is_closed()
        assert shim.process.wait(PATIENCE) == 0
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE])
def test_signals_of_a_terminal_are_not_for_it(shim: ShimProcess, number: int) -> None:
    with shim.connect() as connection:
        shim.process.send_signal(number)
        connection.spawn("c")
        assert os.getsid(shim.process.pid) == shim.process.pid


SPAWN: dict[str, Any] = {"type": "spawn", "slot": "x", "template": [], "cgroups": [], **NEW_PID}
BAD_SPAWNS: list[tuple[dict[str, Any], str]] = [
    ({"type": "spawn"}, "KeyError('slot')"),
    ({"type": "spawn", "slot": "x"}, "KeyError('names')"),
    ({**SPAWN, "template": [["Nonsense"]]}, "KeyError('Nonsense')"),
    ({**SPAWN, "template": [["MountStage", 1, 2, 3]]}, "TypeError"),
    ({**SPAWN, "new": ["nonsense"]}, "KeyError('nonsense')"),
    ({**SPAWN, "joined": ["pid"]}, "KeyError('target')"),
    ({**SPAWN, "names": ["channel", "target"]}, "the shim has too many open descriptors"),
]
BAD: list[dict[str, Any]] = [
    {"type": "nonsense"},
    {},
    {"type": "claim", "slot": "c"},
    {"type": "claim", "slot": "c", "names": ["a", "b", "c"]},
    {"type": "release"},
    {"type": "release", "slot": ["c"]},
]


def test_messages_that_make_no_sense(shim: ShimProcess) -> None:
    with shim.connect() as connection:
        child = connection.start("c", "/bin/sleep", "1000")
        before = shim.descriptors()
        for message, complaint in BAD_SPAWNS:
            connection.send([0], **message)
            answer, _ = connection.receive()
            assert (answer["type"], answer["slot"]) == ("failed", message.get("slot"))
            assert complaint in answer["message"]
        wait_until(lambda: shim.descriptors() == before)  # it closes what it was sent after it has answered
        for message in BAD:
            connection.send([0], **message)
        connection.spawn("fine")
        assert not child.has_ended()
    assert "KeyError: 'nonsense'" in shim.log.read_text()
    shim.log.write_text("")


@pytest.mark.parametrize("packet", [b"{", b"\xff\xfe", b"[" * 60_000, b"[]", b"7", b"null", b"x" * 65_536])
@pytest.mark.parametrize("comes_first", [True, False])
def test_packets_that_are_no_messages(shim: ShimProcess, packet: bytes, comes_first: bool) -> None:
    """They may cost this connection, but nobody's containers their parent, nor the next supervisor, who may be there
    before they are read, its connection; and what was sent with them is closed.
    """
    with shim.connect() as connection:
        child = connection.start("c", "/bin/sleep", "1000")
        before = shim.descriptors()

        def send() -> None:
            socket.send_fds(connection.socket, [packet], [0])
            shim.process.send_signal(signal.SIGCONT)

        shim.process.send_signal(signal.SIGSTOP)
        if comes_first:
            send()
        with shim.connect(then=send if not comes_first else lambda: None) as other:
            assert other.slots["c"][0]["pid"] == child.pid
            other.spawn("fine")
            wait_until(lambda: shim.descriptors() == before + 1)  # the new process's
        assert not child.has_ended()
    os.truncate(shim.log, 0)


def test_descriptors_for_a_slot_that_is_not_there_are_closed(shim: ShimProcess) -> None:
    reader, writer = os.pipe()
    with shim.connect() as connection:
        connection.claim("nobody", stdout=writer)
        os.close(writer)
        assert os.read(reader, 1) == b""
    os.close(reader)


def test_another_user_is_turned_away(shim: ShimProcess) -> None:
    def try_to_connect() -> bytes:
        os.setresuid(1000, 1000, 1000)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(shim.address)
            connection.settimeout(PATIENCE)
            return connection.recv(1000)

    with shim.connect() as connection:
        assert in_child(try_to_connect) == b""
        connection.spawn("c")


def test_a_hundred_at_once(shim: ShimProcess) -> None:
    """Nothing of them is left in the shim."""
    with shim.connect() as connection:
        before = shim.descriptors()
        children = [connection.spawn(f"c{number}") for number in range(100)]
        for number, child in enumerate(children):
            connection.claim(child.name)
            child.execute("/bin/sh", "-c", f"exit {number}")
        ends = {connection.next_exit() for _ in children}
        assert ends == {(f"c{number}", EXITED, number) for number in range(100)}
        for child in children:
            connection.send(type="release", slot=child.name)
        wait_until(lambda: shim.descriptors() == before)


def test_loopback_in_a_template(shim: ShimProcess) -> None:
    """A template is carried out in the child, not in the shim."""
    with shim.connect() as connection:
        child = connection.spawn("c", LoopbackUp())
        assert child.channel.recv(100) == b'{"ready": true}\n'
        namespaces = ("mnt", "net", "uts")
        assert all(
            os.readlink(f"/proc/{child.pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}") for name in namespaces
        )
        assert os.readlink(f"/proc/{child.pid}/ns/pid") != os.readlink("/proc/self/ns/pid")


def test_a_process_that_joins_another(shim: ShimProcess) -> None:
    with shim.connect() as connection:
        first = connection.start("c", "/bin/sleep", "1000")
        joined = connection.spawn("x", JoinNamespaces("target", ["uts"]), beside=first)
        connection.claim("x")
        joined.execute("/bin/sh", "-c", "exec sleep 1000")
        for name in ("pid", "uts"):
            assert os.readlink(f"/proc/{joined.pid}/ns/{name}") == os.readlink(f"/proc/{first.pid}/ns/{name}")
        after = connection.spawn("y")
        assert os.readlink(f"/proc/{after.pid}/ns/pid") != os.readlink(f"/proc/{first.pid}/ns/pid")
        signal.pidfd_send_signal(first.pidfd, signal.SIGKILL)
        assert {connection.next_exit() for _ in range(2)} == {("c", KILLED, 9), ("x", KILLED, 9)}
        ours, theirs = socket.socketpair()
        with ours, theirs:  # what it would join has ended
            fields = {"new": [], "joined": ["pid"], "names": ["channel", "target"], "template": [], "cgroups": []}
            connection.send([theirs.fileno(), first.pidfd], type="spawn", slot="z", **fields)
            answer, _ = connection.receive()
        assert (answer["type"], answer["errno"]) == ("failed", errno.ESRCH)


STRAY = """
from wherry.kernel import libc
CLONE_PARENT = 0x8000  # include/uapi/linux/sched.h
libc.clone3(CLONE_PARENT, 0)
"""


def test_a_child_that_nobody_has_made_is_reaped(shim: ShimProcess) -> None:
    """While it is a zombie its pid namespace, and so the container, cannot end."""
    with shim.connect() as connection:
        first = connection.start("c", "/bin/sleep", "1000")
        joined = connection.spawn("x", beside=first)
        connection.claim("x")
        joined.execute("/usr/bin/env", f"PYTHONPATH={PACKAGES}", sys.executable, "-c", STRAY)
        assert connection.next_exit() == ("x", EXITED, 0)
        signal.pidfd_send_signal(first.pidfd, signal.SIGKILL)
        assert connection.next_exit() == ("c", KILLED, 9)
        children = f"/proc/{shim.process.pid}/task/{shim.process.pid}/children"
        assert Path(children).read_text() == ""
