"""Why a container ended: the one place that decides, and by evidence only.

In this order, the first that there is:

1. the start never came to its command,
2. the enforcer's own record of a crossing of the hard limit, or the shim's word that it has acted on one,
3. nobody could hold it to its hard limit any more after a take-over, so that we have killed it,
4. the kernel's OOM killer chose the first process: the victim it named (oom:mark_victim), or a kill that the group has
   counted (memory.events.local, memory.oom_control) and that was none of the container's other processes,
5. its time was over, so that we have killed it,
6. somebody asked for the end (stop),
7. the exit status.

A SIGKILL alone is no evidence of anything but a signal.
"""

from __future__ import annotations

import signal
from typing import NamedTuple

from wherry.memory import MemoryEvent
from wherry.runtime.exit_status import ExitStatus
from wherry.supervisor.containers.record import MemoryDeath, Reason


class MemoryEvidence(NamedTuple):
    """What was seen of a container's memory. ``victim`` is the OOM killer's choice of its first process;
    ``unexplained_kills`` counts OOM kills in its group whose victims are not known; ``limit_bytes`` is the group's own
    limit, None without one; ``answered_bytes`` is the hard limit that it had when the shim, while no supervisor lived,
    killed it for crossing it, None when it did not.
    """

    enforcer: str = ""
    peak_bytes: int | None = None
    hard: MemoryEvent | None = None
    victim: MemoryEvent | None = None
    unexplained_kills: int = 0
    limit_bytes: int | None = None
    answered_bytes: int | None = None


class Cause(NamedTuple):
    reason: Reason
    memory: MemoryDeath | None = None


def decide(
    status: ExitStatus | None,
    evidence: MemoryEvidence,
    *,
    start_failed: bool,
    stop_requested: bool,
    with_init: bool,
    limit_lost: bool = False,
    timed_out: bool = False,
) -> Cause:
    """``status`` None is an end whose status nobody could collect."""
    if start_failed:
        return Cause(Reason.START_FAILED)
    if evidence.hard is not None:
        return Cause(Reason.HARD_LIMIT, _memory_death(evidence.enforcer, evidence.hard, status))
    if evidence.answered_bytes is not None and (status is None or _was_killed(status, with_init)):
        found = MemoryDeath(enforcer=evidence.enforcer, limit_bytes=evidence.answered_bytes)
        return Cause(Reason.HARD_LIMIT, found)
    if limit_lost and (status is None or _was_killed(status, with_init)):
        return Cause(Reason.LIMIT_LOST)
    if status is None:
        return Cause(Reason.TIMED_OUT if timed_out else Reason.LOST)
    if _was_killed(status, with_init) and (evidence.victim is not None or evidence.unexplained_kills):
        return Cause(Reason.OOM, _oom_death(evidence, status))
    if timed_out and _was_killed(status, with_init):
        return Cause(Reason.TIMED_OUT)
    if stop_requested:
        return Cause(Reason.STOPPED)
    return Cause(Reason.EXITED if status.signal is None else Reason.SIGNALED)


def _was_killed(status: ExitStatus, with_init: bool) -> bool:
    # Our init passes the command's end on as an exit code.
    return status.signal == signal.SIGKILL or (with_init and status.exit_code == 128 + signal.SIGKILL)


def _memory_death(enforcer: str, event: MemoryEvent, status: ExitStatus | None) -> MemoryDeath:
    died_ns = 0 if status is None else status.monotonic_ns
    return MemoryDeath(
        enforcer=enforcer,
        pid=event.pid,
        comm=event.comm,
        rss_bytes=event.rss_bytes,
        limit_bytes=event.limit_bytes,
        peak_bytes=event.peak_bytes,
        detail=event.detail,
        crossed_ns=event.wall_ns,
        death_ns=max(died_ns - event.monotonic_ns, 0) if died_ns else None,
    )


def _oom_death(evidence: MemoryEvidence, status: ExitStatus) -> MemoryDeath:
    if evidence.victim is not None:
        found = _memory_death("oom", evidence.victim, status)
    else:
        found = MemoryDeath(enforcer="oom")
    found.limit_bytes = evidence.limit_bytes or 0
    found.peak_bytes = evidence.peak_bytes or found.peak_bytes
    return found
