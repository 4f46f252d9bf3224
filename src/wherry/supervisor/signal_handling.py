"""What signals mean to the supervisor. None ends it without a line in its log, but SIGKILL.

SIGINT and SIGTERM stop, SIGHUP reloads, SIGUSR1 writes what it is doing to the log, SIGQUIT ends it at once (containers
go on). Others that would end a process by default are logged and change nothing. SIGPIPE and SIGXFSZ are ignored by
the interpreter: they come back as errors of system calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from types import FrameType

_log = logging.getLogger(__name__)
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_UNEXPECTED = (
    *(signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR, signal.SIGXCPU),
    *(signal.SIGSTKFLT, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)),
)
_HANDLED = {*_STOPPING, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT, *_UNEXPECTED}


class Signals:
    """Make it inside the running loop; ``describe`` gives the lines for SIGUSR1 about what is not in the process."""

    def __init__(self, describe: Callable[[], Iterable[str]]) -> None:
        self.stopping = asyncio.Event()
        self._reloading = asyncio.Event()
        self._describe = describe
        loop = asyncio.get_running_loop()
        for number in _STOPPING:
            loop.add_signal_handler(number, self.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloading.set)
        loop.add_signal_handler(signal.SIGUSR1, self._dump)
        loop.add_signal_handler(signal.SIGQUIT, _quit)
        for number in _UNEXPECTED:
            loop.add_signal_handler(number, _ignore, number)
        # A program that was executed in place of another one of ours begins with them blocked: see ``block``.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    async def wants_reload(self) -> bool:
        """Wait for what comes next: true to reload, false to stop."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.stopping, self._reloading)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not self.stopping.is_set()

    def reload_is_over(self) -> None:
        """Hear of the next SIGHUP; those that came meanwhile are one with it."""
        self._reloading.clear()

    def block(self) -> None:
        """Until another program has been executed and hears them: unhandled, they would end the process."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        if self.stopping.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def _dump(self) -> None:
        _log.warning("SIGUSR1: what this supervisor is doing")
        for line in (*self._describe(), *_tasks(), *_threads()):
            _log.warning("%s", line)


def _ignore(number: int) -> None:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"SIGRTMIN+{number - signal.SIGRTMIN}"
    _log.warning("%s has no meaning here and is ignored", name)


def _quit() -> None:
    _log.error("SIGQUIT: ending at once; containers go on, the next supervisor takes them over")
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGQUIT)


def _tasks() -> Iterable[str]:
    """How many tasks of the loop wait where."""
    places: Counter[str] = Counter()
    for task in asyncio.all_tasks():
        stack = task.get_stack(limit=1)
        coroutine = task.get_coro()
        name = getattr(coroutine, "__qualname__", type(coroutine).__name__)
        places[f"{name}, {_place(stack[-1]) if stack else 'not begun'}"] += 1
    yield f"{places.total()} tasks"
    yield from (f"task: {count} times {place}" for place, count in places.most_common())


def _threads() -> Iterable[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for identity, frame in sys._current_frames().items():
        yield f"thread {names.get(identity, identity)}: {_place(frame)}"


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
