"""UNIX sockets: descriptors in messages and the peer's identity (unix(7)).

Not socket.send_fds and recv_fds: those of Python 3.11 accept ``flags`` and do not pass them on.
"""

from __future__ import annotations

import array
import os
import socket
import struct


def send(connection: socket.socket, data: bytes, descriptors: list[int], flags: int = 0) -> int:
    """sendmsg(2) with SCM_RIGHTS; returns how many bytes of ``data`` went. Never raises SIGPIPE."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    return connection.sendmsg([data], ancillary, flags | socket.MSG_NOSIGNAL)


def receive(connection: socket.socket, size: int, maximum: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """recvmsg(2): the data and the descriptors with it, close-on-exec.

    No descriptors at all when some did not fit, or when this process may open no more (the kernel drops the rest):
    who expects some must look. Raises ConnectionError when a message of a packet socket was cut.
    """
    space = socket.CMSG_SPACE(maximum * 4)
    data, ancillary, result, _ = connection.recvmsg(size, space, flags | socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % 4])
    if not result & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        return data, list(descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    if result & socket.MSG_TRUNC:
        raise ConnectionError("a message did not fit")
    return data, []


def peer_uid(connection: socket.socket) -> int:
    """The effective user id the peer had when it connected or listened (SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _pid, uid, _gid = struct.unpack("iII", credentials)  # struct ucred
    return int(uid)
