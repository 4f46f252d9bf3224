"""SIGINT and SIGTERM while ``engine run`` waits.

The first asks the supervisor to stop the container, the second to kill it, the third leaves it behind. The signals
are blocked and a thread waits for them with sigwait(3): no handler interrupts the thread that passes output on, and
output goes on while the container is being stopped. Each request has a connection of its own, because Client gives it
one.
"""

from __future__ import annotations

# The C halves of signal and threading, which are there already; the Python halves cost 6 ms before every start.
import _signal  # type: ignore[import-not-found]
import _thread
import os
import sys

from wherry import errors
from wherry.cli import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.client import Client, StartedContainer


class Interrupts:
    """While the context is open, signals mean the container given to ``aim_at``; before that they are remembered."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = _thread.allocate_lock()
        self._target: StartedContainer | None = None
        self._received = 0
        # An ignored signal stays ignored (a background job of a script): blocking would make sigwait() see it.
        watched = {_signal.SIGINT, _signal.SIGTERM}
        self._signals = {number for number in watched if _signal.getsignal(number) != _signal.SIG_IGN}

    def __enter__(self) -> Interrupts:
        if self._signals:
            self._mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, self._signals)
            self._watcher = _thread.start_new_thread(self._watch, ())
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._target = None
            self._received = -1
        if self._signals:
            # Any signal it waits for ends the watcher now; one sent to a thread reaches no other.
            _signal.pthread_kill(self._watcher, next(iter(self._signals)))
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)

    def aim_at(self, started: StartedContainer) -> None:
        with self._lock:
            self._target = started
            pending = self._received
        if pending:
            self._ask(started, pending)

    def _watch(self) -> None:
        while True:
            number = _signal.sigwait(self._signals)
            with self._lock:
                if self._received < 0:
                    return
                self._received += 1
                target, received = self._target, self._received
            if received > 2:
                _leave(target, number)
            if target:
                self._ask(target, received)

    def _ask(self, target: StartedContainer, received: int) -> None:
        _thread.start_new_thread(self._request, (target, received))

    def _request(self, target: StartedContainer, received: int) -> None:
        try:
            if received > 1:
                self._client.kill(target.id)
            else:
                self._client.stop(target.id)
        except (errors.NotFound, errors.Conflict):
            return  # it has ended meanwhile
        except errors.WherryError as error:
            if self._received >= 0:  # else run has seen the end and closes the client under this request
                terminal.complain(f"cannot stop {target.name}: {error}")


def _leave(target: StartedContainer | None, number: int) -> None:
    what = target.name if target else "the container"
    terminal.complain(f"interrupted three times: {what} may still be running (see engine ps)")
    sys.stdout.flush()
    os._exit(128 + number)
