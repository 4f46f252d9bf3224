"""Which containers stall for want of memory: the kernel's pressure stall information, of the container's own group.

Source: Documentation/accounting/psi.rst. ``memory.pressure`` is in every group of a version 2 tree, a hybrid host's
included, whether or not that tree has the memory controller; a kernel without PSI, or started with ``psi=0``, has no
such file.
"""

from __future__ import annotations

import errno
import os
import re
import select

from wherry.kernel.cgroups import Group
from wherry.kernel.libc import call_error

_TRIGGERS = ("some 150000 1000000", "some 300000 2000000")
"""Some process waits for memory 15 % of the time, within one second or two, in microseconds. Without CAP_SYS_RESOURCE
the kernel takes whole multiples of two seconds only (kernel/sched/psi.c, psi_trigger_create).
"""


def path_of(group: Group) -> str | None:
    """Of the group's ``memory.pressure``; None where this host has none."""
    directory = group.directories.get("unified" if group.layout.version == 1 else "")
    path = f"{directory}/memory.pressure"
    return path if directory is not None and os.path.exists(path) else None


def stalled_ns(group: Group) -> int:
    """How long some process of the group has waited for memory since the group was made; 0 where nobody counts."""
    path = path_of(group)
    if path is None:
        return 0
    try:
        with open(path, encoding="ascii") as file:
            found = re.search(r"^some .*total=(\d+)", file.read(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1000 if found else 0


def _open_trigger(group: Group) -> int:
    """A descriptor that polls EPOLLPRI when the group stalls, once in a window at most. Raises OSError."""
    path = path_of(group)
    if path is None:
        raise call_error(errno.ENOENT, "open", "memory.pressure")
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    refused: OSError | None = None
    for trigger in _TRIGGERS:
        try:
            os.write(descriptor, trigger.encode())
        except OSError as error:
            refused = error
            continue
        return descriptor
    os.close(descriptor)
    raise call_error((refused and refused.errno) or errno.EINVAL, "write", path)


class PressureWatch:
    """``changed`` says who has stalled since the last call, to be asked now and then: once a second is as fine as the
    triggers are. There is nothing to wait for with others: the kernel takes a trigger's event away when somebody looks
    (kernel/sched/psi.c, psi_trigger_poll), and an epoll in another one looks twice.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._descriptors: dict[str, int] = {}

    def add(self, container_id: str, group: Group) -> None:
        """Nothing when it is watched already. Raises OSError, also where the kernel has no such thing."""
        if container_id in self._descriptors:
            return
        descriptor = _open_trigger(group)
        self._descriptors[container_id] = descriptor
        self._poll.register(descriptor, select.EPOLLPRI)

    def changed(self) -> list[str]:
        names = {descriptor: container_id for container_id, descriptor in self._descriptors.items()}
        found = []
        for descriptor, mask in self._poll.poll(0) if names else ():
            if mask & select.EPOLLERR:  # its group is gone
                self._poll.unregister(descriptor)
            else:
                found.append(names[descriptor])
        return found

    def remove(self, container_id: str) -> int:
        """The descriptor, which is the caller's to close: that waits for readers in the kernel (synchronize_rcu), tens
        of milliseconds. -1 when it is not watched.
        """
        descriptor = self._descriptors.pop(container_id, -1)
        if descriptor >= 0:
            try:
                self._poll.unregister(descriptor)
            except FileNotFoundError:
                pass  # since its group is gone
        return descriptor

    def close(self) -> None:
        for container_id in list(self._descriptors):
            os.close(self.remove(container_id))
        self._poll.close()
