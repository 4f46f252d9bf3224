"""scripts/make-rootfs.sh: the root file system that `make setup` leaves in build/rootfs."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make-rootfs.sh"
PROGRAMS = ["cpu_hog", "io_pulse", "log_lines", "log_storm", "memory_hog"]

pytestmark = pytest.mark.root


@pytest.fixture
def workloads(tmp_path: Path) -> Path:
    folder = tmp_path / "workloads"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho {name}\n")
        (folder / name).chmod(0o755)
    return folder


def make_rootfs(*arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def busybox_rootfs(tmp_path: Path, workloads: Path) -> Path:
    if shutil.which("busybox") is None:
        pytest.skip("needs busybox-static")
    target = tmp_path / "rootfs"
    result = make_rootfs(target, workloads)
    assert result.returncode == 0, result.stderr
    return target


def inside(rootfs: Path, *command: str) -> str:
    return subprocess.run(["chroot", rootfs, *command], capture_output=True, text=True, check=True).stdout


def test_the_shell_and_the_applets_run(busybox_rootfs: Path) -> None:
    assert inside(busybox_rootfs, "/bin/sh", "-c", "echo $((6 * 7)) | /usr/bin/wc -l") == "1\n"
    assert inside(busybox_rootfs, "/bin/true") == ""
    for path in ["bin/ash", "bin/hostname", "bin/ps", "bin/ls", "usr/bin/wc", "usr/bin/env", "usr/bin/id", "sbin/ip"]:
        assert (busybox_rootfs / path).readlink() == Path("/bin/busybox"), path


def test_the_users_are_known(busybox_rootfs: Path) -> None:
    assert (
        inside(busybox_rootfs, "/usr/bin/id", "nobody") == "uid=65534(nobody) gid=65534(nobody) groups=65534(nobody)\n"
    )
    assert inside(busybox_rootfs, "/usr/bin/id", "-un") == "root\n"
    shadow = (busybox_rootfs / "etc/shadow").stat()
    assert (stat.S_IMODE(shadow.st_mode), shadow.st_uid, shadow.st_gid) == (0o640, 0, 42)


def test_the_directories_have_the_usual_modes(busybox_rootfs: Path) -> None:
    modes = {"": 0o755, "tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "proc": 0o555, "etc": 0o755, "dev": 0o755}
    assert {name: stat.S_IMODE((busybox_rootfs / name).stat().st_mode) for name in modes} == modes
    assert all((busybox_rootfs / name).is_dir() for name in ["home", "mnt", "run", "sys", "usr/local/bin", "var/log"])
    assert (busybox_rootfs / "var/run").readlink() == Path("/run")


def test_the_workloads_stand_at_the_top(busybox_rootfs: Path) -> None:
    assert [inside(busybox_rootfs, f"/{name}") for name in PROGRAMS] == [f"{name}\n" for name in PROGRAMS]


def test_a_second_run_replaces_the_first_whole(busybox_rootfs: Path, workloads: Path, tmp_path: Path) -> None:
    (busybox_rootfs / "left-over").touch()
    assert make_rootfs(busybox_rootfs, workloads).returncode == 0
    assert not (busybox_rootfs / "left-over").exists()
    assert (busybox_rootfs / "bin/sh").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rootfs", "workloads"]


def make_tarball(path: Path, *names: str) -> None:
    """A tar.gz of empty files, each owned by 12:34 and with the set-user-id bit."""
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.uid, entry.gid, entry.mode = 12, 34, 0o4755
            archive.addfile(entry)


def test_a_tarball_takes_the_place_of_busybox(tmp_path: Path, workloads: Path) -> None:
    make_tarball(tmp_path / "mini.tar.gz", "bin/sh", "etc/alpine-release")
    assert make_rootfs(tmp_path / "rootfs", workloads, tmp_path / "mini.tar.gz").returncode == 0
    shell = (tmp_path / "rootfs/bin/sh").stat()
    assert (shell.st_uid, shell.st_gid, stat.S_IMODE(shell.st_mode)) == (12, 34, 0o4755)
    assert {path.name for path in (tmp_path / "rootfs").iterdir()} == {"bin", "etc", *PROGRAMS}


@pytest.mark.parametrize("fault", ["missing", "no archive", "no shell"])
def test_a_bad_tarball_leaves_what_was_there(tmp_path: Path, workloads: Path, fault: str) -> None:
    tarball = tmp_path / "mini.tar.gz"
    if fault == "no archive":
        tarball.write_bytes(b"<html>404</html>" * 100)
    elif fault == "no shell":
        make_tarball(tarball, "etc/alpine-release")
    target = tmp_path / "rootfs"
    target.mkdir()
    (target / "kept").touch()

    result = make_rootfs(target, workloads, tarball)
    assert result.returncode == 1
    assert str(tarball) in result.stderr
    assert [path.name for path in target.iterdir()] == ["kept"]
    assert {path.name for path in tmp_path.iterdir()} - {"mini.tar.gz"} == {"rootfs", "workloads"}


def test_missing_workloads_are_named(tmp_path: Path) -> None:
    result = make_rootfs(tmp_path / "rootfs", tmp_path)
    assert result.returncode == 1
    assert "cpu_hog is missing: build the workloads first" in result.stderr
    assert not (tmp_path / "rootfs").exists()
