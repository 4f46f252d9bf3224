"""Root file systems that attack whoever starts a container from them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.waiting import wait_until

pytestmark = pytest.mark.root

PLANTED = (
    "encodings/__init__.py",
    "os.py",
    "sitecustomize.py",
    "json/__init__.py",
    "etc/ld.so.preload",
    "etc/nsswitch.conf",
    "etc/ld.so.cache",
    *(f"usr/lib/python3.{minor}/{name}" for minor in (11, 12, 13) for name in ("os.py", "encodings/__init__.py")),
)


@pytest.fixture
def own_rootfs(rootfs: Path, tmp_path: Path) -> Path:
    """A copy of the root file system that a test may plant things in."""
    copy = tmp_path / "rootfs"
    subprocess.run(["cp", "-a", rootfs, copy], check=True)
    return copy


def plant(rootfs: Path, python: Path) -> list[Path]:
    names = [
        *PLANTED,
        *(f"{python.relative_to('/')}/{name}" for name in ("os.py", "encodings/__init__.py", "socket.py")),
    ]
    found = []
    for name in dict.fromkeys(names):  # the interpreter may be one of those in PLANTED
        path = rootfs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("open('/touched', 'w').write('executed')\n")
        os.utime(path, (1, 2_000_000_000))
        found.append(path)
    return found


@pytest.mark.attack("code-planted", "blocked")
def test_no_file_of_the_rootfs_is_read_as_code(supervisor: Supervisor, own_rootfs: Path) -> None:
    """Watched on the directory itself: the kernel reports every open below it, by whatever way it was opened."""
    planted = plant(own_rootfs, Path(os.__file__).parent)
    events = own_rootfs.parent / "events"
    with subprocess.Popen(
        ["inotifywait", "-q", "-m", "-e", "open,access", "--format", "%w", "-o", events, *planted],
        stderr=subprocess.PIPE,
    ) as watcher:
        try:
            _wait_for_watches(watcher.pid, len(planted))
            for options in ([], ["--init"], ["-u", "0:0"], ["-w", "/tmp"]):
                done = supervisor.engine(
                    "run", "--rm", "--rw-rootfs", *options, "c", own_rootfs, "/bin/sh", "-c", "echo fine", check=False
                )
                assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)
            failed = supervisor.engine("run", "--rw-rootfs", "c", own_rootfs, "/bin/not-there", check=False)
            assert failed.returncode == 127
        finally:
            watcher.terminate()
    assert not events.exists() or events.read_text() == ""
    assert not (own_rootfs / "touched").exists()


def _wait_for_watches(pid: int, count: int) -> None:
    def established() -> bool:
        lines = (
            line
            for entry in Path(f"/proc/{pid}/fdinfo").iterdir()
            for line in entry.read_text().splitlines()
            if line.startswith("inotify")
        )
        return sum(1 for _ in lines) >= count

    wait_until(established)


@pytest.mark.attack("kernel-mount-moved", "blocked")
@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_a_link_in_the_place_of_a_kernel_file_system(supervisor: Supervisor, own_rootfs: Path, name: str) -> None:
    target = own_rootfs / name
    shutil.rmtree(target, ignore_errors=True)
    target.symlink_to("/etc")
    failed = supervisor.engine("run", "c", own_rootfs, "/bin/true", check=False)
    assert failed.returncode == 125
    assert f"cannot start c: mount /{name}" in failed.stderr
    assert supervisor.ps() == []


def test_a_volume_behind_a_link_stays_inside(supervisor: Supervisor, own_rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("data\n")
    (own_rootfs / "srv/inside").mkdir(parents=True)
    (own_rootfs / "escape").symlink_to("/../../../../srv/inside")
    done = supervisor.engine("run", "-v", f"{tmp_path}/data:/escape", "c", own_rootfs, "/bin/cat", "/srv/inside/file")
    assert done.stdout == "data\n"
    assert not Path("/srv/inside").exists()


@pytest.mark.attack("volume-in-proc", "blocked")
def test_a_volume_led_into_proc_is_refused(supervisor: Supervisor, own_rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (own_rootfs / "data").symlink_to("/proc/tty")
    failed = supervisor.engine("run", "-v", f"{tmp_path}/data:/data", "c", own_rootfs, "/bin/true", check=False)
    assert failed.returncode == 125
    assert "inside /proc" in failed.stderr


@pytest.mark.attack("descriptor-inherited", "blocked")
def test_the_working_directory_cannot_leave_the_root(supervisor: Supervisor, rootfs: Path) -> None:
    for number in range(3, 12):
        done = supervisor.engine(
            *("run", "--rm", "-w", f"/proc/self/fd/{number}", "c", rootfs, "/bin/sh", "-c", "pwd -P; ls .."),
            check=False,
        )
        assert done.returncode == 125 or done.stdout.startswith("/"), done
        assert "records.sqlite" not in done.stdout


@pytest.mark.attack("program-overwritten", "blocked")
def test_the_interpreter_cannot_be_overwritten(supervisor: Supervisor) -> None:
    """CVE-2019-5736 gets hold of the runtime's executable through /proc: what it then has must be read-only.

    Opening for writing says "text file busy" as long as the shim lives; changing the mode meets the mount at once.
    """
    shim = supervisor.info()["shim_pid"]
    mode = os.stat(f"/proc/{shim}/exe").st_mode
    with pytest.raises(OSError, match="Read-only file system"):
        os.chmod(f"/proc/{shim}/exe", mode)


def test_a_script_whose_interpreter_is_proc_self_exe(supervisor: Supervisor, own_rootfs: Path) -> None:
    script = own_rootfs / "bin/evil"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    done = supervisor.engine("run", "c", own_rootfs, "/bin/evil", check=False)
    assert done.returncode != 0
    assert supervisor.client.run("next", str(own_rootfs), ["/bin/true"]).exit_code == 0


@pytest.mark.attack("device-files", "blocked")
def test_device_files_of_the_rootfs_open_nothing(supervisor: Supervisor, own_rootfs: Path) -> None:
    os.mknod(own_rootfs / "kmsg", 0o666 | 0o020000, os.makedev(1, 11))
    script = (
        "cat /kmsg; echo $?; mknod /tmp/m b 259 0 && cat /tmp/m; mknod /dev/m c 1 1 && cat /dev/m; chmod 0 /dev/null"
    )
    done = supervisor.engine("run", "c", own_rootfs, "/bin/sh", "-c", script, check=False)
    assert done.stdout == "1\n"
    assert "/kmsg': Permission denied" in done.stderr
    assert done.stderr.count("Operation not permitted") == 2
    assert "Read-only file system" in done.stderr
    assert os.stat("/dev/null").st_mode & 0o777 == 0o666
