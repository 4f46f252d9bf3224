"""A line in the kernel's log for each limit that is crossed, so that ``dmesg | grep NAME`` shows it.

The wording is that of our kernel module, which writes its own: docs/kmod-abi.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from wherry.kernel import kmsg
from wherry.memory import Kind, MemoryEvent

_log = logging.getLogger(__name__)
_WORDS = {Kind.SOFT: "SOFT LIMIT", Kind.HARD: "HARD LIMIT"}
_SOFT_LINES = 6
"""Of those that the kernel takes from us: soft limits must leave room for hard ones."""


class KernelLog:
    """Without /dev/kmsg, or without permission, nothing is written, and nothing else happens.

    Lines are written by a thread of its own: a serial console takes 10 ms for one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._writer = ThreadPoolExecutor(1, "wherry-kmsg")
        self._written: deque[tuple[float, str]] = deque()
        """When, and for a soft limit of which container ("" for hard ones), in the last five seconds."""
        self._left_out = 0
        self._descriptor = -1
        try:
            self._descriptor = kmsg.open_log()
        except OSError as error:
            _log.info("crossings of limits are not told in the kernel's log: %s", error)

    def tell(self, event: MemoryEvent, name: str, pid: int) -> None:
        """``pid`` is the container's first process: not every enforcer knows who crossed the limit."""
        words = _WORDS.get(event.kind)
        if self._descriptor < 0 or words is None:
            return
        if not self._has_room(event):
            self._left_out += 1
            return
        text = f"wherry: {words} id={name} pid={pid} rss={event.rss_bytes} limit={event.limit_bytes}"
        if self._left_out:
            text += f" ({self._left_out} lines left out)"
            self._left_out = 0
        self._writer.submit(self._write, text)

    def _has_room(self, event: MemoryEvent) -> bool:
        """One line a container and five seconds for the soft limit, and never more than the kernel would take."""
        now = self._clock()
        while self._written and now - self._written[0][0] > kmsg.SECONDS:
            self._written.popleft()
        soft = [container_id for _, container_id in self._written if container_id]
        is_soft = event.kind is Kind.SOFT
        if len(self._written) >= kmsg.LINES or (is_soft and (len(soft) >= _SOFT_LINES or event.container_id in soft)):
            return False
        self._written.append((now, event.container_id if is_soft else ""))
        return True

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            kmsg.write(self._descriptor, text)

    def close(self) -> None:
        """After the last line has been written."""
        self._writer.shutdown()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
