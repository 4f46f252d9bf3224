"""Host trees for bind mounts, opened on the host's side where their paths mean what the user wrote."""

from __future__ import annotations

import errno
import os
import stat

from wherry.errors import StartFailed
from wherry.kernel import id_maps, mounts
from wherry.kernel.libc import describe_errno
from wherry.runtime.plan import Bind

_NOT_MAPPED = {
    errno.EINVAL: "its file system, or that of a mount below it, does not support ID-mapped mounts",
    errno.EPERM: "it, or a mount below it, is an ID-mapped mount already",
}


def open_bind(bind: Bind, namespace: int = -1) -> tuple[int, bool]:
    """A detached copy of the tree with the bind's attributes set, and whether it is a directory. ``namespace`` is the
    container's user namespace, for a bind that is to have its ids. Raises StartFailed.
    """
    try:
        tree = mounts.clone_tree(bind.source, recursive=bind.recursive)
    except OSError as error:
        what = f"volume {bind.source}:{bind.destination}"
        raise StartFailed(f"{what}: {describe_errno(error.errno or 0)}") from error
    try:
        # nodev as on the rootfs: a device file in a volume opens nothing.
        mounts.set_attributes(tree, bind.attributes | mounts.MOUNT_ATTR_NODEV, bind.recursive)
        if bind.mapped:
            _map(tree, namespace, bind)
        return tree, stat.S_ISDIR(os.fstat(tree).st_mode)
    except BaseException:
        os.close(tree)
        raise


def _map(tree: int, namespace: int, bind: Bind) -> None:
    try:
        id_maps.map_mount(tree, namespace, bind.mapped == "ridmap")
    except OSError as error:
        why = _NOT_MAPPED.get(error.errno or 0, describe_errno(error.errno or 0))
        raise StartFailed(
            f"volume {bind.source}:{bind.destination} cannot be shown with the ids of a user namespace: {why}"
        ) from error
