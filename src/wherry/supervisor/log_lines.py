"""What the supervisor's own log looks like on a terminal and in a journal: a message is one line.

Messages name files of containers (what could not be deleted) and processes. Who chose such a name must neither write
lines of his own into the log, nor escape sequences to the terminal that shows it.
"""

from __future__ import annotations

import logging
from typing import Any

from wherry.errors import printable


class LineFormatter(logging.Formatter):
    """Escapes what is not printable; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's)
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(map(printable, super().formatException(ei).split("\n")))
