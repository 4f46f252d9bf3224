"""What ``Client`` does about commands in containers that run."""

from __future__ import annotations

from wherry.client import arguments
from wherry.client.replies import MAKES_SENSE, StartedExec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from wherry.client.arguments import Check
    from wherry.client.config import StrPath
    from wherry.client.feeding import Input
    from wherry.client.replies import RunResult
    from wherry.client.transport import Transport


def _directory(argument: str, value: Any) -> str:
    return arguments.text(argument, arguments.path(argument, value))


OPTIONS: dict[str, tuple[str, Check]] = {
    "env": ("Env", arguments.env),
    "working_dir": ("WorkingDir", _directory),
    "user": ("User", arguments.text),
    "privileged": ("Privileged", arguments.flag),
    "timeout": ("Timeout", arguments.nanoseconds),
}
"""Of each keyword its key in the request, and what checks a value and returns it as it is sent."""


def body_of(function: str, command: Sequence[StrPath], options: Mapping[str, Any]) -> dict[str, Any]:
    """Raises InvalidRequest, and TypeError for an unknown keyword."""
    arguments.keywords(function, options, OPTIONS)
    body: dict[str, Any] = {"Cmd": arguments.command("command", command)}
    for name, given in options.items():
        if given is not None:
            key, check = OPTIONS[name]
            body[key] = check(name, given)
    if "Timeout" in body:
        body["Wherry"] = {"Timeout": body.pop("Timeout")}
    return body


def run(
    client: Transport,
    name: str,
    body: dict[str, Any],
    on_output: Callable[[int, bytes], object] | None,
    given: Input | None,
) -> RunResult:
    """``Client.exec``."""
    if given is not None:
        body = {**body, "AttachStdin": True}
    response = client._conversation("/wherry/exec", {"name": name, "stream": "1"}, body, given)
    return client._collected(response, "command", on_output)


def start(client: Transport, name: str, body: dict[str, Any]) -> StartedExec:
    """``Client.start_exec``."""
    reply = client._fetch("POST", "/wherry/exec", {"name": name}, body, patient=True)
    with MAKES_SENSE:
        return StartedExec(reply["Id"], reply["Name"], reply["Pid"])
