"""The life of a container on its record alone: guards, transitions, and what is told of each."""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Callable

import msgspec
import pytest

from wherry.errors import CommandNotFound, Conflict, InternalError
from wherry.runtime.exit_status import ExitStatus
from wherry.supervisor.containers import states
from wherry.supervisor.containers.cause import MemoryEvidence
from wherry.supervisor.containers.record import MemoryDeath, Reason, Record, State
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.events import Action, Notice

NOTHING = MemoryEvidence()
EXITED, KILLED = ExitStatus(os.CLD_EXITED, 3), ExitStatus(os.CLD_KILLED, signal.SIGKILL)


def fresh() -> Record:
    request = CreateRequest(rootfs="/srv/rootfs", command=("/bin/true",))
    return Record(id="f" * 64, name="alpha", request=request, created_ns=1)


def running() -> Record:
    record = fresh()
    states.took_slot(record, "slot", "wherry/x")
    assert states.started(record, states.about_to_run(record, 12)) == Notice(Action.START, {"pid": "12"})
    return record


def paused() -> Record:
    record = running()
    assert states.paused(record) == Notice(Action.PAUSE)
    return record


def being_killed() -> Record:
    record = running()
    assert states.killed(record) == []
    return record


def exited() -> Record:
    record = running()
    states.ended(record, EXITED, NOTHING, log_is_written=True)
    return record


def restarting() -> Record:
    record = running()
    record.request = msgspec.structs.replace(record.request, restart="on-failure")
    states.ended(record, EXITED, NOTHING, log_is_written=True)
    return record


STATES: dict[str, Callable[[], Record]] = {
    "created": fresh,
    "running": running,
    "paused": paused,
    "being killed": being_killed,
    "exited": exited,
    "restarting": restarting,
}
GUARDS: dict[Callable[[Record], bool], set[str]] = {
    states.can_start: {"created", "exited"},
    states.can_remove: {"created", "exited"},
    states.can_signal: {"running", "paused", "being killed"},
    states.can_list_processes: {"running", "paused", "being killed"},
    states.can_update_limits: {"running", "paused", "being killed"},
    states.can_pause: {"running"},
    states.can_unpause: {"paused"},
    states.can_exec: {"running"},
    states.can_give_up: {"restarting"},
}


@pytest.mark.parametrize("where", STATES)
@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_what_can_be_done_in_which_state(guard: Callable[[Record], bool], where: str) -> None:
    record = STATES[where]()
    allowed = where in GUARDS[guard]
    assert guard(record) is allowed
    if allowed:
        states.require(guard, record)
    else:
        with pytest.raises(Conflict, match=r"^container alpha is "):
            states.require(guard, record)


def test_every_guard_is_in_the_table() -> None:
    assert {name for name in vars(states) if name.startswith("can_")} == {guard.__name__ for guard in GUARDS}


@pytest.mark.parametrize(
    ("guard", "where", "text"),
    [
        (states.can_signal, "created", "is not running"),
        (states.can_start, "paused", 'is paused; "engine unpause alpha" lets it go on'),
        (states.can_exec, "paused", 'is paused; "engine unpause alpha" lets it go on'),
        (states.can_exec, "being killed", "is being killed"),
        (states.can_pause, "paused", "is paused already"),
        (states.can_pause, "exited", "is not running"),
        (states.can_unpause, "running", "is not paused"),
        (states.can_unpause, "exited", "is not paused"),
        (states.can_remove, "running", 'is running; stop it first or remove it with "engine rm -f alpha"'),
        (states.can_remove, "paused", 'is paused; stop it first or remove it with "engine rm -f alpha"'),
        (states.can_remove, "being killed", "is being killed"),
        (states.can_remove, "restarting", 'is restarting; stop it first or remove it with "engine rm -f alpha"'),
        (states.can_signal, "restarting", "is restarting"),
        (states.can_exec, "restarting", "is restarting"),
    ],
)
def test_a_refusal_says_how_it_stands(guard: Callable[[Record], bool], where: str, text: str) -> None:
    with pytest.raises(Conflict) as refused:
        states.require(guard, STATES[where]())
    assert str(refused.value) == f"container alpha {text}"


IMPOSSIBLE: dict[str, tuple[str, Callable[[Record], object]]] = {
    "run what runs": ("running", lambda record: states.about_to_run(record, 1)),
    "run what is paused": ("paused", lambda record: states.about_to_run(record, 1)),
    "start twice": ("running", lambda record: states.started(record, copy.copy(record))),
    "begin what runs": ("running", states.begin),
    "begin what is paused": ("paused", states.begin),
    "fail to start what runs": ("running", lambda record: states.start_failed(record, CommandNotFound())),
    "pause twice": ("paused", states.paused),
    "pause what has ended": ("exited", states.paused),
    "pause what was never started": ("created", states.paused),
    "let go what runs": ("running", states.unpaused),
    "let go what has ended": ("exited", states.unpaused),
    "pause what restarts": ("restarting", states.paused),
    "give up what does not restart": ("exited", states.gave_up_restart),
}


@pytest.mark.parametrize(("where", "change"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_cannot_happen_changes_nothing(where: str, change: Callable[[Record], object]) -> None:
    record = STATES[where]()
    before = copy.copy(record)
    with pytest.raises(InternalError, match=r"alpha is .* and cannot become"):
        change(record)
    assert record == before


def ended(status: ExitStatus | None, *, stop_requested: bool = False, log_is_written: bool = True) -> Record:
    record = running()
    if stop_requested:
        states.stop_requested(record)
    told = states.ended(record, status, NOTHING, log_is_written=log_is_written)
    code = "" if record.exit_code is None else str(record.exit_code)
    assert told == [Notice(Action.DIE, {"exitCode": code, "reason": record.reason})]
    return record


@pytest.mark.parametrize(
    ("status", "stop_requested", "reason", "exit_code", "number"),
    [
        (EXITED, False, Reason.EXITED, 3, None),
        (KILLED, False, Reason.SIGNALED, 137, 9),
        (EXITED, True, Reason.STOPPED, 3, None),
        (KILLED, True, Reason.STOPPED, 137, 9),
        (None, False, Reason.LOST, None, None),
        (None, True, Reason.LOST, None, None),
    ],
)
def test_the_reason_of_an_end(
    status: ExitStatus | None, stop_requested: bool, reason: Reason, exit_code: int | None, number: int | None
) -> None:
    before = time.time_ns()
    record = ended(status, stop_requested=stop_requested)
    assert (record.state, record.reason, record.exit_code, record.signal) == (State.EXITED, reason, exit_code, number)
    assert (record.pid, record.slot) == (0, "")
    assert before <= record.finished_ns <= time.time_ns()
    assert bool(record.error) is (reason is Reason.LOST)


def test_the_shim_keeps_the_slot_while_the_log_is_not_written() -> None:
    record = ended(EXITED, log_is_written=False)
    assert record.slot == "slot"
    states.log_written(record, record.log_stats)
    assert record.slot == ""


def test_a_start_that_failed_stays_one() -> None:
    """A supervisor that takes over learns why from the channel, before it learns the exit code."""
    record = running()
    states.found_unstarted(record, "cannot start alpha: ...")
    states.ended(record, ExitStatus(os.CLD_EXITED, 127), NOTHING, log_is_written=True)
    assert (record.state, record.reason, record.exit_code) == (State.EXITED, Reason.START_FAILED, 127)


def test_a_start_that_fails_is_an_end() -> None:
    record = fresh()
    states.begin(record)
    told = states.start_failed(record, CommandNotFound("no such file"))
    assert told == Notice(Action.DIE, {"exitCode": "127", "reason": "start_failed"})
    assert (record.state, record.error, record.exit_code) == (State.EXITED, "no such file", 127)
    states.start_failed(record, CommandNotFound("again"))
    assert record.error == "again"


def test_a_copy_says_that_it_runs_before_it_does() -> None:
    record = fresh()
    shown = states.about_to_run(record, 12)
    assert (shown.state, shown.pid, record.state, record.pid) == (State.RUNNING, 12, State.CREATED, 0)
    states.started(record, shown)
    assert record == shown


def test_starting_again_forgets_the_last_run() -> None:
    record = running()
    states.watched_by(record, "bpf")
    states.backstopped(record, 1)
    states.lost_children(record, 2)
    states.stop_requested(record)
    states.killed(record)
    states.measured(record, memory_bytes=1, pids=2)
    death = MemoryEvidence(enforcer="bpf", victim=None, unexplained_kills=1, peak_bytes=5)
    states.ended(record, KILLED, death, log_is_written=True)
    assert (record.reason, record.memory_death) == (Reason.OOM, MemoryDeath(enforcer="oom", peak_bytes=5))
    assert not record.being_killed
    states.begin(record)
    again = copy.copy(record)
    again.started_ns, again.cgroup = 0, ""
    assert again == fresh()


def test_a_kill_of_the_kernel_s_is_told_first() -> None:
    record = running()
    told = states.ended(record, KILLED, MemoryEvidence(unexplained_kills=1, limit_bytes=7), log_is_written=True)
    assert told == [
        Notice(Action.OOM, {"limit": "7"}),
        Notice(Action.DIE, {"exitCode": "137", "reason": "oom"}),
    ]


def test_pause_and_back() -> None:
    record = paused()
    assert (record.state, record.is_live, record.pid) == (State.PAUSED, True, 12)
    assert states.unpaused(record) == Notice(Action.UNPAUSE)
    assert record == running_since(record.started_ns)


def running_since(started_ns: int) -> Record:
    record = running()
    record.started_ns = started_ns
    return record


def test_sigkill_lets_a_paused_one_go_on() -> None:
    record = paused()
    assert states.killed(record) == [Notice(Action.UNPAUSE)]
    assert (record.state, record.being_killed) == (State.RUNNING, True)
    first = record.killed_ns
    assert states.killed(record) == []
    assert record.killed_ns == first


def test_a_limit_that_is_lost_ends_a_paused_one_too() -> None:
    record = paused()
    assert states.limit_lost(record, "nobody can hold it") == [Notice(Action.UNPAUSE)]
    states.ended(record, KILLED, NOTHING, log_is_written=True)
    assert (record.reason, record.error) == (Reason.LIMIT_LOST, "nobody can hold it")


def test_one_that_ends_paused_has_ended() -> None:
    record = paused()
    states.ended(record, KILLED, NOTHING, log_is_written=True)
    assert (record.state, record.is_live) == (State.EXITED, False)


def test_a_take_over_keeps_what_is_known() -> None:
    for make in (running, paused):
        record = make()
        before = copy.copy(record)
        states.taken_over(record, 12)
        assert record == before
    unseen = fresh()  # its supervisor was killed before it was booked
    states.taken_over(unseen, 12)
    assert (unseen.state, unseen.pid) == (State.RUNNING, 12)
    assert unseen.started_ns


def test_an_archive_takes_the_place_of_another() -> None:
    record = fresh()
    assert states.took_archive(record, "a") == ""
    assert states.took_archive(record, "b") == "a"


def test_a_change_tells_what_was_asked() -> None:
    record = fresh()
    request = CreateRequest(rootfs="/", command=("/bin/false",))
    assert states.updated(record, request, {"cpus": None, "nice": 3}) == Notice(
        Action.UPDATE, {"cpus": "unlimited", "nice": "3"}
    )
    assert record.request is request
