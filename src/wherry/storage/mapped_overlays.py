"""Overlays whose files have other ids on disk than those that containers see."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from wherry.kernel import libc, mounts, namespaces, process

_LOWER = "/lower"
_LAYER = "/layer"
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class MappedOverlays:
    """Made by a thread, for two things that belong to one thread alone.

    A mount namespace with nothing but a tmpfs: an overlay itself cannot be ID-mapped, but the mounts that it is made of
    can, and before Linux 6.15 these must be attached somewhere in the namespace of who makes it
    (clone_private_mount() in fs/namespace.c). In the host's, others would see them, and a kill would leave them.

    A file system user (setfsuid(2)): overlayfs makes files as who has mounted it, and on an ID-mapped mount nobody can
    make any whose id it does not have; the overlay would be read-only.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "wherry-overlays")
        self._state = threading.local()

    def mount(self, lower: int, layer: int, uid: int, gid: int) -> int:
        """A detached overlay of the detached mounts ``lower`` and ``layer``; in the latter are ``upper`` and ``work``.
        ``uid`` and ``gid`` are the host's ids of who is root inside. Raises OSError.
        """
        return self._thread.submit(self._mount, lower, layer, uid, gid).result()

    def close(self) -> None:
        self._thread.shutdown()

    def _mount(self, lower: int, layer: int, uid: int, gid: int) -> int:
        if not hasattr(self._state, "entered"):
            _enter_room()
            self._state.entered = True
        with contextlib.ExitStack() as undo:
            for tree, place in ((lower, _LOWER), (layer, _LAYER)):
                target = os.open(place, _PATH)
                undo.callback(os.close, target)
                mounts.attach(tree, target)
                undo.callback(mounts.detach, place)
            libc.setfsgid(gid)
            libc.setfsuid(uid)
            try:
                return mounts.overlay(_LOWER, f"{_LAYER}/upper", f"{_LAYER}/work")
            finally:
                libc.setfsuid(0)
                libc.setfsgid(0)


def _enter_room() -> None:
    """A copy of the host's mounts would keep the host from unmounting any of them: nothing of it stays."""
    namespaces.unshare(["mount"])  # unshares the working directory, too: unshare(2)
    mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_PRIVATE)
    room = mounts.new_filesystem("tmpfs", [("source", "overlays"), ("mode", "700"), ("size", "64k")])
    try:
        root = os.open("/", _PATH)
        try:
            mounts.attach(room, root)
        finally:
            os.close(root)
        mounts.pivot_into(room)
    finally:
        os.close(room)
    for place in (_LOWER, _LAYER):
        os.mkdir(place)
    process.keep_capabilities_of_other_users()
