"""A start in the place of another container that has the name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping

from wherry.errors import InvalidRequest, NotFound, WherryError
from wherry.storage.rootfs import RootfsStore
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.request import CreateRequest


async def make_way(
    name: str | None,
    request: CreateRequest,
    names: Mapping[str, Container],
    store: RootfsStore,
    stop: Callable[[str], Awaitable[object]],
    discard: Callable[[Container], None],
) -> bool:
    """Stop and remove who has the name of ``request``; False when nobody has.

    When this returns, the loop has not had a turn since the removal: nobody else can have taken the name. Raises
    InvalidRequest, Conflict and StartFailed for a root file system that cannot be used; the old one runs on then.
    """
    if not name:
        raise InvalidRequest("to replace a container its name must be given")
    if name not in names:
        return False
    # What cannot be started must not cost the old one.
    await asyncio.to_thread(store.resolve, request.rootfs)
    while (old := names.get(name)) is not None:
        with contextlib.suppress(NotFound):  # it has removed itself
            await stop(old.record.id)
        async with old.lock:
            if names.get(name) is old and not old.running:
                discard(old)
    return True


@contextlib.contextmanager
def told(replaced: bool) -> Iterator[None]:
    """An error of the start says what has become of the container that was ``replaced``."""
    try:
        yield
    except WherryError as error:
        if not replaced:
            raise
        raise type(error)(f"{error}; the container that had the name was stopped and removed before") from error
