"""Looking a container's user up without keeping the event loop waiting: its /etc/passwd may be a large one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from wherry.runtime import users

QUICK = 32 * 1024
"""Bytes of a file that is read on the event loop: a thread takes longer to say that it has begun."""


async def find_user(root: int, user: str, groups: Sequence[str] = ()) -> users.User:
    """``users.lookup``. Raises InvalidRequest."""
    try:
        return users.lookup(root, user, QUICK, groups)
    except users.LargeFileError:
        return await asyncio.to_thread(users.lookup, root, user, added=groups)
