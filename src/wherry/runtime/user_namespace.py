"""What is done from outside for a first process in a user namespace of its own: it has no privilege on the host from
its first instruction on.
"""

from __future__ import annotations

import os
import resource
from typing import Any, NamedTuple

from wherry.kernel import id_maps, process
from wherry.kernel.id_maps import IdMap


class UserNamespace(NamedTuple):
    """``oom_score_adj`` is the child's: it could set it itself, but not so that nothing lower can be set later."""

    id_map: IdMap
    oom_score_adj: int

    @classmethod
    def of(cls, fields: list[Any]) -> UserNamespace:
        """From JSON."""
        (uids, gids), oom_score_adj = fields
        return cls(IdMap.of(uids, gids), oom_score_adj)

    def give(self, pid: int) -> None:
        """To a process that waits for it. Raises OSError naming the file."""
        process.set_oom_score_adjustment(self.oom_score_adj, pid)
        id_maps.write(pid, self.id_map)


class Favours(NamedTuple):
    """For the process before it finishes: ``limits`` are those that it will set itself, (number, soft, hard) each, and
    which only the host's CAP_SYS_RESOURCE can raise; ``policy`` is the name of a constant of the os module.
    """

    limits: tuple[tuple[int, int, int], ...]
    nice: int
    policy: str
    priority: int

    def do(self, pid: int) -> None:
        """Raises OSError."""
        for number, _soft, hard in self.limits:
            soft, before = resource.prlimit(pid, number)  # the soft one it still needs
            if before != resource.RLIM_INFINITY and (hard > before or hard == resource.RLIM_INFINITY):
                resource.prlimit(pid, number, (soft, hard))
        os.setpriority(os.PRIO_PROCESS, pid, self.nice)
        if self.policy != "SCHED_OTHER":
            os.sched_setscheduler(pid, getattr(os, self.policy), os.sched_param(self.priority))
