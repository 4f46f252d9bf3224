"""The life of a container: what can be done in which state, and what changes its record. Nothing else changes one
(``tests/unit/test_import_rules.py``).

              start        end
    +-> created -> running ---> exited --+
    |              |    ^        ^   ^   | start
    |        pause |    |unpause |   |   |
    |              v    |        |   |   |
    |              paused -------+   |   |
    |                  |             |   |
    |           end    v        stop |   |
    |   running ---> restarting -----+   |
    |                  |                 |
    +------------------+-----------------+

An end leads to restarting where the restart policy wants a new start (``restart_policy``), which follows by itself.
``can_...`` are the guards; ``require`` turns one into the Conflict that says why not. The rest are transitions: called
when it has happened, they change the record and return what is to be told of it. Save the record in between: what is
told is in the books. A start that fails, and one that was lost with its supervisor, goes to exited as well.
"""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Mapping

from wherry.errors import Conflict, InternalError, WherryError
from wherry.kernel.id_maps import IdMap
from wherry.logs import BufferStats
from wherry.runtime.exit_status import ExitStatus
from wherry.supervisor.containers.cause import MemoryEvidence, decide
from wherry.supervisor.containers.record import Reason, Record, State
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.containers.restart_policy import WHATEVER_CODE, RestartPolicy, next_delay, wants
from wherry.supervisor.events import Action, Notice

# Guards.


def can_start(record: Record) -> bool:
    return not record.is_active


def can_signal(record: Record) -> bool:
    """Stop and kill."""
    return record.is_live


def can_list_processes(record: Record) -> bool:
    return record.is_live


def can_update_limits(record: Record) -> bool:
    """In its control group; else they hold from its next start on."""
    return record.is_live


def can_pause(record: Record) -> bool:
    return record.state is State.RUNNING and not record.being_killed


def can_unpause(record: Record) -> bool:
    return record.state is State.PAUSED


def can_exec(record: Record) -> bool:
    return record.state is State.RUNNING and not record.being_killed


def can_remove(record: Record) -> bool:
    return not record.is_active


def can_give_up(record: Record) -> bool:
    """The new start that its policy wants."""
    return record.state is State.RESTARTING


def require(guard: Callable[[Record], bool], record: Record) -> None:
    """Raises Conflict, which says how the container stands."""
    if not guard(record):
        standing = "is not paused" if guard is can_unpause else _standing(record)
        hint = "" if record.being_killed else _HINTS.get((guard, record.state), "").format(name=record.name)
        raise Conflict(f"container {record.name} {standing}{hint}")


def _standing(record: Record) -> str:
    if not record.is_active:
        return "is not running"
    return "is being killed" if record.being_killed else f"is {record.state}"


_HINTS: Mapping[tuple[Callable[[Record], bool], State], str] = {
    (can_start, State.PAUSED): '; "engine unpause {name}" lets it go on',
    (can_exec, State.PAUSED): '; "engine unpause {name}" lets it go on',
    (can_pause, State.PAUSED): " already",
    (can_remove, State.RUNNING): '; stop it first or remove it with "engine rm -f {name}"',
    (can_remove, State.PAUSED): '; stop it first or remove it with "engine rm -f {name}"',
    (can_remove, State.RESTARTING): '; stop it first or remove it with "engine rm -f {name}"',
}

# From one state to another.

_ENDED = (State.CREATED, State.EXITED, State.RESTARTING)


def _move(record: Record, before: tuple[State, ...], state: State) -> None:
    if record.state not in before:
        raise InternalError(f"{record.name} is {record.state} and cannot become {state}")
    record.state = state


def created() -> Notice:
    return Notice(Action.CREATE)


def begin(record: Record) -> None:
    """A start: forget how an earlier run ended. It has not been started then: an exited one with a slot of the shim is
    to the next supervisor one whose log is not written yet.
    """
    by_policy = record.state is State.RESTARTING
    _move(record, _ENDED, State.CREATED)
    record.by_policy = by_policy
    if not by_policy:
        record.restart_count = record.restart_delay_ns = 0
    record.reason, record.error = Reason.NONE, ""
    record.exit_code = record.signal = None
    record.peak_memory_bytes = record.peak_pids = record.peak_rss_bytes = None
    record.backstop_bytes = None
    record.enforcer, record.oom_children, record.memory_death = "", 0, None
    record.finished_ns = record.killed_ns = 0
    record.stop_requested = record.kept_down = record.interrupted = record.timed_out = False
    record.deadline_ns = 0


def about_to_run(record: Record, pid: int) -> Record:
    """A copy that says that the command runs from now on: for the books, the moment before it does."""
    running = copy.copy(record)
    _move(running, _ENDED, State.RUNNING)
    running.pid, running.started_ns = pid, time.time_ns()
    _begin_time(running)
    return running


def _begin_time(record: Record) -> None:
    if record.request.timeout_seconds is not None:
        record.deadline_ns = time.monotonic_ns() + round(record.request.timeout_seconds * 1e9)


def started(record: Record, running: Record) -> Notice:
    """``running`` is what ``about_to_run`` gave."""
    _move(record, _ENDED, State.RUNNING)
    record.pid, record.started_ns, record.deadline_ns = running.pid, running.started_ns, running.deadline_ns
    return Notice(Action.START, {"pid": str(record.pid)})


def taken_over(record: Record, pid: int) -> None:
    """By the supervisor that comes after the one that started it, which may not have seen the start's end."""
    if not record.is_live:
        _move(record, _ENDED, State.RUNNING)
        record.started_ns = time.time_ns()
        _begin_time(record)
    record.pid = pid


def start_failed(record: Record, error: WherryError) -> Notice:
    """Nothing is left of it but the record."""
    _move(record, _ENDED, State.EXITED)
    record.reason = Reason.START_FAILED
    record.error, record.exit_code = str(error), error.exit_code
    record.finished_ns = time.time_ns()
    return _died(record)


def paused(record: Record) -> Notice:
    _move(record, (State.RUNNING,), State.PAUSED)
    return Notice(Action.PAUSE)


def unpaused(record: Record) -> Notice:
    _move(record, (State.PAUSED,), State.RUNNING)
    return Notice(Action.UNPAUSE)


def killed(record: Record) -> list[Notice]:
    """SIGKILL has been sent, which lets one that is paused go on."""
    record.killed_ns = record.killed_ns or time.time_ns()
    return [unpaused(record)] if record.state is State.PAUSED else []


def ended(record: Record, status: ExitStatus | None, evidence: MemoryEvidence, *, log_is_written: bool) -> list[Notice]:
    """The first process; ``status`` None when nobody could collect it."""
    record.state = State.EXITED
    record.pid = 0
    if log_is_written:
        record.slot = ""  # else the shim still has what is on its way to the log
    record.finished_ns = time.time_ns()
    record.reason, record.memory_death = decide(
        status,
        evidence,
        start_failed=record.reason is Reason.START_FAILED,  # found out after a takeover
        stop_requested=record.stop_requested,
        with_init=record.request.init,
        limit_lost=record.reason is Reason.LIMIT_LOST,  # as well
        timed_out=record.timed_out,
    )
    record.peak_rss_bytes = evidence.peak_bytes
    if record.reason is Reason.HARD_LIMIT:
        # What killed it is known. Its first process may have been quicker to end than to be killed.
        record.exit_code, record.signal = 128 + signal.SIGKILL, int(signal.SIGKILL)
    elif status is not None:
        record.exit_code, record.signal = status.exit_code, status.signal
    else:
        record.error = record.error or "its parent, the shim, died; the exit status is not known"
    _settle_restart(record)
    return [*_out_of_memory(record), _died(record)]


def _settle_restart(record: Record) -> None:
    """An end of its own, and a start that only the death of a supervisor has cut short, are restart policies' business;
    a stop, whoever asked for it, is not, nor is a start that failed.
    """
    if record.stop_requested or record.kept_down:
        return
    request, failed = record.request, record.reason is Reason.START_FAILED
    if failed and record.by_policy and record.interrupted:
        record.state = State.RESTARTING
    elif not failed and wants(request.restart, request.restart_retries, record.restart_count, record.exit_code):
        ran_ns = record.finished_ns - record.started_ns
        record.restart_delay_ns = next_delay(record.restart_delay_ns, ran_ns)
        record.restart_count += 1
        record.state = State.RESTARTING


def timed_out(record: Record) -> None:
    """It is killed for that next."""
    record.timed_out = True


def gave_up_restart(record: Record) -> None:
    _move(record, (State.RESTARTING,), State.EXITED)


def owed_start(record: Record, *, is_new_shim: bool) -> bool:
    """To one that a supervisor finds ended, and that its policy wants to be up: since a shutdown stopped it, or, for
    ``always``, since all has begun anew. It is restarting then, without having to wait.
    """
    if record.state is not State.EXITED or record.request.restart not in WHATEVER_CODE:
        return False
    if record.kept_down and not (is_new_shim and record.request.restart == RestartPolicy.ALWAYS):
        return False
    record.state, record.restart_delay_ns = State.RESTARTING, 0
    return True


def _out_of_memory(record: Record) -> list[Notice]:
    death = record.memory_death
    if record.reason is not Reason.OOM or death is None:
        return []
    victim = {"pid": str(death.pid), "comm": death.comm} if death.pid else {}
    return [Notice(Action.OOM, {"limit": str(death.limit_bytes), **victim})]


def _died(record: Record) -> Notice:
    code = "" if record.exit_code is None else str(record.exit_code)
    return Notice(Action.DIE, {"exitCode": code, "reason": record.reason})


def stopped() -> Notice:
    return Notice(Action.STOP)


def restarted() -> Notice:
    return Notice(Action.RESTART)


def removed() -> Notice:
    return Notice(Action.DESTROY)


# Within a state.


def stop_requested(record: Record) -> None:
    record.stop_requested = True


def kept_down(record: Record) -> None:
    """By a client, who has stopped or killed it."""
    record.kept_down = True


def signalled(number: int) -> Notice:
    return Notice(Action.KILL, {"signal": str(int(number))})


def renamed(record: Record, name: str) -> Notice:
    before, record.name = record.name, name
    return Notice(Action.RENAME, {"oldName": f"/{before}"})


def updated(record: Record, request: CreateRequest, changes: Mapping[str, object]) -> Notice:
    record.request = request
    shown = {name: "unlimited" if value is None else str(value) for name, value in changes.items()}
    return Notice(Action.UPDATE, shown)


def took_slot(record: Record, slot: str, cgroup: str) -> None:
    record.slot, record.cgroup = slot, cgroup


def gave_slot_back(record: Record) -> None:
    record.slot = record.cgroup = ""


def took_ids(record: Record, id_map: IdMap) -> None:
    record.id_map = id_map


def gave_ids_back(record: Record) -> None:
    record.id_map = None


def took_layer(record: Record, layer: str) -> None:
    record.layer = layer


def took_archive(record: Record, digest: str) -> str:
    """Returns the digest of the one that it had before, "" for none."""
    before, record.unpacked = record.unpacked, digest
    return before


def measured(record: Record, *, memory_bytes: int | None, pids: int | None) -> None:
    record.peak_memory_bytes, record.peak_pids = memory_bytes, pids


def log_measured(record: Record, stats: BufferStats) -> None:
    record.log_stats = stats


def log_written(record: Record, stats: BufferStats) -> None:
    """All of it, after the end: the shim has nothing of it any more."""
    record.slot, record.log_stats = "", stats


def found_unstarted(record: Record, error: str, *, interrupted: bool = False) -> None:
    """After a take-over: its command has never run, ``interrupted`` by the death of the supervisor that started it. The
    end of its first process is to come.
    """
    record.reason, record.error = Reason.START_FAILED, error
    record.interrupted = interrupted


def found_lost(record: Record, error: str) -> None:
    """After a take-over: neither process nor exit status is there."""
    record.error = error


def limit_lost(record: Record, error: str) -> list[Notice]:
    """Nobody can hold it to its hard limit any more: it has been killed."""
    record.reason, record.error = Reason.LIMIT_LOST, error
    return killed(record)


def watched_by(record: Record, enforcer: str) -> None:
    record.enforcer = enforcer


def backstopped(record: Record, size: int) -> None:
    record.backstop_bytes = size


def lost_children(record: Record, number: int) -> None:
    """To the kernel's OOM killer."""
    record.oom_children += number
