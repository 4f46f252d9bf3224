"""Docker's exec configuration, as ``POST /containers/X/exec`` sends it, and what ``GET /exec/ID/json`` shows."""

from __future__ import annotations

from typing import Any

import msgspec

from wherry.errors import InvalidRequest, NotSupported, quoted
from wherry.supervisor.containers.execution import ExecRecord, ExecRequest

_TERMINAL = "terminals (Tty, -t) are not supported yet"
_IGNORED = frozenset({"DetachKeys", "ConsoleSize", "Detach", "Container", "ExecID"})
"""What means something for a terminal only, and what old clients repeat."""


class _Ours(msgspec.Struct, rename="pascal", kw_only=True):
    timeout: int | None = None
    """Nanoseconds, as docker's durations."""


class _Config(msgspec.Struct, rename="pascal", kw_only=True):
    cmd: list[str] | None = None
    env: list[str] | None = None
    working_dir: str | None = None
    user: str | None = None
    privileged: bool | None = None
    attach_stdin: bool | None = None
    attach_stdout: bool | None = None
    attach_stderr: bool | None = None
    tty: bool | None = None
    wherry: _Ours | None = None


_KNOWN = frozenset({field.encode_name for field in msgspec.structs.fields(_Config)}) | _IGNORED


def exec_request(body: Any, *, attached: bool | None = None) -> ExecRequest:
    """``attached`` takes the place of what the body says of the output.

    Raises:
        InvalidRequest: a value of the wrong type, or no command.
        NotSupported: a terminal, or a field that is not understood.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("invalid exec config: expected a JSON object")
    unknown = [name for name, value in body.items() if name not in _KNOWN and value not in (None, False, "", [], {}, 0)]
    if unknown:
        raise NotSupported(f"not supported: {', '.join(map(quoted, unknown[:10]))}")
    try:
        config = msgspec.convert(body, _Config)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"invalid exec config: {error}") from None
    if config.tty:
        raise NotSupported(_TERMINAL)
    if not config.cmd:
        raise InvalidRequest("No exec command specified")
    ours = config.wherry or _Ours()
    return ExecRequest(
        command=tuple(config.cmd),
        env=tuple(config.env or ()),
        working_dir=config.working_dir or "",
        user=config.user or "",
        privileged=bool(config.privileged),
        stdout=bool(config.attach_stdout) if attached is None else attached,
        stderr=bool(config.attach_stderr) if attached is None else attached,
        stdin=bool(config.attach_stdin),
        timeout_seconds=None if ours.timeout is None else ours.timeout / 1e9,
    )


def wants_detach(body: Any) -> bool:
    """Of ``POST /exec/ID/start``. Raises InvalidRequest, NotSupported."""
    if not isinstance(body, dict):
        raise InvalidRequest("invalid exec start config: expected a JSON object")
    for name in ("Detach", "Tty"):
        if not isinstance(body.get(name, False), bool):
            raise InvalidRequest(f"invalid exec start config: {name} is not a boolean")
    if body.get("Tty"):
        raise NotSupported(_TERMINAL)
    return bool(body.get("Detach"))


def details(record: ExecRecord) -> dict[str, Any]:
    request = record.request
    return {
        "ID": record.id,
        "Running": record.is_running,
        "ExitCode": record.exit_code,
        "ProcessConfig": {
            "tty": False,
            "entrypoint": request.command[0],
            "arguments": list(request.command[1:]),
            "privileged": request.privileged,
            "user": request.user,
        },
        "OpenStdin": request.stdin,
        "OpenStderr": request.stderr,
        "OpenStdout": request.stdout,
        "CanRemove": False,
        "ContainerID": record.container_id,
        "DetachKeys": "",
        "Pid": record.pid,
        "Wherry": {"Reason": record.reason, "Signal": record.signal, "Error": record.error},
    }


def ending(record: ExecRecord) -> dict[str, Any]:
    """The last frame of ``POST /wherry/exec``: as that of a container."""
    return {
        "Event": "exited",
        "ExitCode": record.exit_code,
        "Reason": record.reason,
        "Signal": record.signal,
        "Error": record.error,
        "LostBytes": 0,
    }
