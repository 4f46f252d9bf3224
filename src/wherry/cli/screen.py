"""A text that is drawn again and again in the same place of a terminal.

It is drawn on the alternate screen, as editors do: a line that is longer than the window, a window that changes its
size, and what stood there before cannot get in each other's way, and the terminal is given back as it was, with the
last text on it. "\\033[?1049h" and "l" switch screens, "\\033[?25l" and "h" hide and show the cursor (xterm's ctlseqs).
"""

from __future__ import annotations

import os
import signal
import sys

from wherry.cli import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Self

_ENTER = "\033[?1049h\033[?25l"
_LEAVE = "\033[?25h\033[?1049l"
_ENDS = (signal.SIGTERM, signal.SIGHUP)


def available() -> bool:
    """Whether stdout is a terminal that can be drawn on."""
    return terminal.window() is not None and os.environ.get("TERM", "dumb") not in {"", "dumb"}


class Screen:
    """While the context is open, ``draw`` replaces what is on the screen.

    Left by an error, by Ctrl-C, SIGTERM or SIGHUP (both as SystemExit), the terminal is as it was before, and the last
    text drawn stands on it; so it is while the program is stopped by Ctrl-Z.
    """

    def __init__(self) -> None:
        self._last = ""
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, _end) for number in _ENDS}
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._pause)
        _write(_ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _write(_LEAVE + self._last)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def draw(self, text: str) -> None:
        """Lines that are too long for the window, or too many, are cut: the window may have changed its size."""
        self._last = text
        columns, rows = terminal.window() or (80, 24)
        columns -= 1  # behind a full line the cursor is still on its last character, which would be erased
        lines = [terminal.cut(line, columns) for line in text.splitlines()]
        if len(lines) > rows:
            lines = [*lines[: rows - 1], terminal.cut(f"... {len(lines) - rows + 1} more", columns)]
        # Home, each line and what is left of the old one behind it, then what is left below.
        _write("\033[H" + "\033[K\r\n".join(lines) + "\033[K\033[J")

    def _pause(self, number: int, _frame: FrameType | None) -> None:
        _write(_LEAVE)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # stops here, until SIGCONT
        signal.signal(number, self._pause)
        _write(_ENTER)
        self.draw(self._last)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _write(text: str) -> None:
    sys.stdout.flush()
    terminal.write_all(1, text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
