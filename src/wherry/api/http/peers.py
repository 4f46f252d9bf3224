"""Who may connect. A socket given to a container as a volume would let its root drive the engine, and so the host.

The process that connected must not be of a container of ours. A container's processes are in a pid namespace below
ours, so one of our own needs no further look; of others the control groups decide, as the supervisor's cgroup namespace
shows them. A process that is not to be seen from our pid namespace (SO_PEERCRED gives 0) cannot be below us, and is let
in. One that has ended is refused: a container could connect, and end while another process of it keeps the socket.

Kernels before 6.5 have no SO_PEERPIDFD; there the process is found by its number, which could have become another's
since it connected.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from pathlib import Path

from wherry.api.http.replies import ForbiddenError
from wherry.errors import WherryError

_UCRED = struct.Struct("3i")  # struct ucred (unix(7)): pid, uid, gid
_SO_PEERPIDFD = 77  # asm-generic/socket.h


class Peers:
    """``parent`` is the control group that containers' groups are below, "/wherry/3f2a9c01"."""

    def __init__(self, parent: str, *, allow_containers: bool = False) -> None:
        self._parent = f"/{parent.strip('/')}/"
        self._allow_containers = allow_containers
        self._namespace = os.stat("/proc/self/ns/pid").st_ino
        # Those of other supervisors on this machine as well, unless we live in such a group ourselves.
        everybody = f"/{parent.strip('/').partition('/')[0]}/"
        is_inside = any(path.startswith(everybody) for path in _groups("self"))
        self._prefix = self._parent if is_inside else everybody

    def refusal(self, connection: socket.socket) -> WherryError | None:
        """Why the peer may not connect; None when it may."""
        pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in (0, os.geteuid()):
            return ForbiddenError(f"permission denied: uid {uid} is neither root nor the supervisor's user")
        if self._allow_containers or pid == 0:
            return None
        try:
            pidfd = _pidfd_of_peer(connection, pid)
            try:
                is_contained = self._is_contained(pid)
                has_ended = bool(_poll(pidfd))
            finally:
                os.close(pidfd)
        except OSError:
            has_ended = True
        if has_ended:
            return ForbiddenError(f"permission denied: process {pid}, which connected, has ended")
        if is_contained:
            return ForbiddenError(
                f"permission denied: process {pid} runs in a container of this machine "
                "(engine supervisor --allow-containers lets containers in)"
            )
        return None

    def _is_contained(self, pid: int) -> bool:
        # The cheap look first: reading a process's control groups waits for whoever is just moving processes.
        if os.stat(f"/proc/{pid}/ns/pid").st_ino == self._namespace:
            return False
        return any(path.startswith(self._prefix) or self._parent in path for path in _groups(str(pid)))


def _groups(pid: str) -> list[str]:
    """The control groups of a process, one a hierarchy, each with a slash at its end."""
    lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [line.split(":", 2)[2] + "/" for line in lines]


def _pidfd_of_peer(connection: socket.socket, pid: int) -> int:
    """Raises OSError when the process has ended."""
    try:
        (pidfd,) = struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4))
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return os.pidfd_open(pid)
    return int(pidfd)


def _poll(pidfd: int) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return poll.poll(0)
