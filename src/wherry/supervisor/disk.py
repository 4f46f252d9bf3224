"""What the state directory's file system is used for: how much it is, and what can go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wherry.errors import Conflict, NotFound
from wherry.storage import trees
from wherry.storage.catalogue import Unpacked
from wherry.storage.rootfs import RootfsStore
from wherry.storage.tar.budget import Space
from wherry.supervisor.containers import states
from wherry.supervisor.containers.container import Container
from wherry.supervisor.containers.record import Record
from wherry.supervisor.state_directory import StateDirectory

_log = logging.getLogger(__name__)

# As wherry.logs.segments names them. The greedy beginning finds the last ".log": names may have one of their own.
_LOG_FILE = re.compile(r"(.+)\.log(?:\.new|\.[0-9]+)?(?:\.idx(?:\.damaged)?)?")


class ContainerUsage(NamedTuple):
    """Bytes on the disk of one container's writable layer, and of its log with older files and indices."""

    record: Record
    layer: int
    log: int


class DiskUsage(NamedTuple):
    """``archives`` are the unpacked ones; ``space`` is the file system's."""

    archives: Sequence[Unpacked]
    containers: Sequence[ContainerUsage]
    space: Space


class Pruned(NamedTuple):
    """The ids of containers that were removed, and how many bytes their layers and logs took."""

    ids: Sequence[str]
    bytes: int


class Disk:
    """Belongs to the loop; what takes long is done in threads."""

    def __init__(
        self,
        state: StateDirectory,
        store: RootfsStore,
        containers: Mapping[str, Container],
        remove: Callable[[str], Awaitable[None]],
    ) -> None:
        """``containers`` is the engine's table; ``remove`` takes one that does not run away, by id."""
        self._state = state
        self._store = store
        self._containers = containers
        self._remove = remove
        self._measuring = asyncio.Lock()
        self._unknown: set[str] = set()

    async def keep_ready(self, rootfs: str) -> None:
        """Check a ROOTFS, unpack it if it is an archive, and keep that for as long as the supervisor lives.

        Raises InvalidRequest, StartFailed.
        """

        def keep() -> None:
            if os.path.isdir(rootfs):
                self._store.resolve(rootfs)
            else:
                self._store.take(rootfs)

        await asyncio.to_thread(keep)

    def hold_all(self) -> None:
        """Once the containers of an earlier supervisor are known: hold the archives that they use."""
        for container in self._containers.values():
            record = container.record
            if record.unpacked and not self._store.hold(record.unpacked):
                _log.warning("%s: the archive that it was started from is not unpacked any more", record.name)
        # Versions before did not note which archive a container uses: while there is such a container, all stay.
        self._unknown = {
            found.record.id
            for found in self._containers.values()
            if found.record.layer and not found.record.unpacked and not os.path.isdir(found.record.request.rootfs)
        }
        self._store.keeps_all = bool(self._unknown)

    def released(self, record: Record) -> bool:
        """A container is gone, with its mount: nothing of it uses its archive any more. True if there was one."""
        digest = states.took_archive(record, "")
        self._unknown.discard(record.id)
        self._store.keeps_all = bool(self._unknown)
        self._store.drop(digest)
        return bool(digest)

    async def trim(self) -> None:
        """Remove what is more than the cache of unpacked archives may take."""
        with contextlib.suppress(Conflict):  # shutting down: the next supervisor does
            await asyncio.to_thread(self._store.trim)

    async def clear_up(self, layers: Sequence[str], remove_layer: Callable[[str], None], logs: bool) -> None:
        """At the start: delete these layers and what else supervisors that were killed had no time to delete.

        ``logs`` says whether the log files of containers that nobody knows are among that.
        """

        def clear() -> None:
            self._store.remove_leftovers()
            for layer in layers:
                remove_layer(layer)

        if logs:
            names = {_log_name(container.record) for container in self._containers.values()}
            await asyncio.to_thread(_remove_logs_of_others, self._state.logs, names)
        with contextlib.suppress(Conflict):
            await asyncio.to_thread(clear)
            await self.trim()

    async def usage(self, *, archives: bool = True, containers: bool = True) -> DiskUsage:
        """Measured now, what is asked for, which takes a while: one at a time. Containers that are removed meanwhile
        are not among them. Raises Conflict when the supervisor is shutting down.
        """
        async with self._measuring:
            if archives:
                await asyncio.to_thread(self._store.measure)
            records = [container.record for container in self._containers.values() if containers]
            measured = await asyncio.to_thread(self._measure, records)
            there = [each for each in measured if each.record.id in self._containers]
            return DiskUsage(self._store.archives(), there, self._store.space())

    def space(self) -> Space:
        """Free space, and what is reserved of it."""
        return self._store.space()

    def archives(self) -> Sequence[Unpacked]:
        """What is unpacked, as far as it has been measured."""
        return self._store.archives()

    @property
    def cache_limit(self) -> int:
        """The most bytes that archives which no container uses may take."""
        return self._store.limits.cache

    async def prune_containers(self, wanted: Callable[[Record], bool]) -> Pruned:
        """Remove the containers that do not run, are not being started, and are wanted gone."""
        ids, freed = [], 0
        for container in list(self._containers.values()):
            if not _is_idle(container) or not wanted(container.record):
                continue
            (usage,) = await asyncio.to_thread(self._measure, [container.record])
            if not _is_idle(container):  # started meanwhile
                continue
            with contextlib.suppress(NotFound, Conflict):
                await self._remove(container.record.id)
                ids.append(container.record.id)
                freed += usage.layer + usage.log
        return Pruned(ids, freed)

    async def prune_archives(self, before_ns: int | None) -> Sequence[Unpacked]:
        """Remove the unpacked archives that no container uses; with ``before_ns`` only those not used since then."""
        return await asyncio.to_thread(self._store.prune, before_ns)

    def _measure(self, records: Sequence[Record]) -> list[ContainerUsage]:
        logs = _sizes_of_logs(self._state.logs)
        parent = os.open(self._state.layers, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return [
                ContainerUsage(each, _layer_size(parent, each.layer), logs.get(_log_name(each), 0)) for each in records
            ]
        finally:
            os.close(parent)


def _is_idle(container: Container) -> bool:
    """Whether it neither runs nor is being started, and no client of ``run`` still reads its output."""
    return not (container.running or container.lock.locked() or container.held)


def _log_name(record: Record) -> str:
    """What its log is named after: the container's name, unless it was renamed."""
    return Path(record.log_path).name.removesuffix(".log")


def _layer_size(parent: int, layer: str) -> int:
    try:
        return trees.usage(parent, layer).bytes if layer else 0
    except OSError:  # just removed
        return 0


def _sizes_of_logs(directory: Path) -> dict[str, int]:
    """Bytes on the disk, by ``_log_name``."""
    sizes: dict[str, int] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            if match := _LOG_FILE.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    size = entry.stat(follow_symlinks=False).st_blocks * 512
                    sizes[match[1]] = sizes.get(match[1], 0) + size
    return sizes


def _remove_logs_of_others(directory: Path, names: set[str]) -> None:
    """Those of containers that were removed while their supervisor was being killed. Other files stay."""
    for name in os.listdir(directory):
        match = _LOG_FILE.fullmatch(name)
        if match and match[1] not in names:
            try:
                (directory / name).unlink()
            except OSError as error:
                _log.warning("cannot remove %s, of no container: %s", directory / name, error.strerror)
