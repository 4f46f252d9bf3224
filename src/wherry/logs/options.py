"""What can be chosen of a container's log."""

from __future__ import annotations

import dataclasses
from typing import Literal

Mode = Literal["blocking", "non-blocking"]
MODES: tuple[Mode, ...] = ("blocking", "non-blocking")
MIB = 1024 * 1024
BUFFER_MIN = 64 * 1024
BUFFER_MAX = 16 * MIB
FILE_MIN = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """``mode``: what gives way when the buffer is full: the container, which waits in write(2), or its oldest bytes.

    ``buffer_bytes`` is the budget of the buffer; ``max_bytes`` the size at which a log file is rotated (0: never), and
    ``max_files`` how many are kept, the current one included.
    """

    mode: Mode = "blocking"
    buffer_bytes: int = 2 * MIB
    max_bytes: int = 64 * MIB
    max_files: int = 4
