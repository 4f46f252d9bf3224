"""Attacks on what the supervisor itself writes to, as root: unpacked archives and its state directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.root.patched import Weaken
from tests.tarballs import END, file, symlink

from wherry.errors import InvalidRequest
from wherry.kernel import paths
from wherry.storage.rootfs import RootfsStore

pytestmark = pytest.mark.root


@pytest.mark.attack("archive-escape")
def test_a_link_of_an_archive_leads_nowhere_outside(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "rootfs.tar"
    archive.write_bytes(symlink("d", str(victim)) + file("d/planted", b"x") + END)
    with pytest.raises(InvalidRequest, match="a symbolic link to nothing"):
        RootfsStore(tmp_path / "store").resolve(str(archive))
    assert os.listdir(victim) == ["file"]

    def openat2(dirfd: int, path: bytes, flags: int, mode: int = 0, _resolve: int = 0) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dirfd)

    monkeypatch.setattr(paths, "openat2", openat2)
    RootfsStore(tmp_path / "store").resolve(str(archive))
    assert sorted(os.listdir(victim)) == ["file", "planted"]


FOLLOWING = """
import os
from wherry.kernel import trust
trust._FOUND = os.O_PATH | os.O_CLOEXEC
"""


@pytest.mark.attack("state-directory", "undefended")
def test_a_link_in_the_state_directory_would_be_followed(
    weaken: Weaken, tmp_path: Path, victim: Path, rootfs: Path
) -> None:
    """Root writes where somebody else wants it."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state/logs").symlink_to(victim)
    with weaken(FOLLOWING) as supervisor:
        assert isinstance(supervisor, Supervisor)
        supervisor.engine("run", "c", rootfs, "/bin/echo", "of the container")
    assert (victim / "c.log").read_text() == "of the container\n"
