"""Kernel parameters that a container can have of its own: those of its namespaces, and no other.

ipc_namespaces(7) and network_namespaces(7) say which; runc and docker draw the same line. Every other parameter is the
host's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from wherry.errors import InvalidRequest, NotSupported, quoted

_IPC = re.compile(r"kernel/(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs/mqueue/[a-z_]+")
_NETWORK = re.compile(r"net(/[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)+")
VALUE_MAX = 4096


def path_of(name: str) -> str:
    """Below /proc/sys: "net.ipv4.ip_forward" is net/ipv4/ip_forward, and so is "net/ipv4/ip_forward", in which a dot
    stands for itself (an interface eth0.1), as sysctl(8) has it.
    """
    first = re.search(r"[./]", name)
    if first is not None and first[0] == "/":
        return name
    return name.translate(str.maketrans("./", "/."))


def check(settings: Iterable[tuple[str, str]], namespaces: Iterable[str]) -> None:
    """Raises NotSupported for a parameter that is not of one of these namespaces of the container's own, InvalidRequest
    for a value that no such file takes.
    """
    types = set(namespaces)
    for name, value in settings:
        path = path_of(name)
        is_ipc, is_network = _IPC.fullmatch(path), _NETWORK.fullmatch(path)
        if not (is_ipc or is_network):
            raise NotSupported(f"sysctl {quoted(name)} is not supported: it is the host's, in no namespace of its own")
        if ("ipc" if is_ipc else "network") not in types:
            raise NotSupported(f"sysctl {quoted(name)} is not supported: the container shares that namespace")
        if not value.replace("\t", " ").isprintable():
            raise InvalidRequest(f"sysctl {quoted(name)}: {quoted(value)} is not one line of text")
        if len(value) > VALUE_MAX:
            raise InvalidRequest(f"sysctl {quoted(name)}: a value of {len(value)} characters; the most is {VALUE_MAX}")
