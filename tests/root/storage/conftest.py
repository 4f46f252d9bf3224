"""Archives in files, and a small disk."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.root.disks import disk_of


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """An archive file with this content, and its path."""

    def write_archive(content: bytes, name: str = "rootfs.tar") -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write_archive


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "disk", "size=64m,nr_inodes=20000,mode=755") as path:
        yield path


@pytest.fixture
def image(tmp_path: Path, rootfs: Path) -> str:
    """build/rootfs as an archive."""
    subprocess.run(["tar", "-C", rootfs, "-cf", tmp_path / "image.tar", "."], check=True)
    return str(tmp_path / "image.tar")
