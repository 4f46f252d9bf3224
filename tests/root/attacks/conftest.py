"""What attacks need: a root file system of their own, a container without a supervisor, a directory of the host."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.root.harness import Traces
from tests.root.runtime.unsupervised import Unsupervised


@pytest.fixture
def hostile(rootfs: Path, tmp_path: Path) -> Path:
    """A copy of the root file system, to plant things in."""
    copy = tmp_path / "hostile"
    subprocess.run(["cp", "-a", rootfs, copy], check=True)
    return copy


@pytest.fixture
def unsupervised(hostile: Path, tmp_path: Path, leftovers: Traces) -> Unsupervised:
    assert leftovers.directory == str(tmp_path)
    return Unsupervised(hostile, tmp_path)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of the host's with a file in it, which no container was given."""
    path = tmp_path / "victim"
    path.mkdir()
    (path / "file").write_text("of the host\n")
    return path
