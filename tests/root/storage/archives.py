"""An archive of a root file system, of a size to be chosen."""

from __future__ import annotations

from tests.tarballs import END, directory, file


def archive(size: int, fill: str = "x") -> bytes:
    return directory("./", mode=0o755) + file(f"{fill}/data", fill.encode() * size) + END
