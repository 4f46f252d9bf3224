"""What a first process and its parent say to each other, all of it, over one stream socket that execve closes.

The child says lines, each a JSON object that is known by one of its keys (``Said``):

    {"ready": true}     the steps it was given are done, and it waits for a message; perhaps for minutes: it is parked
    {"exec": true}      nothing but execve is to come; end of file after this line means that the command runs
    {"step", "kind", "call", "path", "errno", "message"}
                        a step has failed, of which ``kind`` is the class, or EXECVE for the command itself, and this is
                        the end of the process; end of file without any of these two means that the child was killed

The parent sends messages, each four bytes of length (big endian) and a JSON object, its descriptors attached to the
first of these bytes. All of them name descriptors and steps; the last one has a command as well:

    {"descriptors", "steps"}                            carry these out and say ready again
    {"descriptors", "steps", "args", "env", "init"}     carry these out and execute the command

A later step finds the descriptors of all earlier messages, and those that the child was made with. If the socket closes
instead, the child exits.
"""

from __future__ import annotations

import json
import socket
import struct
from enum import StrEnum
from typing import Any

from wherry.kernel import unix_sockets

_MAXIMUM_MESSAGE = 16 << 20
_MAXIMUM_DESCRIPTORS = 250

Message = dict[str, Any]
EXECVE = "execve"


class Said(StrEnum):
    """The keys by which the lines of a child are known."""

    READY = "ready"
    EXECUTING = "exec"
    FAILED = "step"


class Wanted(StrEnum):
    """The keys of the messages to a child; from ``ARGUMENTS`` on those of the last one."""

    DESCRIPTORS = "descriptors"
    STEPS = "steps"
    ARGUMENTS = "args"
    ENVIRONMENT = "env"
    INIT = "init"


def say(parent: socket.socket, content: Message) -> None:
    try:
        parent.sendall(json.dumps(content).encode() + b"\n")
    except OSError:
        pass  # nobody listens any more: the exit status still tells


def packed(content: Message) -> bytes:
    body = json.dumps(content).encode()
    return struct.pack(">I", len(body)) + body


def receive(parent: socket.socket) -> tuple[Message, dict[str, int]] | None:
    """The next message, and its descriptors by name; None at end of file."""
    header, descriptors = unix_sockets.receive(parent, 4, _MAXIMUM_DESCRIPTORS)
    if len(header) < 4:
        return None
    (length,) = struct.unpack(">I", header)
    body = bytearray()
    while len(body) < min(length, _MAXIMUM_MESSAGE):
        chunk = parent.recv(length - len(body))
        if not chunk:
            return None
        body += chunk
    message: Message = json.loads(body)
    return message, dict(zip(message[Wanted.DESCRIPTORS], descriptors, strict=True))
