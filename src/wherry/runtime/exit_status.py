"""How a process ended, as waitid(2) tells it."""

from __future__ import annotations

import os
from typing import NamedTuple


class ExitStatus(NamedTuple):
    """``code`` and ``status`` are si_code and si_status of waitid(2); ``monotonic_ns`` is when, 0 when not known."""

    code: int
    status: int
    monotonic_ns: int = 0

    @property
    def signal(self) -> int | None:
        return None if self.code == os.CLD_EXITED else self.status

    @property
    def exit_code(self) -> int:
        """As a shell reports it: 128 + N for signal N."""
        return self.status if self.code == os.CLD_EXITED else 128 + self.status
