"""Writable layers: the upper and work directories of containers' overlays, and the detached mounts of their roots."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections import deque
from pathlib import Path

from wherry.errors import InvalidRequest, StartFailed
from wherry.kernel import mounts
from wherry.kernel.libc import describe, describe_errno
from wherry.storage import trees

_log = logging.getLogger(__name__)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_OPENED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Layers:
    """Keeps ``<directory>/<layer>/{upper,work}``. The parent is mode 0700: a layer may hold set-user-ID files of an
    image.

    Mounting an overlay costs as much as a third of a start, so some layers over the directory last used are mounted
    ahead (``spare_count``). Until it is used nobody has looked anything up in such a mount: it shows the directory as
    it is then.
    """

    def __init__(self, directory: Path, spare_count: int) -> None:
        self._directory = directory
        self._spare_count = spare_count
        self._spares: deque[tuple[str, int]] = deque()
        self._retired: list[tuple[str, int]] = []
        self._lower: tuple[int, ...] = ()
        self._lower_descriptor = -1

    def mount(self, layer: str, rootfs: int) -> tuple[str, int]:
        """A detached overlay over the directory that ``rootfs`` is open on: (layer, descriptor). Raises StartFailed.

        ``layer`` is one made earlier, or "" for a new one.
        """
        status = os.fstat(rootfs)
        if layer:
            return layer, self._mount(layer, rootfs, status)
        if self._spares and self._lower == _identity(status):
            return self._spares.popleft()
        if self._lower != _identity(status):
            self._retire()
            self._lower, self._lower_descriptor = _identity(status), os.dup(rootfs)
        layer = secrets.token_hex(16)
        try:
            return layer, self._mount(layer, rootfs, status)
        except BaseException:
            self.remove(layer)
            raise

    async def refill(self) -> None:
        """Mount one more layer ahead over the directory last used, if there are fewer than wanted; in a thread."""
        if len(self._spares) >= self._spare_count or self._lower_descriptor < 0:
            return
        identity, rootfs = self._lower, os.dup(self._lower_descriptor)
        layer = secrets.token_hex(16)
        try:
            spare = layer, await asyncio.to_thread(self._mount, layer, rootfs, os.fstat(rootfs))
        except (StartFailed, OSError) as error:
            _log.warning("cannot prepare a layer ahead: %s", error)
            await asyncio.to_thread(self.remove, layer)
            return
        finally:
            os.close(rootfs)
        if self._lower == identity:
            self._spares.append(spare)
        else:
            self._retired.append(spare)

    def _retire(self) -> None:
        """No more spares over the directory last used; ``drop_retired`` deletes those there are."""
        self._retired += self._spares
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

    def _mount(self, layer: str, rootfs: int, lower: os.stat_result) -> int:
        try:
            upper, work = self._open(layer, lower)
        except OSError as error:
            raise StartFailed(f"make writable layer: {describe(error)}") from error
        try:
            return mounts.overlay(rootfs, upper, work)
        except OSError as error:
            raise StartFailed(f"mount overlay: {describe(error)}: {error.strerror}") from error
        finally:
            os.close(upper)
            os.close(work)

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


def clone_writable(rootfs: int) -> int:
    """For ``--rw-rootfs``: a detached copy of the mount at an open directory, without what is mounted below it.

    Raises StartFailed.
    """
    try:
        tree = mounts.clone_tree("", rootfs)
        mounts.set_attributes(tree, mounts.ROOT_ATTRIBUTES)
    except OSError as error:
        raise StartFailed(f"bind rootfs: {describe(error)}") from error
    return tree


def open_rootfs(path: str) -> int:
    """Raises InvalidRequest."""
    try:
        return os.open(path, _DIRECTORY)
    except OSError as error:
        raise InvalidRequest(f"rootfs {path!r}: {describe_errno(error.errno or 0)}") from None
