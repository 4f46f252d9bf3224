"""What the supervisor knows about a container and about itself."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from wherry.kernel.id_maps import IdMap
from wherry.logs import BufferStats
from wherry.memory import Traits, choice
from wherry.supervisor.containers.request import CreateRequest


class State(StrEnum):
    """Where a container is in its life."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    """It has ended, and its restart policy will start it again."""
    EXITED = "exited"


_LIVE = frozenset({State.RUNNING, State.PAUSED})
_ENDED = frozenset({State.RESTARTING, State.EXITED})


class Reason(StrEnum):
    """Why a container ended; NONE until it did."""

    NONE = ""
    EXITED = "exited"
    STOPPED = "stopped"
    SIGNALED = "signaled"
    HARD_LIMIT = "hard_limit"
    LIMIT_LOST = "limit_lost"
    OOM = "oom"
    TIMED_OUT = "timed_out"
    START_FAILED = "start_failed"
    LOST = "lost"


MEMORY_REASONS = frozenset({Reason.HARD_LIMIT, Reason.OOM})


class MemoryDeath(msgspec.Struct, kw_only=True):
    """The evidence of a container that ended by its memory.

    ``enforcer`` is who ended it, "oom" for the kernel's OOM killer; ``pid`` and ``comm`` are the process that crossed
    the limit, or that was chosen, 0 and "" when nobody saw it; ``rss_bytes`` is the container's memory at that instant,
    ``peak_bytes`` its highest; ``detail`` is "" for a plain crossing, "uncounted" for a process that the enforcer could
    not count; ``crossed_ns`` is the crossing in nanoseconds since the epoch and ``death_ns`` how long after it the
    first process had ended, None when that is not known.
    """

    enforcer: str
    pid: int = 0
    comm: str = ""
    rss_bytes: int = 0
    limit_bytes: int = 0
    peak_bytes: int = 0
    detail: str = ""
    crossed_ns: int = 0
    death_ns: int | None = None


class Record(msgspec.Struct, kw_only=True):
    """One container: what was asked for and what became of it. Only ``states`` changes one.

    ``id`` is 64 hex digits; ``pid`` is the host's pid, 0 when not running; times are wall clock nanoseconds since the
    epoch, 0 for "never"; ``cgroup`` is relative to the hierarchies' mount points; ``slot`` is the shim's name for the
    process of the current start, "" while there is none; ``layer`` names the writable layer, "" before the first start;
    ``unpacked`` is the digest of the archive under it, "" for a directory;
    ``peak_*`` are high-water marks, None when nobody measured them (``peak_memory_bytes`` is what was charged to the
    group, ``peak_rss_bytes`` what the enforcer counted); ``enforcer`` watches the memory of the current or last run,
    "" for nobody; ``oom_children`` counts the OOM killer's victims that were not the first process; ``log_stats`` is of
    the last run that has ended.
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
    killed_ns: int = 0
    """When the first SIGKILL was sent to it in this run."""
    deadline_ns: int = 0
    """Of CLOCK_MONOTONIC: when the time of this run is over; 0 without a limit."""
    timed_out: bool = False
    """It is being killed for that."""
    kept_down: bool = False
    """A client has stopped or killed it since its last start: that is no end to start it again after."""
    by_policy: bool = False
    """The start under way, or the last one, is its restart policy's."""
    interrupted: bool = False
    """The start under way by the death of the supervisor."""
    restart_count: int = 0
    """How many starts its policy has been owed since a client started it."""
    restart_delay_ns: int = 0
    """How long the last of them waited, or waits, after the end before it."""
    log_path: str = ""
    cgroup: str = ""
    slot: str = ""
    layer: str = ""
    unpacked: str = ""
    id_map: IdMap | None = None
    """Of the user namespace of the current start, until nothing is left of it: these ids are in use."""
    peak_memory_bytes: int | None = None
    peak_pids: int | None = None
    peak_rss_bytes: int | None = None
    enforcer: str = ""
    backstop_bytes: int | None = None
    """The memory group's limit that stands behind a hard limit of another enforcer; None without one."""
    oom_children: int = 0
    memory_death: MemoryDeath | None = None
    log_stats: BufferStats = BufferStats()

    @property
    def traits(self) -> Traits:
        """Of ``enforcer``."""
        return choice.traits_of(self.enforcer)

    @property
    def not_counted(self) -> tuple[str, ...]:
        """What its hard limit does not count, in words; () without one."""
        return self.traits.not_counted if self.request.hard_bytes is not None else ()

    @property
    def is_live(self) -> bool:
        """It has a first process, which runs or is paused."""
        return self.state in _LIVE

    @property
    def is_active(self) -> bool:
        """It is live, or will be in a moment by itself: what docker calls running."""
        return self.is_live or self.state is State.RESTARTING

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDED

    @property
    def being_killed(self) -> bool:
        """SIGKILL has been sent, and its end not been seen yet."""
        return self.state is State.RUNNING and self.killed_ns != 0


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a run of a container ended, as in ``Record``: what ``wait`` tells, and what is remembered of removed ones."""

    id: str
    name: str
    reason: Reason
    exit_code: int | None
    signal: int | None
    error: str
    started_ns: int
    finished_ns: int

    @classmethod
    def of(cls, record: Record) -> End:
        return cls(**{name: getattr(record, name) for name in cls.__struct_fields__})


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What ``engine info`` shows of a running supervisor; sizes in bytes.

    ``enforcer`` holds memory limits, "" when nothing can; ``enforcers_refused`` says of those before it why they were
    not taken; ``enforcer_dropped`` counts events and processes that it had no room for.
    """

    version: str
    state_dir: str
    socket: str
    pid: int
    shim_pid: int
    cgroup_version: int
    cgroup_parent: str
    kernel: str
    cpus: int
    rootfs: str
    """What the supervisor was started with, "" without."""
    memory_bytes: int
    enforcer: str
    enforcers_refused: dict[str, str]
    enforcer_dropped: int
    has_backstop: bool
    """Whether a memory group stands behind hard limits that another enforcer holds, or is that enforcer itself."""
    not_counted: tuple[str, ...]
    """What the enforcer's hard limit does not count, in words."""
    drift_bytes: int | None
    """By how much an enforcer's figure was above what the kernel shows of the same processes (negative: below), where
    that was most, in the last round over all containers; None when there was none.
    """
    drift_of: str
    """The name of that container."""
    containers_running: int
    containers_paused: int
    containers_restarting: int
    containers_created: int
    containers_exited: int
    hostname: str
    spares: int
    longest_turn_ms: float = 0.0
    """The longest time that the event loop was busy at a stretch, which is what a client may have had to wait."""
    longest_turn_cpu_ms: float = 0.0
    """The most CPU time of such a time, which does not grow with what else the machine does."""
    slow_turns: int = 0
    """How many were longer than 20 ms."""
