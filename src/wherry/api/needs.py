"""What the API needs of the supervisor; ``wherry.supervisor.engine.Engine`` is the one that runs."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from wherry.supervisor.containers.process_list import ProcessList
from wherry.supervisor.containers.record import End, EngineInfo, Record
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.containers.usage import Resident, Usage

if TYPE_CHECKING:
    from wherry.logs import Log
    from wherry.supervisor.containers.execution import ExecRequest
    from wherry.supervisor.containers.stdin import Stdin
    from wherry.supervisor.disk import Disk
    from wherry.supervisor.events import Events
    from wherry.supervisor.lifecycle.execing import Execution


class Engine(Protocol):
    """The containers of one supervisor; all raise ``wherry.errors``.

    ``ref`` is a name, an id or a unique prefix of an id.
    """

    pids_limit: int | None
    """Of containers that are created without one; None is no limit."""

    userns: str
    """Likewise, as ``CreateRequest.userns``."""

    async def create(self, name: str | None, request: CreateRequest) -> Record: ...

    async def start(self, ref: str) -> Record | None:
        """A copy of the record, as ``run`` gives; None when it was running already."""

    async def run(
        self, name: str | None, request: CreateRequest, *, hold: bool = False, replace: bool = False
    ) -> Record:
        """Create and start as one; a failure leaves nothing.

        Returns a copy of the record as it was when the command had been executed: ``pid`` is set, however short the
        container lived. With ``hold`` an ``auto_remove`` container that ends keeps its record and its log until
        ``release``: one that ends at once would otherwise be gone before the caller could open its log. With
        ``replace`` a container that has the name is stopped and removed before.
        """

    async def release(self, ref: str) -> None:
        """End the hold of ``run``; returns after the removal that waited for it.

        No error when there is no hold, or no such container any more.
        """

    async def stop(self, ref: str, seconds: float | None = None, signal: int | None = None) -> bool:
        """False when it was not running. ``seconds`` None is the container's own, negative is for ever; ``signal`` None
        is the container's own too.
        """

    async def kill(self, ref: str, signal: int) -> None: ...

    async def restart(self, ref: str, seconds: float | None = None, signal: int | None = None) -> Record:
        """As ``stop`` and ``start``; one that does not run is started."""

    async def pause(self, ref: str) -> None: ...

    async def unpause(self, ref: str) -> None: ...

    async def rename(self, ref: str, name: str) -> None:
        """``name`` has been checked."""

    async def processes(self, ref: str, options: str) -> ProcessList:
        """``options`` are those of ps."""

    async def update(self, ref: str, changes: Mapping[str, Any]) -> None:
        """``changes``: fields of its CreateRequest."""

    async def wait(self, ref: str, condition: str) -> End:
        """``condition``: "not-running", "next-exit" or "removed". Registers before its first await.

        Knows for a while how containers ended that have been removed.
        """

    async def remove(self, ref: str, force: bool) -> None: ...

    def create_exec(self, ref: str, request: ExecRequest) -> Execution: ...

    def find_exec(self, ref: str) -> Execution: ...

    def check_exec(self, execution: Execution) -> None:
        """Raises Conflict when it cannot be started."""

    async def start_exec(self, execution: Execution, *, attached: bool) -> None:
        """Returns when its command has been executed. Not ``attached``, its output is lost."""

    def leave_exec(self, execution: Execution) -> None:
        """Nobody reads its output any more; input that nobody has begun to send ends."""

    def get(self, ref: str) -> Record: ...

    def list(self) -> builtins.list[Record]:
        """Newest first."""

    def log(self, ref: str) -> Log: ...

    def stdin(self, ref: str) -> Stdin | None:
        """Of one that runs, and that was made with a standard input."""

    async def usages(self, refs: Sequence[str]) -> dict[str, Usage]:
        """Of those that run; read in a thread, as it takes some 200 us each."""

    def resident(self, ref: str) -> Resident | None:
        """What its memory enforcer counts; None without one."""

    def info(self) -> EngineInfo: ...

    def events(self) -> Events: ...

    def disk(self) -> Disk: ...
