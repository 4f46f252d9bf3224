"""What /proc tells of a process, asked of processes that stand still in a known state."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.waiting import wait_until

from wherry.kernel import process, procfs

TERM = signal.SIGTERM


def received_by(prepare: Callable[[], object], wait: Callable[[], object] = signal.pause) -> bool:
    """``receives`` for a process that has called ``prepare`` and is in ``wait``."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            process.reset_signals()
            prepare()
            os.write(writer, b"ready")
            wait()
        finally:
            os._exit(1)
    try:
        assert os.read(reader, 5) == b"ready"
        wait_until(lambda: sleeps(child))
        return procfs.receives(child, TERM)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def sleeps(pid: int) -> bool:
    """Whether every thread of the process does."""
    return all("State:\tS" in (task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir())


def block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [TERM])


def sigwait() -> None:
    signal.sigwait([TERM])


def sigwait_in_a_thread() -> None:
    def wait() -> None:
        block()
        blocked.set()
        sigwait()

    blocked = threading.Event()
    threading.Thread(target=wait, daemon=True).start()
    blocked.wait()


def test_the_default_action_is_dropped() -> None:
    assert not received_by(lambda: None)


def test_an_ignored_signal_is_dropped() -> None:
    assert not received_by(lambda: signal.signal(TERM, signal.SIG_IGN))


def test_a_handler_receives() -> None:
    assert received_by(lambda: signal.signal(TERM, lambda *_: None))


def test_a_blocked_signal_is_kept_for_later() -> None:
    """Such as by who reads a signalfd."""
    assert received_by(block)


def test_who_waits_for_it_receives() -> None:
    """In sigwait(3), sigwaitinfo and sigtimedwait(2) SigBlk shows the mask without the signals that are waited for."""
    assert received_by(block, sigwait)


def test_another_thread_may_wait_for_it() -> None:
    assert received_by(sigwait_in_a_thread)


def test_other_signals_do_not_count() -> None:
    def prepare() -> None:
        for number in (TERM - 1, TERM + 1):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, [TERM - 1, TERM + 1])

    assert not received_by(prepare)


def test_a_process_that_is_gone_receives_nothing() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert not procfs.receives(child, TERM)


def test_who_has_a_cpu_and_how_long() -> None:
    """Case 32: that somebody has had time to die is seen by what it has executed, not by a clock."""
    (before,) = procfs.running_threads(os.getpid()).values()
    deadline = time.monotonic() + PATIENCE
    while procfs.running_threads(os.getpid())[os.getpid()] == before:  # it is counted at a tick, or a change of tasks
        assert time.monotonic() < deadline
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(1)
    while procfs.running_threads(child):
        assert time.monotonic() < deadline
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert procfs.running_threads(child) == {}


def test_who_is_dying() -> None:
    assert not procfs.is_dying(os.getpid())
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(1)
    assert not procfs.is_dying(child)
    os.kill(child, signal.SIGKILL)
    assert procfs.is_dying(child)  # from the signal on: pending, exiting, a zombie
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert procfs.is_dying(child)
    os.waitpid(child, 0)
    assert procfs.is_dying(child)


def test_only_so_many_threads_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 23: with more it is taken to receive the signal, which costs a wait and no container its end."""
    looked: list[str] = []
    masks = procfs._signal_masks

    def look(path: str) -> int:
        looked.append(path)
        return masks(path)

    monkeypatch.setattr(procfs, "_signal_masks", look)
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    try:
        assert not procfs.receives(os.getpid(), signal.SIGUSR2)
        assert len(looked) >= 6
        looked.clear()
        monkeypatch.setattr(procfs, "MOST_THREADS", 3)
        assert procfs.receives(os.getpid(), signal.SIGUSR2)
        assert len(looked) == 3
    finally:
        stop.set()
        for thread in threads:
            thread.join()
