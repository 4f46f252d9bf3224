"""File systems of a size of their own, to be filled."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def disk_of(path: Path, options: str) -> Iterator[Path]:
    """A tmpfs with these options of tmpfs(5) on the directory ``path``, which is made."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "wherry-test", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)
