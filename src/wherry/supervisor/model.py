"""What the supervisor knows about a container and about itself."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from wherry.logs import BufferStats
from wherry.supervisor.request import CreateRequest


class State(StrEnum):
    """Where a container is in its life."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


class Reason(StrEnum):
    """Why a container ended; NONE until it did."""

    NONE = ""
    EXITED = "exited"
    STOPPED = "stopped"
    SIGNALED = "signaled"
    START_FAILED = "start_failed"
    LOST = "lost"


class Record(msgspec.Struct, kw_only=True):
    """One container: what was asked for and what became of it.

    ``id`` is 64 hex digits; ``pid`` is the host's pid, 0 when not running; times are wall clock nanoseconds since the
    epoch, 0 for "never"; ``cgroup`` is relative to the hierarchies' mount points; ``slot`` is the shim's name for the
    process of the current start, "" while there is none; ``layer`` names the writable layer, "" before the first start;
    ``peak_*`` are high-water marks, None when nobody measured them; ``log_stats`` is of the last run that has ended.
    """

    id: str
    name: str
    request: CreateRequest
    created_ns: int
    state: State = State.CREATED
    reason: Reason = Reason.NONE
    pid: int = 0
    exit_code: int | None = None
    signal: int | None = None
    error: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    stop_requested: bool = False
    log_path: str = ""
    cgroup: str = ""
    slot: str = ""
    layer: str = ""
    peak_memory_bytes: int | None = None
    peak_pids: int | None = None
    log_stats: BufferStats = BufferStats()


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What ``engine info`` shows of a running supervisor; sizes in bytes."""

    version: str
    state_dir: str
    socket: str
    pid: int
    shim_pid: int
    cgroup_version: int
    cgroup_parent: str
    kernel: str
    cpus: int
    memory_bytes: int
    enforcer: str
    containers_running: int
    containers_created: int
    containers_exited: int
    hostname: str
    spares: int
