"""What a client may ask to have executed in a container, and what is known of it then: an exec."""

from __future__ import annotations

import time

import msgspec

from wherry.errors import InvalidRequest, quoted
from wherry.runtime.exit_status import ExitStatus
from wherry.supervisor.containers.request import CreateRequest, check, check_timeout


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``env`` is put over the container's, a name without "=" taken out of it; ``working_dir`` and ``user`` are the
    container's own when empty; ``timeout_seconds`` ends all that it has started. Output that is not attached is lost;
    without ``stdin`` its input is /dev/null.
    """

    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    privileged: bool = False
    stdout: bool = True
    stderr: bool = True
    stdin: bool = False
    timeout_seconds: float | None = None


class ExecRecord(msgspec.Struct, kw_only=True):
    """``id`` is 64 hex digits; ``slot`` is the shim's name for its process, "" before the start and when the end is
    booked; ``group`` is a control group of its own, "" without a timeout, and ``deadline_ns`` the end of that, of
    CLOCK_MONOTONIC; ``exit_code`` is None before the end, and after it where nobody could collect it.
    """

    id: str
    container_id: str
    request: ExecRequest
    created_ns: int
    slot: str = ""
    pid: int = 0
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    error: str = ""
    group: str = ""
    deadline_ns: int = 0

    @property
    def is_begun(self) -> bool:
        """A start has been tried."""
        return bool(self.started_ns or self.finished_ns)

    @property
    def is_running(self) -> bool:
        return self.started_ns != 0 and self.finished_ns == 0

    def began(self, slot: str, group: str) -> None:
        """From here on its process is in the shim's slot ``slot``, or about to be."""
        self.slot, self.group, self.started_ns = slot, group, time.time_ns()
        if self.request.timeout_seconds is not None:
            self.deadline_ns = time.monotonic_ns() + round(self.request.timeout_seconds * 1e9)

    def runs_as(self, pid: int) -> None:
        self.pid = pid

    def could_not_begin(self, exit_code: int, error: str) -> None:
        self.slot = self.group = ""
        self.finished_ns, self.exit_code, self.error = time.time_ns(), exit_code, error

    def ended(self, status: ExitStatus | None) -> None:
        """None: nobody could collect it."""
        self.slot, self.finished_ns = "", time.time_ns()
        if status is not None:
            self.exit_code, self.signal = status.exit_code, status.signal
        else:
            self.error = "neither its process nor its exit status was found"

    def was_not_executed(self, error: str) -> None:
        """Found out after a take-over. The end of its process is to come."""
        self.error = error

    def times_out(self) -> None:
        """Whatever it has started is being killed."""
        self.timed_out = self.finished_ns == 0

    def group_removed(self) -> None:
        """Nothing that it has started lives any more."""
        self.group = ""

    @property
    def reason(self) -> str:
        """As of a container."""
        if self.finished_ns == 0:
            return ""
        if self.timed_out:
            return "timed_out"
        if self.exit_code is None:
            return "lost"
        return "exited" if self.signal is None else "signaled"


def merged(container: CreateRequest, request: ExecRequest) -> CreateRequest:
    """The container's request as if the exec's command were its own.

    Raises InvalidRequest for what no process can have.
    """
    check_timeout(request.timeout_seconds)
    changes = {
        "command": request.command,
        "env": _variables(container.env, request.env),
        "working_dir": request.working_dir or container.working_dir,
        "user": request.user or container.user,
    }
    return check(msgspec.structs.replace(container, **changes))


def _variables(container: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    values = {entry.partition("=")[0]: entry for entry in container}
    for entry in own:
        name, equals, _ = entry.partition("=")
        if not name:
            raise InvalidRequest(f"invalid environment variable: {quoted(entry)}")
        if equals:
            values[name] = entry
        else:
            values.pop(name, None)
    return tuple(values.values())
