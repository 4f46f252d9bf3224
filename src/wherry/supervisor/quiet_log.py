"""A supervisor's log that nobody can fill by making it say the same thing again and again."""

from __future__ import annotations

import logging
from collections import OrderedDict

from wherry.supervisor.quota import Quota

BURST = 30
_KEYS = 4096


class RateLimit(logging.Filter):
    """Lets a message about one subject (its first argument, which is a container's name) through ``BURST`` times at
    once, and then once a second; the next one that is let through tells how many were not. Debugging is not limited.
    """

    def __init__(self, quota: Quota | None = None) -> None:
        super().__init__()
        self._quota = quota or Quota(BURST, 1, _KEYS)
        self._left_out: OrderedDict[tuple[str, str], int] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO:
            return True
        subject = record.args[0] if isinstance(record.args, tuple) and record.args else ""
        key = (str(record.msg)[:200], str(subject)[:200])
        if not self._quota.take(key):
            self._left_out[key] = self._left_out.pop(key, 0) + 1
            if len(self._left_out) > _KEYS:
                self._left_out.popitem(last=False)
            return False
        left_out = self._left_out.pop(key, 0)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more like this were left out)", ()
        return True
