"""What ``prune`` gives back."""

from __future__ import annotations

from wherry.wire.replies import Value

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


def prune_result(replies: Sequence[Any]) -> PruneResult:
    """Of the replies to one or both of docker's prune calls."""
    containers = [str(each) for reply in replies for each in reply.get("ContainersDeleted") or ()]
    archives = [str(each["Deleted"]) for reply in replies for each in reply.get("ImagesDeleted") or ()]
    return PruneResult(containers, archives, sum(int(reply["SpaceReclaimed"]) for reply in replies))
