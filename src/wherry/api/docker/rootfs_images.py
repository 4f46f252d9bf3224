"""Image ids of root file systems.

There is no store of images yet. What a container was started from, a path, has an id that looks like an image's, made
from the path alone, so that it stays the same: docker's clients take it apart and ask for it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

_PREFIX = "sha256:"


@lru_cache(1024)
def image_id(rootfs: str) -> str:
    """Stable for a path, whatever is found there."""
    return _PREFIX + hashlib.sha256(b"wherry rootfs\0" + rootfs.encode()).hexdigest()


def is_named(rootfs: str, name: str) -> bool:
    """Whether ``name`` means ``rootfs``: its path, its id, or the beginning of that with or without "sha256:".

    Docker's command takes the first slash off a path in an address.
    """
    digits = name.removeprefix(_PREFIX)
    if name == rootfs or ("/" in name and f"/{name}" == rootfs):
        return True
    return bool(digits) and image_id(rootfs).startswith(_PREFIX + digits)
