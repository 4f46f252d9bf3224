"""What ``Client`` can ask about disk space."""

from __future__ import annotations

from wherry.client import queries
from wherry.client.replies import MAKES_SENSE, Value, json_object
from wherry.client.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class PruneResult(Value):
    """Ids of the containers and digests of the unpacked archives that are gone, and how many bytes they took."""

    __slots__ = ("containers", "archives", "bytes")  # noqa: RUF023

    def __init__(self, containers: list[str], archives: list[str], size: int) -> None:
        self.containers = containers
        self.archives = archives
        self.bytes = size


class DiskCalls(Transport):
    """Methods of ``Client``."""

    def prune(
        self,
        *,
        containers: bool = True,
        rootfs: bool = True,
        until_ns: int | None = None,
        labels: Sequence[str] = (),
    ) -> PruneResult:
        """Remove containers that do not run, and unpacked archives that no container uses then.

        ``until_ns``: only what was created, or last used, before that time; ``labels`` ("KEY" or "KEY=VALUE"): only
        containers that have all of them, and no archives, which have none. Raises InvalidRequest.
        """
        query = queries.prune(until_ns, labels)
        flags = {"containers": containers, "rootfs": rootfs}
        wanted = {name for name, value in flags.items() if queries.boolean(name, value) == "1"}
        paths = {"containers": "/containers/prune", "rootfs": "/images/prune"}
        replies = [self._fetch("POST", path, query, patient=True) for name, path in paths.items() if name in wanted]
        with MAKES_SENSE:
            return _result(replies)

    def df(self) -> dict[str, Any]:
        """What the state directory's disk is used for, as Docker's system df with our ``Wherry`` object."""
        return json_object(self._fetch("GET", "/system/df", patient=True))


def _result(replies: Sequence[Any]) -> PruneResult:
    containers = [str(each) for reply in replies for each in reply.get("ContainersDeleted") or ()]
    archives = [str(each["Deleted"]) for reply in replies for each in reply.get("ImagesDeleted") or ()]
    return PruneResult(containers, archives, sum(int(reply["SpaceReclaimed"]) for reply in replies))
