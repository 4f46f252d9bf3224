"""What reaches the user's terminal: text made safe, container output as it is.

Names of files, environment values, error texts and commands come from containers and other users. An escape sequence
in one of them could rewrite the screen or answer a prompt, so all text goes through ``escaped``. The output of a
container goes out untouched: that is what ``run`` and ``logs`` are for.
"""

from __future__ import annotations

import os
import sys

from wherry.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def escaped(text: str) -> str:
    """``text`` on one line, with what is not printable (controls, bidi marks, lone surrogates) as ``\\x1b``."""
    return printable(text)


def width(text: str) -> int:
    """How many columns ``text`` takes: CJK characters two, combining ones none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def cut(text: str, most: int) -> str:
    """At most ``most`` columns of it, the last one an ellipsis when something is missing."""
    if width(text) <= most:
        return text
    if text.isascii():
        return text[: max(most - 1, 0)] + "…"
    kept = text[:most]
    while kept and width(kept) > most - 1:
        kept = kept[:-1]
    return kept + "…"


def columns(fd: int = 1) -> int | None:
    """The terminal's width, or COLUMNS; None when ``fd`` is no terminal."""
    size = window(fd)
    given = os.environ.get("COLUMNS", "")
    if size and given.isascii() and given.isdigit() and int(given):
        return int(given)
    return size[0] if size else None


def window(fd: int = 1) -> tuple[int, int] | None:
    """Columns and lines of the terminal; None when ``fd`` is none, or one that does not say."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return None
    return (size.columns, size.lines) if size.columns else None


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells as lines, columns padded to their widest cell; the last column is not padded."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = (
        "   ".join(cell + " " * (most - width(cell)) for cell, most in zip(row, widths, strict=True)) for row in rows
    )
    return "".join(line.rstrip() + "\n" for line in lines)


def prepare() -> None:
    """Make stdout and stderr usable whatever the caller left of them.

    A name that the user's encoding cannot show must not end the program half-way through a list. A standard stream
    that was closed (``>&-``) is filled with /dev/null opened for reading: otherwise the next socket would get its
    number and the output of a container would be written into it; so, writing fails with EBADF.
    """
    if sys.__stdin__ is None or sys.__stdout__ is None or sys.__stderr__ is None:
        while (fd := os.open(os.devnull, os.O_RDONLY)) <= 2:
            pass
        os.close(fd)
        sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="backslashreplace")


def complain(message: object) -> None:
    """One line on stderr."""
    write_error(f"engine: {escaped(str(message))}\n")


def complain_of_output(error: OSError, who: str) -> int:
    """``who`` writes what cannot be passed on; returns the exit code for that."""
    is_unread = isinstance(error, BrokenPipeError)
    what = "nobody reads the output any more" if is_unread else f"cannot write the output: {error.strerror}"
    complain(f"{what}; {who} goes on without it")
    return 125


def write_error(text: str) -> None:
    """Text on stderr, which must be safe already; a stderr that cannot be written to changes nothing."""
    try:
        write_all(2, text.encode(errors="backslashreplace"))
    except OSError:
        pass


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` at once and unbuffered. Raises OSError, BrokenPipeError when nobody reads any more."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            # A terminal that another program sharing it has made non-blocking.
            import select  # noqa: PLC0415

            writable = select.poll()  # not select(2): a descriptor that we inherit may be above 1,023
            writable.register(fd, select.POLLOUT)
            writable.poll()


def discard_output() -> None:
    """Point stdout at /dev/null, so that the interpreter's last flush does not fail on a pipe nobody reads."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
