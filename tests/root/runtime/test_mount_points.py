"""Case 10: mount points and working directories that are dangling links, loops, or of the wrong kind.

Root file systems of distributions are full of such links: /etc/resolv.conf of every one with systemd-resolved.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.root.runtime import tinyroot

pytestmark = pytest.mark.root


@pytest.fixture
def supervisor(shared: Supervisor) -> Supervisor:
    return shared


LINKS = {
    "etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf",
    "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
    "dl": "data/deep",
    "tl": "../../../../there/../tmpfs",
    "wl": "chain",
    "chain": "/work/made",
    "loop": "loop2",
    "loop2": "/loop/x",
}


@pytest.fixture
def root(rootfs: Path, tmp_path: Path) -> Path:
    path = tinyroot.make(rootfs, tmp_path / "tiny")
    for link, target in LINKS.items():
        (path / link).symlink_to(target)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("data\n")
    return tmp_path / "data"


@pytest.mark.parametrize("more", [[], ["--read-only"]])
def test_where_dangling_links_lead_is_made_in_the_layer(
    supervisor: Supervisor, root: Path, data: Path, more: list[str]
) -> None:
    before = tinyroot.listing(root)
    options = ["-v", f"{data}/file:/etc/localtime", "-v", f"{data}:/dl", "--tmpfs", "/tl:size=1m", "-w", "/wl"]
    script = """cat /usr/share/zoneinfo/Etc/UTC /data/deep/file; pwd -P
        while read device point rest; do echo $point; done < /proc/self/mounts"""
    done = supervisor.engine("run", "--rm", *options, *more, "c", root, "/bin/sh", "-c", script)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["data", "data", "/work/made"]
    assert {"/usr/share/zoneinfo/Etc/UTC", "/data/deep", "/tmpfs"} <= set(lines[3:])
    assert tinyroot.listing(root) == before


def test_the_host_network_needs_no_place_for_its_files(supervisor: Supervisor, root: Path) -> None:
    """Nobody asked for /etc/resolv.conf: neither a dangling link nor a loop in its place stops the start."""
    read = ("--rm", "--network", "host", "c", root, "/bin/cat", "/etc/resolv.conf")
    assert supervisor.engine("run", *read).stdout == Path("/etc/resolv.conf").read_text()
    (root / "etc/resolv.conf").unlink()
    (root / "etc/resolv.conf").symlink_to("/loop")
    failed = supervisor.engine("run", *read, check=False)
    assert (failed.returncode, "cannot start" in failed.stderr) == (1, False)  # cat's
    (root / "etc/resolv.conf").unlink()
    (root / "etc/resolv.conf").symlink_to("/dev/null")
    assert supervisor.engine("run", *read).stdout == ""


ROOT_ITSELF = ["--rw-rootfs", "--network", "host"]


def test_nothing_is_left_in_a_directory_itself(supervisor: Supervisor, root: Path) -> None:
    before = tinyroot.listing(root)
    supervisor.engine("run", "--rm", *ROOT_ITSELF, "c", root, "/bin/true")
    assert tinyroot.listing(root) == before
    (root / "etc/hosts").write_text("10.0.0.9 build\n")
    script = "cat /etc/hosts; echo 10.0.0.8 mine >> /etc/hosts; cat /etc/hosts"
    shown = supervisor.engine("run", "--rm", *ROOT_ITSELF, "c", root, "/bin/sh", "-c", script).stdout
    assert "build" not in shown
    assert shown.endswith("10.0.0.8 mine\n")
    assert (root / "etc/hosts").read_text() == "10.0.0.9 build\n"
    assert tinyroot.listing(root) == sorted([*before, "etc/hosts"])


def test_what_was_asked_for_is_made_in_a_directory_itself(supervisor: Supervisor, root: Path, data: Path) -> None:
    """As with docker's -v; inside the root, wherever a link leads."""
    (root / "out").symlink_to(f"../../../../../../..{data.parent}/outside")
    done = supervisor.engine("run", "--rw-rootfs", "-v", f"{data}:/out", "c", root, "/bin/cat", "/out/file")
    assert done.stdout == "data\n"
    assert (root / f".{data.parent}/outside").is_dir()
    assert not (data.parent / "outside").exists()


LOOP = "too many levels of symbolic links (ELOOP)"
REFUSED = {
    "loop-volume": (["-v", "{data}:/loop"], f"mount volume /loop: openat2: {LOOP}"),
    "loop-file": (["-v", "{data}/file:/loop/file"], f"mount volume /loop/file: openat2: {LOOP}"),
    "loop-tmpfs": (["--tmpfs", "/loop"], f"mount tmpfs /loop: openat2: {LOOP}"),
    "loop-directory": (["-w", "/loop"], f"make working directory /loop: openat2: {LOOP}"),
    "file-on-directory": (["-v", "{data}/file:/etc"], "mount volume /etc: it is a directory, not a file"),
    "file-on-link": (["-v", "{data}/file:/lib"], "mount volume /lib: it is a directory, not a file"),
    "directory-on-file": (["-v", "{data}:/etc/passwd"], "it is a file, not a directory (ENOTDIR)"),
    "tmpfs-on-file": (["--tmpfs", "/etc/passwd"], "mount tmpfs /etc/passwd: it is a file, not a directory"),
    "directory-in-file": (["-w", "/etc/passwd/x"], "make working directory /etc/passwd/x: openat2: not a directory"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_a_mount_point(
    supervisor: Supervisor, root: Path, data: Path, options: list[str], message: str
) -> None:
    (root / "lib").symlink_to("etc")
    words = [word.format(data=data) for word in options]
    done = supervisor.engine("run", *words, "c", root, "/bin/true", check=False)
    assert done.returncode == 125, done
    assert f"cannot start c: {message}" in done.stderr or message in done.stderr
    assert done.stderr.count("\n") == 1
    assert supervisor.ps() == []


def test_a_directory_closed_to_the_user(supervisor: Supervisor, root: Path) -> None:
    """Case 11: docker changes to the working directory before it drops privileges, too."""
    (root / "root/sub").mkdir()
    for directory in ("/root", "/root/sub", "/root/new/deep"):
        options = ("--rm", "-u", "1000", "-w", directory)
        done = supervisor.engine("run", *options, "c", root, "/bin/sh", "-c", "pwd; id -u; ls /root || echo closed")
        assert done.stdout.splitlines() == [directory, "1000", "closed"]
    # And what is outside stays outside, for any user.
    for user in ("0", "1000"):
        for number in range(3, 12):
            done = supervisor.engine(
                *("run", "--rm", "-u", user, "-w", f"/proc/self/fd/{number}", "c", root, "/bin/pwd"), check=False
            )
            assert done.returncode == 125, done
