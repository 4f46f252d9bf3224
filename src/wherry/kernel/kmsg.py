"""Writing to the kernel's log: Documentation/ABI/testing/dev-kmsg.

By default (sysctl kernel.printk_devkmsg=ratelimit) the kernel drops, and counts, what one open file writes beyond ten
lines in five seconds (devkmsg_write in kernel/printk/printk.c): LINES and SECONDS.
"""

from __future__ import annotations

import os

LINES = 10
SECONDS = 5.0
_WARNING = "<12>"
"""Facility user (1) times 8, severity warning (4): what dmesg shows on a console is a matter of the severity."""


def open_log() -> int:
    """Raises OSError: FileNotFoundError without the device, PermissionError also with printk_devkmsg=off."""
    return os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)


def write(descriptor: int, text: str) -> None:
    """One line of severity "warning"; what is not printable ASCII is escaped. May wait for a slow console.

    Raises OSError.
    """
    safe = "".join(char if char.isascii() and char.isprintable() else _escaped(char) for char in text)
    os.write(descriptor, f"{_WARNING}{safe}\n".encode("ascii"))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
