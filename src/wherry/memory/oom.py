"""Which containers' groups the kernel's OOM killer has struck, whatever enforces their limits."""

from __future__ import annotations

import os
import select

from wherry.kernel import cgroup_memory
from wherry.kernel.cgroups import Group


class OomWatch:
    """``changed`` says where to look at ``cgroup_memory.oom_kills``. On version 1 that counts a moment after the
    signal, which comes before the kill.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._by_descriptor: dict[int, str] = {}

    def fileno(self) -> int:
        """Polls readable while ``changed`` has something to return."""
        return self._poll.fileno()

    def add(self, container_id: str, group: Group) -> None:
        """Raises OSError."""
        if group.layout.version == 1:
            descriptor, mask = cgroup_memory.watch_version1(group, "memory.oom_control"), select.EPOLLIN
        else:
            descriptor, mask = cgroup_memory.open_events_version2(group), select.EPOLLPRI
        self._by_descriptor[descriptor] = container_id
        self._poll.register(descriptor, mask)

    def changed(self) -> list[str]:
        found = []
        for descriptor, mask in self._poll.poll(0):
            if mask & select.EPOLLPRI:
                cgroup_memory.read_events(descriptor)
            else:
                cgroup_memory.signalled(descriptor)
            found.append(self._by_descriptor[descriptor])
        return found

    def remove(self, container_id: str) -> None:
        for descriptor, found in list(self._by_descriptor.items()):
            if found == container_id:
                del self._by_descriptor[descriptor]
                self._poll.unregister(descriptor)
                os.close(descriptor)

    def close(self) -> None:
        for container_id in set(self._by_descriptor.values()):
            self.remove(container_id)
        self._poll.close()
