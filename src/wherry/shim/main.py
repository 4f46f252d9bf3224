"""The shim's event loop: accept a supervisor, carry out its messages, reap containers.

One thread, select.epoll, no framework: this process is copied by every clone, so each page and descriptor it has
costs every start.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import Any

from wherry.kernel import cgroup_trees, process
from wherry.kernel.descriptors import raise_own_limit
from wherry.kernel.signalfd import SignalDescriptor
from wherry.runtime import launch, steps
from wherry.runtime.user_namespace import UserNamespace
from wherry.shim import protocol, standin
from wherry.shim.standin import StandIn


class Slot:
    """One child: a parked process, a container, or the exit of one that nobody has released yet."""

    def __init__(self, name: str, pid: int, pidfd: int, groups: list[str]) -> None:
        self.name = name
        self.groups = groups
        """Directories of the groups that it has joined."""
        self.pid = pid
        self.pidfd = pidfd
        self.claimed = False
        self.released = False
        self.held: dict[str, int] = {}
        self.element: list[Any] = []
        """In which array of ``Shim.alarms``, by its id, and which element of it is the container's."""
        self.signal = ""
        """Which of ``held`` polls readable when it has crossed its hard limit."""
        self.answered = False
        """It has crossed while no supervisor lived, and we have killed it."""
        self.exit: dict[str, Any] | None = None

    def describe(self) -> protocol.Message:
        """The fields of the ``slot`` message; ``held`` names the descriptors that go with it."""
        held = ["pidfd", *self.held]
        state = {"claimed": self.claimed, "exit": self.exit, "held": held, "answered": self.answered}
        return {"type": "slot", "slot": self.name, "pid": self.pid, "element": self.element, **state}

    def descriptors(self) -> list[int]:
        return [self.pidfd, *self.held.values()]

    def close(self) -> None:
        for descriptor in self.descriptors():
            os.close(descriptor)


class Shim:
    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.supervisor: socket.socket | None = None
        self.slots: dict[str, Slot] = {}
        self.by_pid: dict[int, Slot] = {}
        """Those that live."""
        self.kept: dict[str, int] = {}
        self.alarms: list[protocol.Message] = []
        self.dying: set[Slot] = set()
        self.thaw_delay = 0.0
        self.poll = select.epoll()
        self.poll.register(listener.fileno(), select.EPOLLIN)
        self.ends = SignalDescriptor(signal.SIGCHLD)
        self.poll.register(self.ends.fileno(), select.EPOLLIN)
        self.stand_in = StandIn(self.poll)
        self.stopping = False
        self.had_supervisor = False
        self.handlers = {
            "spawn": self.spawn,
            "claim": self.claim,
            "let_go": self.let_go,
            "release": self.release,
            "keep": self.keep,
            "shutdown": self.shutdown,
        }

    def run(self) -> None:
        """Until told to shut down, or until there is neither a supervisor nor anything to keep for the next one."""
        while True:
            events = self.poll.poll(timeout=self.patience())
            for descriptor, _mask in events:
                try:
                    self.dispatch(descriptor)
                except Exception:  # nothing may cost all containers their parent
                    traceback.print_exc(file=sys.stderr)
            if self.stand_in.is_needed:
                self.answer()
            if not self.is_needed() and (self.had_supervisor or not events):
                return

    def patience(self) -> float:
        """Seconds to wait for events; -1 for ever. A container can freeze itself, and again when it has been thawed: a
        frozen process does not die of the SIGKILL that it has been sent.
        """
        if not self.dying:
            if self.stand_in.is_needed:
                return standin.LOOK_SECONDS
            return -1 if self.is_needed() else 10
        if self.thaw_delay:
            for slot in self.dying:
                cgroup_trees.thaw(slot.groups)
        self.thaw_delay = min(2 * self.thaw_delay or 0.02, 1.0)
        return self.thaw_delay

    def answer(self) -> None:
        """End the containers that have crossed their hard limits, as a supervisor would; whatever else there is to do
        about that is left to the next one.
        """
        try:
            crossed = [*self.stand_in.crossed(self.alarms, self.kept, self.slots.values())]
        except Exception:  # what we were told is of no use: say so once
            traceback.print_exc(file=sys.stderr)
            self.stand_in.end()
            return
        for slot in crossed:
            if not slot.answered:
                slot.answered = True
                if slot.exit is not None:
                    continue
                signal.pidfd_send_signal(slot.pidfd, signal.SIGKILL)
                self.dying.add(slot)
                self.thaw_delay = 0.0

    def is_needed(self) -> bool:
        return bool(self.slots) or (self.supervisor is not None and not self.stopping)

    def dispatch(self, descriptor: int) -> None:
        if descriptor == self.ends.fileno():
            self.reap()
        elif descriptor == self.listener.fileno():
            self.accept()
        elif self.supervisor is not None and descriptor == self.supervisor.fileno():
            self.serve(self.supervisor)

    def accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:  # no descriptor left: it stays in the queue, and epoll would call again at once
            time.sleep(0.1)
            raise
        if not protocol.peer_is_trusted(connection):
            connection.close()
            return
        self.hear_out()
        self.disconnect()
        if self.stand_in.is_needed:
            self.answer()  # what has happened up to now
        self.stand_in.end()
        self.supervisor = connection
        self.had_supervisor = True
        self.poll.register(connection.fileno(), select.EPOLLIN)
        hello = {"type": "hello", "version": protocol.VERSION, "pid": os.getpid(), "dialect": steps.dialect()}
        self.tell(hello)
        for slot in list(self.slots.values()):
            self.tell(slot.describe(), slot.descriptors())
        self.tell({"type": "kept", "names": list(self.kept), "alarms": self.alarms}, list(self.kept.values()))
        self.tell({"type": "synced"})

    def hear_out(self) -> None:
        """Carry out what the old supervisor still had to say. Nonsense among it costs the new one nothing."""
        while self.supervisor is not None:
            try:
                if not self.serve(self.supervisor):
                    return
            except Exception:
                traceback.print_exc(file=sys.stderr)

    def disconnect(self) -> None:
        """The supervisor is gone: what was only prepared goes too, containers stay."""
        if self.supervisor is None:
            return
        self.poll.unregister(self.supervisor.fileno())
        self.supervisor.close()
        self.supervisor = None
        for slot in list(self.slots.values()):
            if not slot.claimed:
                self.drop(slot)
        self.stand_in.begin(self.alarms, self.kept, self.slots.values())

    def serve(self, supervisor: socket.socket) -> bool:
        """Carry out one message; False when there is none, now or any more."""
        try:
            received = protocol.receive(supervisor)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            # The supervisor died with something of ours unread. The kernel says so once, ahead of what the supervisor
            # sent before that; those packets come next, and the end of file after them.
            return True
        except (OSError, ValueError):
            received = None
        if received is None:
            self.disconnect()
            return False
        message, descriptors = received
        self.handlers[message["type"]](message, descriptors)
        return True

    def tell(self, message: protocol.Message, descriptors: list[int] | None = None) -> None:
        if self.supervisor is None:
            return
        # A supervisor that is gone is found by reading: what it sent before counts.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            protocol.send(self.supervisor, message, descriptors)

    def spawn(self, message: protocol.Message, descriptors: list[int]) -> None:
        name = message.get("slot")
        try:
            self.clone(message["slot"], message, descriptors)
        except Exception as error:
            # What cannot even be understood is answered, too: somebody waits for it.
            number, text = (error.errno or 0, f"clone: {error}") if isinstance(error, OSError) else (0, repr(error))
            self.tell({"type": "failed", "slot": name, "message": text, "errno": number})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def clone(self, name: str, message: protocol.Message, descriptors: list[int]) -> None:
        """Raises OSError, and whatever a message that makes no sense leads to."""
        if len(descriptors) != len(message["names"]):
            raise OSError(errno.EMFILE, "the shim has too many open descriptors")
        by_name = dict(zip(message["names"], descriptors, strict=True))
        plan = steps.in_cgroups(message["cgroups"], steps.decode(message["template"]))
        given = message.get("namespace")
        namespace = None if given is None else UserNamespace.of(given)
        pid, pidfd = launch.spawn(plan, by_name, message["new"], message["joined"], namespace)
        slot = Slot(name, pid, pidfd, [os.path.dirname(path) for path in message["cgroups"]])
        self.slots[name] = self.by_pid[pid] = slot
        self.tell({"type": "spawned", "slot": name, "pid": pid}, [pidfd])

    def claim(self, message: protocol.Message, descriptors: list[int]) -> None:
        slot = self.slots.get(message["slot"])
        if slot is not None:
            slot.claimed = True
        # No slot: it failed to spawn, and the supervisor has been told. Too few: we may open no more.
        if slot is None or len(descriptors) != len(message["names"]):
            for descriptor in descriptors:
                os.close(descriptor)
            if slot is not None and not descriptors:
                # The next supervisor could neither read its output nor tell how its start ended: better none at all.
                print(f"killing {message['slot']}: its descriptors could not be kept", file=sys.stderr)
                self.tell({"type": "refused", "slot": slot.name})
                if slot.exit is None:
                    signal.pidfd_send_signal(slot.pidfd, signal.SIGKILL)
            return
        new = dict(zip(message["names"], descriptors, strict=True))
        for name in new.keys() & slot.held.keys():  # it was armed anew
            os.close(slot.held[name])
        slot.held.update(new)
        slot.element, slot.signal = message.get("element") or [], message.get("signal", "")

    def let_go(self, message: protocol.Message, _descriptors: list[int]) -> None:
        slot = self.slots.get(message["slot"])
        if slot is not None:
            for name in slot.held.keys() & message["names"]:
                os.close(slot.held.pop(name))

    def keep(self, message: protocol.Message, descriptors: list[int]) -> None:
        if len(descriptors) != len(message["names"]):  # we may open no more: better all of the old than some of the new
            superfluous = descriptors
        else:
            superfluous = list(self.kept.values())
            self.kept = dict(zip(message["names"], descriptors, strict=True))
            self.alarms = message.get("alarms", [])
        for descriptor in superfluous:
            os.close(descriptor)

    def release(self, message: protocol.Message, _descriptors: list[int]) -> None:
        slot = self.slots.get(message["slot"])
        if slot is not None:
            self.drop(slot)

    def shutdown(self, _message: protocol.Message, _descriptors: list[int]) -> None:
        self.stopping = True
        for slot in list(self.slots.values()):
            self.drop(slot)

    def drop(self, slot: Slot) -> None:
        """Forget a slot; one that lives is killed, and forgotten when it has been reaped."""
        if slot.exit is not None:
            # Telling of an exit may find the supervisor gone, and that drops the slot already.
            if self.slots.pop(slot.name, None) is not None:
                slot.close()
        else:
            slot.claimed = False
            slot.released = True
            signal.pidfd_send_signal(slot.pidfd, signal.SIGKILL)
            self.dying.add(slot)
            self.thaw_delay = 0.0

    def reap(self) -> None:
        """All children that have ended, also those that we have not made: who runs in a container without having come
        from its first process can make children of ours (CLONE_PARENT, clone(2)), and while one of those is a zombie
        its pid namespace does not end, nor does the container.
        """
        self.ends.clear()
        while True:
            try:
                information = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if information is None:
                return
            if (slot := self.by_pid.pop(information.si_pid, None)) is not None:
                self.ended(slot, information.si_code, information.si_status)

    def ended(self, slot: Slot, code: int, status: int) -> None:
        self.dying.discard(slot)
        slot.exit = {"code": code, "status": status, "time": time.monotonic_ns()}
        self.tell({"type": "exit", "slot": slot.name, **slot.exit})
        if slot.released or (self.supervisor is None and not slot.claimed):
            self.drop(slot)


def main(listener_descriptor: int) -> None:
    """Run a shim on a listening socket. Called by ``wherry.shim.__main__`` in a fresh process."""
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    process.set_title("wherry-shim")
    # Inherited by what we clone: a copy of us that is cloned into a container shows nothing from its first moment on.
    process.set_dumpable(False)
    # When memory runs out, rather any one container than the parent of all. Children set their own.
    with contextlib.suppress(PermissionError):
        process.set_oom_score_adjustment(-500)
    # A terminal's or a service manager's signals are for the supervisor, which tells us to go when it wants that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    process.close_all_but([0, 1, 2, listener_descriptor])
    # Five to eight descriptors a container. Containers get a soft limit of their own (their spec's).
    raise_own_limit()
    listener = socket.socket(fileno=listener_descriptor)
    # Children share our pages until somebody writes: the collector would touch the header of every object.
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        Shim(listener).run()
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        raise
