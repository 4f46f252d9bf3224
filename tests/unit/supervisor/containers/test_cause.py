"""The reason of an end, from every combination of evidence that decides it."""

from __future__ import annotations

import os
import signal

import pytest

from wherry.memory import Kind, MemoryEvent
from wherry.runtime.exit_status import ExitStatus
from wherry.supervisor.containers.cause import MemoryEvidence, decide
from wherry.supervisor.containers.record import Reason

KILLED = ExitStatus(os.CLD_KILLED, signal.SIGKILL, 5_000_000)
EXITED, EXITED_137 = ExitStatus(os.CLD_EXITED, 3), ExitStatus(os.CLD_EXITED, 137)
SEGFAULT = ExitStatus(os.CLD_DUMPED, signal.SIGSEGV)
HARD = MemoryEvent(Kind.HARD, "a" * 64, 7, "hog", 101, 100, 102, 2_000_000, 77)
VICTIM = MemoryEvent(Kind.OOM_KILL, "a" * 64, 7, "hog", 99, 0, 102, 3_000_000, 78)

NOTHING = MemoryEvidence()
RECORD = MemoryEvidence("bpf", 102, hard=HARD)
CHOSEN = MemoryEvidence("bpf", 102, victim=VICTIM, limit_bytes=200)
ANSWERED = MemoryEvidence("bpf", answered_bytes=100)
COUNTED = MemoryEvidence(unexplained_kills=1, limit_bytes=200)
CASES: dict[str, tuple[ExitStatus | None, MemoryEvidence, str, Reason]] = {
    "an exit code": (EXITED, NOTHING, "", Reason.EXITED),
    "137 of its own": (EXITED_137, NOTHING, "", Reason.EXITED),
    "a signal": (SEGFAULT, NOTHING, "", Reason.SIGNALED),
    "SIGKILL and nothing else": (KILLED, NOTHING, "", Reason.SIGNALED),
    "SIGKILL after stop": (KILLED, NOTHING, "stop", Reason.STOPPED),
    "an exit code after stop": (EXITED, NOTHING, "stop", Reason.STOPPED),
    "a status that nobody has": (None, NOTHING, "stop", Reason.LOST),
    "the enforcer's record": (KILLED, RECORD, "", Reason.HARD_LIMIT),
    "the record before stop": (KILLED, RECORD, "stop", Reason.HARD_LIMIT),
    "the record before a quicker exit": (EXITED, RECORD, "", Reason.HARD_LIMIT),
    "the record before the OOM killer": (
        KILLED,
        RECORD._replace(victim=VICTIM, unexplained_kills=2),
        "",
        Reason.HARD_LIMIT,
    ),
    "the record without a status": (None, RECORD, "", Reason.HARD_LIMIT),
    "a start that failed before all": (EXITED, RECORD, "failed", Reason.START_FAILED),
    "the OOM killer's choice": (KILLED, CHOSEN, "", Reason.OOM),
    "the OOM killer before stop": (KILLED, CHOSEN, "stop", Reason.OOM),
    "a counted kill": (KILLED, COUNTED, "", Reason.OOM),
    "a counted kill of another process": (EXITED, COUNTED, "", Reason.EXITED),
    "a counted kill and another signal": (SEGFAULT, COUNTED, "", Reason.SIGNALED),
    "a counted kill and 137 of its own": (EXITED_137, COUNTED, "", Reason.EXITED),
    "a counted kill that our init passes on": (EXITED_137, COUNTED, "init", Reason.OOM),
    "what the shim has answered": (KILLED, ANSWERED, "", Reason.HARD_LIMIT),
    "what it has answered without a status": (None, ANSWERED, "stop", Reason.HARD_LIMIT),
    "an exit that was quicker than the shim": (EXITED, ANSWERED, "", Reason.EXITED),
    "a limit that nobody could hold": (KILLED, NOTHING, "lost", Reason.LIMIT_LOST),
    "that and the shim's death": (None, NOTHING, "lost", Reason.LIMIT_LOST),
    "that and a quicker exit": (EXITED, NOTHING, "lost", Reason.EXITED),
    "that and a crossing after all": (KILLED, RECORD, "lost", Reason.HARD_LIMIT),
    "137 of its own under our init": (EXITED_137, NOTHING, "init", Reason.EXITED),
}


@pytest.mark.parametrize(("status", "evidence", "how", "reason"), CASES.values(), ids=CASES.keys())
def test_the_reason(status: ExitStatus | None, evidence: MemoryEvidence, how: str, reason: Reason) -> None:
    cause = decide(
        status,
        evidence,
        start_failed=how == "failed",
        stop_requested=how == "stop",
        with_init=how == "init",
        limit_lost=how == "lost",
    )
    assert cause.reason is reason
    assert (cause.memory is not None) is (reason in (Reason.HARD_LIMIT, Reason.OOM))


def test_what_could_not_be_counted_is_in_the_evidence() -> None:
    evidence = RECORD._replace(hard=HARD._replace(detail="uncounted"))
    cause = decide(KILLED, evidence, start_failed=False, stop_requested=False, with_init=False)
    assert (cause.reason, cause.memory and cause.memory.detail) == (Reason.HARD_LIMIT, "uncounted")


def test_the_evidence_of_a_hard_limit() -> None:
    death = decide(KILLED, RECORD, start_failed=False, stop_requested=False, with_init=False).memory
    assert death is not None
    assert (death.enforcer, death.pid, death.comm) == ("bpf", 7, "hog")
    assert (death.rss_bytes, death.limit_bytes, death.peak_bytes) == (101, 100, 102)
    assert (death.crossed_ns, death.death_ns) == (77, 3_000_000)
    later = decide(KILLED._replace(monotonic_ns=0), RECORD, start_failed=False, stop_requested=False, with_init=False)
    assert later.memory is not None
    assert later.memory.death_ns is None


def test_the_evidence_of_the_oom_killer() -> None:
    death = decide(KILLED, CHOSEN, start_failed=False, stop_requested=False, with_init=False).memory
    assert death is not None
    assert (death.enforcer, death.pid, death.comm, death.limit_bytes) == ("oom", 7, "hog", 200)
    unseen = decide(KILLED, COUNTED, start_failed=False, stop_requested=False, with_init=False).memory
    assert unseen is not None
    assert (unseen.enforcer, unseen.pid, unseen.comm, unseen.limit_bytes) == ("oom", 0, "", 200)
