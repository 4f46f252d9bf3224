"""Wherry: isolated processes that start fast, and the truth about why they ended.

    from wherry import Client

    result = Client().run("job", "/srv/rootfs", ["/bin/sh", "-c", "echo hello; exit 3"], hard_mib=64)
    print(result.exit_code, result.stdout)          # 3 b'hello\\n'

Names are loaded when they are first used (PEP 562): every part of the engine, the shim and the command line included,
imports this file, and they must not pay for the client.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.client import Client, Container, LogStream, ProcessTable, RunResult, StartedContainer
    from wherry.client.events import Event, EventStream
    from wherry.errors import (
        CommandNotFound,
        Conflict,
        InternalError,
        InvalidRequest,
        NameInUse,
        NotExecutable,
        NotFound,
        NotKilled,
        NotSupported,
        RootfsInUse,
        StartFailed,
        Unavailable,
        WaitTimeout,
        WherryError,
    )

__all__ = [
    "Client",
    "CommandNotFound",
    "Conflict",
    "Container",
    "Event",
    "EventStream",
    "InternalError",
    "InvalidRequest",
    "LogStream",
    "NameInUse",
    "NotExecutable",
    "NotFound",
    "NotKilled",
    "NotSupported",
    "ProcessTable",
    "RootfsInUse",
    "RunResult",
    "StartFailed",
    "StartedContainer",
    "Unavailable",
    "WaitTimeout",
    "WherryError",
    "__version__",
]

_FROM_EVENTS = {"Event", "EventStream"}
_FROM_CLIENT = {"Client", "Container", "LogStream", "ProcessTable", "RunResult", "StartedContainer"}

# A type checker that saw __getattr__ would believe in every name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'wherry' has no attribute {name!r}")
        if name in _FROM_CLIENT:
            from wherry import client as home  # noqa: PLC0415
        elif name in _FROM_EVENTS:
            from wherry.client import events as home  # noqa: PLC0415
        else:
            from wherry import errors as home  # noqa: PLC0415
        value = globals()[name] = getattr(home, name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
