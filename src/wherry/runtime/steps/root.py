"""Steps that put a container's own root, volumes and tmpfs in their places, and enter it."""

from __future__ import annotations

import os
from typing import NamedTuple

from wherry.kernel import mounts, paths
from wherry.runtime.steps.context import Context


class AttachRoot(NamedTuple):
    """Attach the detached mount of the container's root file system."""

    descriptor: str

    def describe(self) -> str:
        return "attach rootfs"

    def execute(self, context: Context) -> None:
        context.root = context.descriptors[self.descriptor]
        target = os.open("/root", os.O_PATH | os.O_CLOEXEC)
        try:
            mounts.attach(context.root, target)
        finally:
            os.close(target)


class MoveStaged(NamedTuple):
    """Move /proc, /dev or /sys with all that is mounted in it from the stage into the rootfs.

    No symbolic link is followed: a rootfs whose /dev leads to its /proc would have one hide the other.
    """

    destination: str

    def describe(self) -> str:
        return f"mount {self.destination}"

    def execute(self, context: Context) -> None:
        name = self.destination.lstrip("/")
        try:
            os.mkdir(name, 0o755, dir_fd=context.root)
        except FileExistsError:
            pass
        tree = os.open(self.destination, os.O_PATH | os.O_CLOEXEC)
        try:
            flags = os.O_PATH | os.O_DIRECTORY
            target = paths.openat2(context.root, name, flags, 0, paths.RESOLVE_BENEATH | paths.RESOLVE_NO_SYMLINKS)
            try:
                mounts.attach(tree, target)
            finally:
                os.close(target)
        finally:
            os.close(tree)


class AttachVolume(NamedTuple):
    """Attach a detached copy of a host tree inside the rootfs; its mount point is made when missing."""

    descriptor: str
    destination: str
    directory: bool

    def describe(self) -> str:
        return f"mount volume {self.destination}"

    def execute(self, context: Context) -> None:
        _attach(context, context.descriptors[self.descriptor], self.destination, self.directory)


class MountTmpfs(NamedTuple):
    """A tmpfs inside the rootfs; options as (key, value) or (flag, None) pairs, attributes as MOUNT_ATTR_* bits."""

    destination: str
    options: list[tuple[str, str | None]]
    attributes: int

    def describe(self) -> str:
        return f"mount tmpfs {self.destination}"

    def execute(self, context: Context) -> None:
        tree = mounts.new_filesystem("tmpfs", self.options, self.attributes)
        try:
            _attach(context, tree, self.destination, True)
        finally:
            os.close(tree)


def _attach(context: Context, tree: int, destination: str, directory: bool) -> None:
    target = context.in_root(destination, directory)
    try:
        # A link of the rootfs may lead a volume into /proc, where it could fake what the runtime itself reads
        # (CVE-2019-16884).
        if context.is_in_proc(target):
            raise PermissionError(1, "the destination is inside /proc", destination)
        mounts.attach(tree, target)
    finally:
        os.close(target)


class ReadOnlyRoot(NamedTuple):
    def describe(self) -> str:
        return "make rootfs read-only"

    def execute(self, context: Context) -> None:
        mounts.set_attributes(context.root, mounts.MOUNT_ATTR_RDONLY)


class EnterRoot(NamedTuple):
    """pivot_root(2) into the rootfs and detach the stage: nothing but the container's own mounts is left in this
    namespace.
    """

    def describe(self) -> str:
        return "pivot_root"

    def execute(self, context: Context) -> None:
        mounts.pivot_into(context.root)
