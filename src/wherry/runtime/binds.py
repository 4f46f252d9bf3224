"""Host trees for bind mounts, opened on the host's side where their paths mean what the user wrote."""

from __future__ import annotations

import os
import stat

from wherry.errors import StartFailed
from wherry.kernel import mounts
from wherry.kernel.libc import describe_errno
from wherry.runtime.plan import Bind


def open_bind(bind: Bind) -> tuple[int, bool]:
    """A detached copy of the tree with the bind's attributes set, and whether it is a directory. Raises StartFailed."""
    try:
        tree = mounts.clone_tree(bind.source, recursive=bind.recursive)
    except OSError as error:
        what = f"volume {bind.source}:{bind.destination}"
        raise StartFailed(f"{what}: {describe_errno(error.errno or 0)}") from error
    try:
        # nodev as on the rootfs: a device file in a volume opens nothing.
        mounts.set_attributes(tree, bind.attributes | mounts.MOUNT_ATTR_NODEV, bind.recursive)
        return tree, stat.S_ISDIR(os.fstat(tree).st_mode)
    except BaseException:
        os.close(tree)
        raise
