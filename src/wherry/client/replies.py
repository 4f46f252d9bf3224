"""The API's JSON as objects."""

from __future__ import annotations

from wherry import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


class Value:
    """Shows and compares by its slots."""

    __slots__: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Slot names and values, in the order of the class."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and type(other) is type(self) and other.as_dict() == self.as_dict()

    __hash__ = None  # type: ignore[assignment]


class _Started(Value):
    __slots__ = ("was_running",)


class StartedContainer(_Started):
    """A container whose command has been executed; ``pid`` is the host's.

    ``was_running``, which is no part of the value, is True when it did not have to be started.
    """

    __slots__ = ("name", "id", "pid")  # noqa: RUF023 (the order a reader expects)

    def __init__(self, name: str, id: str, pid: int, was_running: bool = False) -> None:  # noqa: A002
        self.name = name
        self.id = id
        self.pid = pid
        self.was_running = was_running


class StartedExec(Value):
    """A command that has been executed in the container ``name``; ``id`` is its own, ``pid`` the host's."""

    __slots__ = ("id", "name", "pid")

    def __init__(self, id: str, name: str, pid: int) -> None:  # noqa: A002
        self.id = id
        self.name = name
        self.pid = pid


class ProcessTable(Value):
    """What ``ps`` lists: the titles of its columns, and rows of as many cells."""

    __slots__ = ("titles", "rows")  # noqa: RUF023 (the order a reader expects)

    def __init__(self, titles: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        self.titles = tuple(map(str, titles))
        self.rows = tuple(tuple(map(str, row)) for row in rows)


class RunResult(Value):
    """How a container or an exec ended, and what it wrote (empty when ``on_output`` took it).

    ``exit_code`` is 128+N after signal N, as in a shell; ``reason`` is "exited", "stopped", "signaled",
    "hard_limit", "oom", "lost", "timed_out" ... ``lost_bytes`` is how much of its output is missing, at least: 0,
    unless its log gives way (non-blocking mode) or was tampered with or removed before it had been read.
    """

    __slots__ = ("exit_code", "reason", "signal", "error", "stdout", "stderr", "lost_bytes")  # noqa: RUF023

    def __init__(
        self,
        exit_code: int,
        reason: str,
        signal: int | None,
        error: str,
        stdout: bytes = b"",
        stderr: bytes = b"",
        lost_bytes: int = 0,
    ) -> None:
        self.exit_code = exit_code
        self.reason = reason
        self.signal = signal
        self.error = error
        self.stdout = stdout
        self.stderr = stderr
        self.lost_bytes = lost_bytes


class Container(Value):
    """One line of ``ps``.

    ``state`` is "created", "running", "paused", "restarting" or "exited"; ``reason`` says why it ended ("" before).
    ``pid`` is the host's, None when not running. ``being_killed`` says that SIGKILL has been sent and the end not been
    seen.
    ``created``, ``started`` and ``finished`` are RFC 3339 in UTC, None for never. Sizes are bytes, None where there is
    no limit or nobody measured. ``log_error`` is why the log cannot be written at the moment, None when it can. The
    slots are the keys of ``engine ps --format json``, which stay.
    """

    __slots__ = (  # noqa: RUF023
        "name",
        "id",
        "state",
        "being_killed",
        "reason",
        "exit_code",
        "signal",
        "error",
        "pid",
        "created",
        "started",
        "finished",
        "soft_bytes",
        "hard_bytes",
        "nice",
        "rootfs",
        "command",
        "log_path",
        "log_error",
        "peak_memory_bytes",
        "peak_pids",
    )

    def __init__(self, entry: Mapping[str, Any]) -> None:
        """``entry`` is one of ``GET /containers/json``; KeyError and TypeError say that it is not."""
        ours = entry["Wherry"]
        self.name: str = ours["Name"]
        self.id: str = entry["Id"]
        self.state: str = ours["State"]
        self.being_killed: bool = ours.get("BeingKilled", False)
        self.reason: str = ours["Reason"]
        self.exit_code: int | None = ours["ExitCode"]
        self.signal: int | None = ours["Signal"]
        self.error: str = ours["Error"]
        self.pid: int | None = ours["Pid"] or None
        self.created: str = ours["Created"]
        self.started: str | None = ours["Started"] or None
        self.finished: str | None = ours["Finished"] or None
        self.soft_bytes: int | None = ours["SoftLimit"]
        self.hard_bytes: int | None = ours["HardLimit"]
        self.nice: int = ours["Nice"]
        self.rootfs: str = ours["Rootfs"]
        self.command: tuple[str, ...] = tuple(ours["Command"])
        self.log_path: str = ours["LogPath"]
        self.log_error: str | None = ours["LogError"] or None
        self.peak_memory_bytes: int | None = ours["PeakMemory"]
        self.peak_pids: int | None = ours["PeakPids"]


class _MakesSense:
    """Turns what goes wrong when a reply is not what it should be into InternalError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, failure: BaseException | None, _trace: object) -> None:
        if isinstance(failure, (LookupError, TypeError, ValueError, AttributeError, OverflowError, OSError)):
            raise errors.InternalError(f"the supervisor's reply makes no sense: {failure!r}") from failure


MAKES_SENSE = _MakesSense()


def started_container(fields: Mapping[str, Any]) -> StartedContainer:
    """From the reply of ``run?stream=0`` or ``start``, or a "started" status frame."""
    return StartedContainer(fields["Name"], fields["Id"], fields["Pid"], bool(fields.get("WasRunning")))


def status_from(fields: Any) -> StartedContainer | RunResult | None:
    """What a status frame says; None for an event that a newer supervisor may know.

    A container whose exit nobody saw (reason "lost") has exit code 255, as docker has it. Raises InternalError.
    """
    with MAKES_SENSE:
        if fields["Event"] == "started":
            return started_container(fields)
        if fields["Event"] != "exited":
            return None
        signal = fields["Signal"] or None
        code = 128 + signal if signal else fields["ExitCode"]
        return RunResult(
            255 if code is None else int(code),
            fields["Reason"],
            signal,
            fields["Error"],
            lost_bytes=int(fields.get("LostBytes", 0)),
        )


def json_object(reply: Any) -> dict[str, Any]:
    """Raises InternalError for a reply of another kind."""
    if not isinstance(reply, dict):
        raise errors.InternalError(f"the supervisor's reply is no JSON object: {str(reply)[:60]}")
    return reply
