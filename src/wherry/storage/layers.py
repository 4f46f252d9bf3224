"""Writable layers: the upper and work directories of containers' overlays, and the detached mounts of their roots."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wherry.errors import InvalidRequest, StartFailed
from wherry.kernel import id_maps, mounts
from wherry.kernel.id_maps import IdMap
from wherry.kernel.libc import describe, describe_errno
from wherry.storage import trees
from wherry.storage.mapped_overlays import MappedOverlays

_log = logging.getLogger(__name__)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_OPENED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Mapping(NamedTuple):
    """Ids, and a descriptor of a user namespace that has them."""

    id_map: IdMap
    namespace: int


class Layers:
    """Keeps ``<directory>/<layer>/{upper,work}``. The parent is mode 0700: a layer may hold set-user-ID files of an
    image.

    Mounting an overlay costs as much as a third of a start, so some layers over the directory last used are mounted
    ahead (``spare_count``). Until it is used nobody has looked anything up in such a mount: it shows the directory as
    it is then.

    With a ``Mapping`` a root shows files with its ids for those on disk, in the directory and in the layer alike: on
    disk a layer is the same whatever ids its container has from run to run.
    """

    def __init__(self, directory: Path, spare_count: int) -> None:
        self._directory = directory
        self._spare_count = spare_count
        self._spares: deque[tuple[str, int, IdMap | None]] = deque()
        self._retired: list[tuple[str, int]] = []
        self._lower: tuple[int, ...] = ()
        self._lower_descriptor = -1
        self._mapped_overlays = MappedOverlays()

    def mount(self, layer: str, rootfs: int, mapping: Mapping | None = None) -> tuple[str, int]:
        """A detached overlay over the directory that ``rootfs`` is open on: (layer, descriptor). Raises StartFailed.

        ``layer`` is one made earlier, or "" for a new one.
        """
        status = os.fstat(rootfs)
        if layer:
            return layer, self._mount(layer, rootfs, status, mapping)
        if self._lower == _identity(status) and (spare := self._take_spare(mapping)):
            return spare
        if self._lower != _identity(status):
            self._retire()
            self._lower, self._lower_descriptor = _identity(status), os.dup(rootfs)
        layer = secrets.token_hex(16)
        try:
            return layer, self._mount(layer, rootfs, status, mapping)
        except BaseException:
            self.remove(layer)
            raise

    def _take_spare(self, mapping: Mapping | None) -> tuple[str, int] | None:
        for spare in self._spares:
            layer, root, id_map = spare
            if id_map == _ids(mapping):
                self._spares.remove(spare)
                return layer, root
        return None

    async def refill(self, wanted: Sequence[Mapping | None] | None = None) -> None:
        """Mount one more layer ahead over the directory last used, if one of these is missing, and let go of what is
        none of them; in a thread. By default ``spare_count`` are wanted that are not mapped.
        """
        missing = self._compare([None] * self._spare_count if wanted is None else wanted)
        if not missing or self._lower_descriptor < 0:
            return
        identity, rootfs, mapping = self._lower, os.dup(self._lower_descriptor), missing[0]
        layer = secrets.token_hex(16)
        try:
            root = await asyncio.to_thread(self._mount, layer, rootfs, os.fstat(rootfs), mapping)
        except (StartFailed, OSError) as error:
            _log.warning("cannot prepare a layer ahead: %s", error)
            await asyncio.to_thread(self.remove, layer)
            return
        finally:
            os.close(rootfs)
        if self._lower == identity:
            self._spares.append((layer, root, _ids(mapping)))
        else:
            self._retired.append((layer, root))

    def _compare(self, wanted: Sequence[Mapping | None]) -> list[Mapping | None]:
        """Those of which there is no spare; spares beyond ``wanted`` are retired."""
        missing = list(wanted)
        for spare in list(self._spares):
            layer, root, id_map = spare
            place = next((place for place, each in enumerate(missing) if _ids(each) == id_map), -1)
            if place < 0:
                self._spares.remove(spare)
                self._retired.append((layer, root))
            else:
                del missing[place]
        return missing

    def _retire(self) -> None:
        """No more spares over the directory last used; ``drop_retired`` deletes those there are."""
        self._retired += [(layer, root) for layer, root, _ in self._spares]
        self._spares.clear()
        if self._lower_descriptor >= 0:
            os.close(self._lower_descriptor)
        self._lower, self._lower_descriptor = (), -1

    def stop_sparing(self, rootfs: int) -> None:
        """Somebody is about to write to this directory itself: nothing mounted ahead may lie over it."""
        if self._lower == _identity(os.fstat(rootfs)):
            self._retire()

    @property
    def has_retired(self) -> bool:
        return bool(self._retired)

    def drop_retired(self) -> None:
        """Unmount and delete; blocking: unmounting an overlay syncs the file system under it."""
        while self._retired:
            layer, root = self._retired.pop()
            os.close(root)
            self.remove(layer)

    def close(self) -> None:
        """Blocking."""
        self._retire()
        self.drop_retired()
        self._mapped_overlays.close()

    def _mount(self, layer: str, rootfs: int, lower: os.stat_result, mapping: Mapping | None = None) -> int:
        try:
            upper, work = self._open(layer, lower)
        except OSError as error:
            raise StartFailed(f"make writable layer: {describe(error)}") from error
        try:
            if mapping is not None:
                return self._mount_mapped(layer, rootfs, mapping)
            return mounts.overlay_of(rootfs, upper, work)
        except OSError as error:
            raise StartFailed(f"mount overlay: {describe(error)}: {error.strerror}") from error
        finally:
            os.close(upper)
            os.close(work)

    def _mount_mapped(self, layer: str, rootfs: int, mapping: Mapping) -> int:
        owner = _owner(mapping.id_map)
        with contextlib.ExitStack() as used:
            lower = mounts.clone_tree("", rootfs)
            used.callback(os.close, lower)
            _map(lower, mapping.namespace, "rootfs")
            base = mounts.clone_tree(str(self._directory / layer))
            used.callback(os.close, base)
            _map(base, mapping.namespace, "state directory")
            return self._mapped_overlays.mount(lower, base, *owner)

    def _open(self, layer: str, lower: os.stat_result) -> tuple[int, int]:
        path = self._directory / layer
        is_new = False
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            is_new = True
        base = os.open(path, _OPENED)
        try:
            if is_new:
                os.mkdir("work", 0o700, dir_fd=base)
                os.mkdir("upper", 0o755, dir_fd=base)
            upper = os.open("upper", _OPENED, dir_fd=base)
            try:
                # The root directory of an overlay shows the attributes of the upper one.
                os.fchown(upper, lower.st_uid, lower.st_gid)
                os.fchmod(upper, lower.st_mode & 0o7777)
                return upper, os.open("work", _OPENED, dir_fd=base)
            except BaseException:
                os.close(upper)
                raise
        finally:
            os.close(base)

    def remove(self, layer: str) -> None:
        """Delete a layer; blocking. No error when there is none.

        What cannot be deleted is logged, and tried again at the next start of the supervisor.
        """
        if not layer:
            return
        parent = os.open(self._directory, _OPENED)
        try:
            trees.remove(parent, layer)
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.error("cannot delete layer %s: %s", self._directory / layer, describe(error))
        finally:
            os.close(parent)

    def known(self) -> set[str]:
        """All layers in the directory."""
        return {entry.name for entry in os.scandir(self._directory)}


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What must be unchanged for a layer mounted ahead to be what a mount of now would be."""
    return (status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid)


def _ids(mapping: Mapping | None) -> IdMap | None:
    return None if mapping is None else mapping.id_map


def _owner(id_map: IdMap) -> tuple[int, int]:
    uid, gid = id_maps.outside(id_map.uids, 0), id_maps.outside(id_map.gids, 0)
    if uid is None or gid is None:
        raise ValueError(f"no root in {id_map}")  # plan has refused it
    return uid, gid


def _map(tree: int, namespace: int, what: str) -> None:
    try:
        id_maps.map_mount(tree, namespace)
    except OSError as error:
        reason = describe_errno(error.errno or 0)
        if error.errno == errno.EINVAL:
            reason = "its file system does not support ID-mapped mounts"
        raise StartFailed(f"the {what} cannot be shown with the ids of a user namespace: {reason}") from error


def clone_writable(rootfs: int, mapping: Mapping | None = None) -> int:
    """For ``--rw-rootfs``: a detached copy of the mount at an open directory, without what is mounted below it.

    Raises StartFailed.
    """
    with contextlib.ExitStack() as undo:
        try:
            tree = mounts.clone_tree("", rootfs)
            undo.callback(os.close, tree)
            mounts.set_attributes(tree, mounts.ROOT_ATTRIBUTES)
        except OSError as error:
            raise StartFailed(f"bind rootfs: {describe(error)}") from error
        if mapping is not None:
            _map(tree, mapping.namespace, "rootfs")
        undo.pop_all()
    return tree


def open_rootfs(path: str) -> int:
    """Raises InvalidRequest."""
    try:
        return os.open(path, _DIRECTORY)
    except OSError as error:
        raise InvalidRequest(f"rootfs {path!r}: {describe_errno(error.errno or 0)}") from None
