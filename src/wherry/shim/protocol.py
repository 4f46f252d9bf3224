"""What supervisor and shim say to each other over a SOCK_SEQPACKET UNIX socket: one JSON object a packet, descriptors
by SCM_RIGHTS.

Who: one supervisor at a time; a new connection takes the place of the old one. Both ends check the peer's uid.

1. On connect the shim sends ``hello`` {version, pid, dialect}, then for each slot it has ``slot`` (fields of
   ``Slot.describe``) with the slot's descriptors attached, in the order of the field ``held``, then ``kept`` {names,
   alarms} with what ``keep`` left, then ``synced``. That is how a new supervisor takes over.
2. ``spawn`` {slot, template, cgroups, new, joined, namespace, names} with descriptors of these ``names``: clone a
   process, in ``new`` namespaces (types of the OCI runtime specification), that runs the template's steps in these
   cgroups. The descriptor ``channel`` is its end of the socket over which everything after happens between supervisor
   and child (``runtime.messages``); the others are for its steps. ``joined`` are namespaces that it shares with the
   process of which ``target`` is a pidfd: of "pid" the shim sees to that, of the others a step of the template.
   ``namespace`` is a ``UserNamespace``, which goes with "user" in ``new``, or null. Answer: ``spawned`` {slot, pid}
   with the pidfd, or ``failed`` {slot, message, errno}.
3. ``claim`` {slot, names} with as many descriptors: the slot is a container now; keep these for the next supervisor.
   Slots that nobody has claimed are killed when the supervisor goes away. A second claim adds descriptors and replaces
   those of the same names. Optional: how its crossing of a hard limit is found, by ``element`` [id, number] (of an
   array of ``keep``) or ``signal``, the name of a descriptor that polls readable then. A shim that may open no more
   descriptors kills the process, and says ``refused`` {slot} before its ``exit``.
   ``let_go`` {slot, names}: close what is held by these names, if it is (the write end of a standard input that is to
   end). Sent only of slots that a shim of that dialect or a later one has spawned.
4. ``exit`` {slot, code, status, time}: the process has been reaped (``code`` and ``status`` are si_code and si_status
   of waitid(2), ``time`` is CLOCK_MONOTONIC in nanoseconds). The shim keeps it until ``release`` {slot}, which also
   closes what is held. Releasing a live slot kills it first.
5. ``keep`` {names, alarms} with as many descriptors: keep these for the next supervisor, and no others that came this
   way. ``alarms`` are ``memory.Alarm``, as objects. While no supervisor is connected, the shim kills containers whose
   words in these arrays, or whose signals, say that they have crossed; the slot's field ``answered`` tells that.
6. ``shutdown``: kill what lives, reap, exit. Without a supervisor, a shim that holds nothing exits by itself.

Versions. A shim outlives its supervisor, and so the program that it was started from. The next supervisor takes over
from a shim of any version from OLDEST on and speaks ``claim``, ``keep``, ``release`` and ``shutdown`` with it, which
are the same in all of them; new processes it has spawned by a shim of its own version and dialect
(``runtime.steps.dialect``: a template is steps, which the shim must know), and the older one goes with the last
container it has. Version 3 made ``spawn`` general: version 2 had one descriptor, no ``new``, ``joined``, ``names``,
``errno`` and ``dialect``, and always a new pid namespace.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from wherry.kernel import unix_sockets

VERSION = 3
OLDEST = 2
MAXIMUM_PACKET = 64 << 10
MAXIMUM_DESCRIPTORS = 16

Message = dict[str, Any]


def send(connection: socket.socket, message: Message, descriptors: list[int] | None = None) -> None:
    """Send one packet.

    Raises BlockingIOError on a non-blocking socket whose peer does not read, OSError (EPIPE, ECONNRESET) when the peer
    is gone, ValueError when the packet is too large.
    """
    packet = json.dumps(message).encode()
    if len(packet) > MAXIMUM_PACKET:
        raise ValueError(f"message {message.get('type')!r} of {len(packet)} bytes is larger than {MAXIMUM_PACKET}")
    unix_sockets.send(connection, packet, descriptors or [])


def receive(connection: socket.socket) -> tuple[Message, list[int]] | None:
    """The next packet, its descriptors close-on-exec; None at end of file. Raises BlockingIOError when there is none
    yet, ValueError for one that is no message, whose descriptors are closed.
    """
    packet, descriptors = unix_sockets.receive(connection, MAXIMUM_PACKET, MAXIMUM_DESCRIPTORS, socket.MSG_DONTWAIT)
    if not packet:
        return None
    try:
        message = json.loads(packet)
        if not isinstance(message, dict):
            raise ValueError(f"a packet is no JSON object, but of type {type(message).__name__}")
    except (ValueError, RecursionError) as error:
        for descriptor in descriptors:
            os.close(descriptor)
        raise ValueError(f"a packet is no message: {error}") from error
    return message, descriptors


def peer_is_trusted(connection: socket.socket) -> bool:
    """Whether the peer runs as root or as our own user."""
    return unix_sockets.peer_uid(connection) in (0, os.geteuid())
