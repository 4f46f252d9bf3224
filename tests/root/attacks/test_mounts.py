"""Attacks on where things are mounted, and by what of the kernel's own files a container is let."""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.root.runtime.unsupervised import Change, Unsupervised, volume, with_capability

from wherry.errors import StartFailed
from wherry.kernel import mounts, paths
from wherry.runtime import steps
from wherry.runtime.steps import Context, Step, codec

pytestmark = pytest.mark.root

RENAME_EXCHANGE = 2  # <linux/fs.h>
AT_FDCWD = -100


@pytest.fixture
def shared(tmp_path: Path, victim: Path) -> Iterator[Path]:
    """The root of a file system that somebody else keeps changing: ``a`` is by turns a directory and a link out."""
    root = tmp_path / "shared"
    (root / "a").mkdir(parents=True)
    (root / "other").symlink_to(f"../victim/../{victim.name}")
    libc = ctypes.CDLL(None, use_errno=True)
    here, there = str(root / "a").encode(), str(root / "other").encode()
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            assert libc.renameat2(AT_FDCWD, here, AT_FDCWD, there, RENAME_EXCHANGE) == 0

    thread = threading.Thread(target=swap)
    thread.start()
    yield root
    is_over.set()
    thread.join()


def by_name(directory: Path) -> Callable[..., int]:
    """Looks first whether a path leads out of a root, and then opens it by its name: what runc did."""

    def open_in_root(_root: int, path: str, flags: int = os.O_PATH, mode: int = 0) -> int:
        inside = os.path.realpath(directory / path.lstrip("/"))
        if not inside.startswith(f"{directory}/") and inside != str(directory):
            raise FileNotFoundError(2, "leads out", path)
        return os.open(directory / path.lstrip("/"), flags | os.O_CLOEXEC, mode)

    return open_in_root


def race(shared: Path, victim: Path, attempts: int) -> bool:
    """Make mount points below ``a`` until one has been made outside."""
    root = os.open(shared, os.O_PATH | os.O_DIRECTORY)
    try:
        for number in range(attempts):
            try:
                os.close(paths.make_mount_point(root, f"/a/new{number}", directory=number % 2 == 0))
            except OSError:
                pass
            if os.listdir(victim) != ["file"]:
                return True
        return False
    finally:
        os.close(root)


@pytest.mark.attack("mount-point-race")
def test_a_mount_point_is_made_inside_whoever_swaps_its_parts(
    shared: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2024-45310: empty files and directories on the host, by a volume that two containers share."""
    assert not race(shared, victim, 3000)
    monkeypatch.setattr(paths, "open_in_root", by_name(shared))
    assert race(shared, victim, 1_000_000)


@pytest.mark.attack("mount-point-race", "blocked")
def test_volumes_of_a_container_stay_in_it_whoever_swaps_their_parts(
    supervisor: Supervisor, shared: Path, victim: Path, rootfs: Path
) -> None:
    """CVE-2021-30465: a volume whose mount point lies in another volume, which somebody changes meanwhile."""
    volumes = [f"{shared}:/v", f"{victim}:/v/a/deep/new"]
    started = 0
    for _ in range(12):
        try:
            started += supervisor.client.run(None, str(rootfs), ["/bin/true"], volumes=volumes, rm=True).exit_code == 0
        except StartFailed:
            continue  # it was the link at that moment, which leads nowhere inside
    assert os.listdir(victim) == ["file"]
    print(f"{started} of 12 started")


FOLLOWED = paths.RESOLVE_IN_ROOT


@pytest.mark.attack("kernel-mount-moved")
@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_a_kernel_file_system_is_not_mounted_where_a_link_leads(
    unsupervised: Unsupervised, hostile: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The image has the place ready to which its link leads, and its own idea of the other one."""
    (hostile / "elsewhere").mkdir()
    (hostile / name).rename(hostile / f"old-{name}") if (hostile / name).exists() else None
    (hostile / name).symlink_to("elsewhere")
    ended = unsupervised.run("/bin/ls", "-A", "/elsewhere")
    assert ended.error == f"cannot start alpha: mount /{name}: openat2: too many levels of symbolic links (ELOOP)"
    followed = paths.openat2

    def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, _resolve: int = 0) -> int:
        return followed(dirfd, path, flags, mode, FOLLOWED)

    monkeypatch.setattr(paths, "openat2", openat2)
    assert {"proc": "self", "dev": "null", "sys": "kernel"}[name] in unsupervised.run("/bin/ls", "/elsewhere").lines


@pytest.mark.attack("volume-in-proc")
def test_a_volume_does_not_take_the_place_of_a_part_of_proc(
    unsupervised: Unsupervised, hostile: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hostile / "data").symlink_to("/proc/tty")
    mounted = (volume(victim, "/data"),)
    assert "inside /proc" in unsupervised.run("/bin/ls", "/proc/tty", mounts=mounted).error
    monkeypatch.setattr(Context, "is_in_proc", lambda *_: False)
    assert unsupervised.run("/bin/ls", "/proc/tty", mounts=mounted).lines == ["file"]


class MaskByItsOwn(steps.MaskStaged):
    """Masks with the /dev/null that the root file system has, when that is in its place: what runc did."""

    def execute(self, context: Context) -> None:
        null = paths.open_in_root(context.root, "/dev/null")
        target = paths.open_in_root(context.root, self.path)
        tree = mounts.clone_tree("", null)
        try:
            mounts.attach(tree, target)
        finally:
            for descriptor in (null, target, tree):
                os.close(descriptor)


@pytest.mark.attack("null-device-forged")
def test_what_masks_a_path_is_none_of_the_containers(
    unsupervised: Unsupervised, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hostile / "dev").mkdir(exist_ok=True)
    (hostile / "dev/null").unlink(missing_ok=True)
    (hostile / "dev/null").symlink_to("/proc/version")
    masked = "/proc/keys"
    assert unsupervised.run("/bin/cat", masked).lines == []
    monkeypatch.setitem(codec._STEPS, "MaskByItsOwn", MaskByItsOwn)

    def without(plan: list[Step]) -> list[Step]:
        return [step for step in plan if step != steps.MaskStaged(masked)]

    def late(plan: list[Step]) -> list[Step]:
        place = next(place for place, step in enumerate(plan) if step == steps.MoveStaged("/dev"))
        return [*plan[:place], MaskByItsOwn(masked), *plan[place:]]

    (shown,) = unsupervised.run("/bin/cat", masked, prepare=without, finish=late).lines
    assert shown.startswith("Linux version")


def without(kind: type) -> Change:
    return lambda plan: [step for step in plan if not isinstance(step, kind)]


class WriteLate(steps.AllowPing):
    """Writes to /proc by its path in the root file system: what runc did."""

    def execute(self, context: Context) -> None:
        with open("/root/proc/sys/net/ipv4/ping_group_range", "w") as file:
            file.write("500")


@pytest.mark.attack("proc-write-redirected")
def test_what_the_runtime_writes_to_proc_goes_nowhere_else(
    unsupervised: Unsupervised, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image has a /proc of its own, in which the file that the runtime writes is a link to one that it does not."""
    planted = hostile / "proc/sys/net/ipv4/ping_group_range"
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.symlink_to("/proc/self/oom_score_adj")
    script = "cat /proc/self/oom_score_adj; cat /proc/sys/net/ipv4/ping_group_range"
    assert unsupervised.shell(script).lines == ["0", "0\t2147483647"]
    monkeypatch.setitem(codec._STEPS, "WriteLate", WriteLate)

    def late(plan: list[Step]) -> list[Step]:
        place = plan.index(steps.MoveStaged("/proc"))
        return [*plan[:place], WriteLate(), *plan[place:]]

    assert unsupervised.shell(script, finish=late).lines[0] == "500"


@pytest.mark.attack("kernel-settings")
def test_settings_of_the_kernel_are_not_the_containers(unsupervised: Unsupervised) -> None:
    """Only that it could be written to: what is written is what is there."""
    script = """
        for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/panic; do
            value=$(cat $file); (echo "$value" >$file) && echo $file
        done; echo end
    """
    ended = unsupervised.shell(script)
    assert (ended.stdout, ended.stderr.count("Read-only file system")) == ("end\n", 2), ended
    assert len(unsupervised.shell(script, prepare=without(steps.ProtectStaged)).lines) == 3
    knob = "/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan"
    script = f"value=$(cat {knob}); (echo $value >{knob}) 2>/dev/null && echo written; echo end"
    assert unsupervised.shell(script).lines == ["end"]
    assert unsupervised.shell(script, prepare=without(steps.ReadOnlyStaged)).lines == ["written", "end"]


@pytest.mark.attack("kernel-information")
def test_the_hosts_secrets_in_proc_are_hidden(unsupervised: Unsupervised) -> None:
    script = "cat /proc/timer_list /proc/interrupts | wc -l"
    assert unsupervised.shell(script).lines == ["0"]
    (shown,) = unsupervised.shell(script, prepare=without(steps.MaskStaged)).lines
    assert int(shown) > 10


@pytest.mark.attack("device-files")
def test_a_device_file_of_the_root_opens_nothing(
    unsupervised: Unsupervised, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the image, and one that a container with CAP_MKNOD makes itself. /dev/zero stands for the host's disk."""
    os.mknod(hostile / "disk", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    script = "for f in /disk /own; do head -c 1 $f >/dev/null && echo $f; done; echo end"
    ended = unsupervised.shell(script)
    assert (ended.stdout, "/disk: Permission denied" in ended.stderr) == ("end\n", True), ended
    monkeypatch.setattr(mounts, "ROOT_ATTRIBUTES", mounts.MOUNT_ATTR_NOSUID)
    granted = with_capability("CAP_MKNOD")
    ended = unsupervised.shell(f"mknod /own c 1 5; {script}", prepare=granted, finish=granted)
    assert ended.lines == ["/disk", "/own", "end"]
