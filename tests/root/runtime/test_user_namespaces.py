"""Containers in a user namespace of their own, without a supervisor: root inside is nobody outside."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.programs import kept
from tests.forked import in_child
from tests.patience import PATIENCE
from tests.root.harness import Traces
from tests.root.runtime.unsupervised import Unsupervised, namespace_with

from wherry.kernel import id_maps, libc, mounts, namespaces
from wherry.kernel.id_maps import IdMap
from wherry.kernel.process import set_oom_score_adjustment
from wherry.runtime import init, launch
from wherry.runtime.spec import Mount, Scheduler
from wherry.runtime.steps import AwaitIds, DropPrivileges, LimitBoundingSet, Step
from wherry.runtime.user_namespace import UserNamespace
from wherry.storage.layers import Layers, Mapping, clone_writable, open_rootfs

pytestmark = pytest.mark.root

MAP = IdMap.of([[0, 300000, 65536]], [[0, 500000, 65536]])
OUTSIDE = 70000
"""No id inside."""


@pytest.fixture
def rootfs(rootfs: Path, tmp_path: Path) -> Path:
    """On a file system that can map ids, which a guest's initramfs cannot."""

    def can_be_mapped() -> bool:
        with namespace_with(MAP) as namespace:
            tree = mounts.clone_tree(str(rootfs))
            try:
                id_maps.map_mount(tree, namespace)
            except OSError:
                return False
            finally:
                os.close(tree)
        return True

    if in_child(can_be_mapped):
        return rootfs
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", rootfs, copy], check=True, timeout=PATIENCE)
    return copy


@pytest.fixture
def unsupervised(rootfs: Path, tmp_path: Path, leftovers: Traces) -> Unsupervised:
    assert leftovers.directory == str(tmp_path)
    return Unsupervised(rootfs, tmp_path)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    directory = tmp_path / "volume"
    directory.mkdir()
    return directory


def mounted(source: Path, *options: str) -> dict[str, Any]:
    return {"mounts": (Mount(destination="/v", type="bind", source=str(source), options=("rbind", *options)),)}


def made(path: Path, owner: int, mode: int = 0o600, content: str = "of the host\n") -> Path:
    path.write_text(content)
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def test_ids(unsupervised: Unsupervised) -> None:
    """No more of them than there are, and as many groups as a process likes to be in."""
    script = (
        "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; stat -c %u:%g / /dev /dev/shm"
    )
    lines = [line.split() for line in unsupervised.shell(script, id_map=MAP).lines]
    assert lines[:5] == [["0"], ["0"], ["0", "300000", "65536"], ["0", "500000", "65536"], ["allow"]]
    assert lines[5:] == [["0:0"]] * 3


def test_who_it_is_outside(unsupervised: Unsupervised) -> None:
    """Also a process that waits to be used: no process of a container is ever root's."""

    def owners() -> list[str]:
        parked = unsupervised.park("/bin/true", id_map=MAP)
        assert parked.wait_ready()
        status = Path(f"/proc/{parked.pid}/status").read_text().splitlines()
        parked.end(parked.finish())
        return [line for line in status if line.startswith(("Uid:", "Gid:"))]

    uids, gids = (line.split()[1:] for line in unsupervised.apart(owners))
    assert (set(uids), set(gids)) == ({"300000"}, {"500000"})


def test_files_of_a_layer_are_roots_on_disk(unsupervised: Unsupervised) -> None:
    """So that a layer can be used with other ids another time; the directory below is left alone."""
    before = os.stat(unsupervised.rootfs / "etc/passwd")
    script = "touch /made; chown 7:8 /made; rm /etc/group; echo x >>/etc/passwd; mkdir /d; mv /etc/hostname.no /d 2>&1"
    assert unsupervised.shell(script, id_map=MAP).report.executed
    (upper,) = unsupervised.layers.glob("*/upper")
    status = os.stat(upper / "made")
    assert (status.st_uid, status.st_gid) == (7, 8)
    assert {os.stat(upper / name).st_uid for name in ("", "etc/passwd", "d")} == {0}
    assert stat.S_ISCHR(os.lstat(upper / "etc/group").st_mode)  # a whiteout
    assert os.stat(unsupervised.rootfs / "etc/passwd") == before


def test_a_layer_fits_other_ids(unsupervised: Unsupervised) -> None:
    """What was made under one range belongs to the same users under the next."""

    def again() -> list[str]:
        lines = []
        directory, layers = open_rootfs(str(unsupervised.rootfs)), Layers(unsupervised.layers, 0)
        layer = ""
        for start in (300000, 900000):
            id_map = IdMap.of([[0, start, 65536]], [[0, start, 65536]])
            with namespace_with(id_map) as descriptor:
                layer, root = layers.mount(layer, directory, Mapping(id_map, descriptor))
            if start == 300000:
                libc.setfsgid(start)  # who is nobody inside can make no file there
                libc.setfsuid(start)
                os.close(os.open("made", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=root))
                libc.setfsuid(0)
                os.chown("made", start + 5, start + 6, dir_fd=root)
            status = os.stat("made", dir_fd=root)
            lines.append(f"{status.st_uid - start}:{status.st_gid - start}")
            os.close(root)
        layers.close()
        os.close(directory)
        return lines

    assert unsupervised.apart(again) == ["5:6", "5:6"]


def test_volumes(unsupervised: Unsupervised, volume: Path) -> None:
    """Ids inside are those on disk, and no file is given to anybody."""
    made(volume / "mine", 33, content="")
    script = "stat -c %u:%g /v/mine; echo x >/v/new; chown -R 44:45 /v; stat -c %u:%g /v/mine /v/new"
    assert unsupervised.shell(script, id_map=MAP, **mounted(volume, "ridmap")).lines == ["33:33", "44:45", "44:45"]
    assert {(os.stat(volume / name).st_uid, os.stat(volume / name).st_gid) for name in ("mine", "new")} == {(44, 45)}


def test_a_mount_below_a_volume_is_mapped_as_well(unsupervised: Unsupervised, volume: Path, tmp_path: Path) -> None:
    (volume / "below").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    made(other / "file", 33)

    def run() -> list[str]:
        namespaces.unshare(["mount"])
        mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_PRIVATE)
        mounts.mount(str(other), str(volume / "below"), "", mounts.MS_BIND)
        parked = unsupervised.park("/bin/stat", "-c", "%u", "/v/below/file", id_map=MAP, **mounted(volume, "ridmap"))
        assert parked.wait_ready()
        return parked.end(parked.finish()).lines

    assert unsupervised.apart(run) == ["33"]


def test_programs_of_root_in_a_volume(unsupervised: Unsupervised, volume: Path) -> None:
    """What docs/security.md warns of: on the host they are root's, too. Inside they give nothing."""
    script = "cp /bin/busybox /v/sh; chmod 4755 /v/sh; grep NoNewPrivs /proc/self/status"
    assert unsupervised.shell(script, id_map=MAP, **mounted(volume, "ridmap")).lines == ["NoNewPrivs:\t1"]
    status = (volume / "sh").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o4755)


def test_read_only_volumes_stay_so(unsupervised: Unsupervised, volume: Path) -> None:
    ended = unsupervised.shell("echo x >/v/new", id_map=MAP, **mounted(volume, "ridmap", "ro"))
    assert "Read-only file system" in ended.stderr
    assert not list(volume.iterdir())


@pytest.mark.attack("root-of-the-host")
@pytest.mark.parametrize("mapped", [True, False])
def test_what_belongs_to_ids_that_there_are_not(unsupervised: Unsupervised, volume: Path, mapped: bool) -> None:
    """Root inside sees nobody's file, and can neither read, take nor remove it. Without ids of its own it does all of
    that.
    """
    made(volume / "secret", OUTSIDE)
    script = "stat -c %u /v/secret; cat /v/secret; chown 0 /v/secret; rm -f /v/secret; ls /v"
    ended = unsupervised.shell(script, id_map=MAP if mapped else None, **mounted(volume, *["ridmap"][:mapped]))
    if not mapped:
        assert ended.lines == [str(OUTSIDE), "of the host"]
        return
    assert ended.stdout.split() == ["65534", "secret"]
    for refused in ("Permission denied", "Operation not permitted", "Value too large"):
        assert refused in ended.stderr


@pytest.mark.attack("root-of-the-host")
@pytest.mark.parametrize("mapped", [True, False])
def test_what_capabilities_are_good_for(unsupervised: Unsupervised, volume: Path, mapped: bool) -> None:
    """Somebody who has got all of them: nothing on the host. Without ids of its own he makes himself a disk."""

    def with_all(plan: list[Step]) -> list[Step]:
        plan = [step for step in plan if not isinstance(step, LimitBoundingSet)]
        return [
            step._replace(effective=CAPABILITIES, permitted=CAPABILITIES) if isinstance(step, DropPrivileges) else step
            for step in plan
        ]

    script = "mknod /v/disk b 254 0 && echo made"
    fields: dict[str, Any] = {
        "id_map": MAP if mapped else None,
        "filtered": False,
        **mounted(volume, *["ridmap"][:mapped]),
    }
    ended = unsupervised.run("/bin/sh", "-c", script, prepare=with_all, finish=with_all, **fields)
    assert ("made" in ended.stdout) != mapped, ended
    assert (volume / "disk").exists() != mapped


CAPABILITIES = 1 << 27 | 1 << 21 | 0xFF  # MKNOD, SYS_ADMIN and those of files


@pytest.mark.parametrize("defended", [True, False])
def test_no_score_below_that_of_the_container(
    unsupervised: Unsupervised, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """Its parent has a lower one, as the shim has, and could hand on the right to it, where it has CAP_SYS_RESOURCE."""
    if not defended:
        monkeypatch.setattr(UserNamespace, "give", lambda given, pid: id_maps.write(pid, given.id_map))

    def lowest() -> str:
        with suppress(PermissionError):  # CAP_SYS_RESOURCE; without it nobody can lower anything, nor what may be set
            set_oom_score_adjustment(-500)
        parked = unsupervised.park("/bin/sh", "-c", "echo -1 >/proc/self/oom_score_adj && echo done", id_map=MAP)
        assert parked.wait_ready()
        ended = parked.end(parked.finish())
        has_right = "-500" in Path("/proc/self/oom_score_adj").read_text()
        return ended.stderr + ended.stdout if defended or has_right else "done"

    assert ("Permission denied" if defended else "done") in unsupervised.apart(lowest)


@pytest.mark.parametrize("user", ["", "1000:1000"])
def test_output_can_be_opened_again(unsupervised: Unsupervised, user: str) -> None:
    script = "echo one >/dev/stdout; echo two >/proc/self/fd/2"
    ended = unsupervised.shell(script, id_map=MAP, user=user)
    assert (ended.stdout, ended.stderr) == ("one\n", "two\n")


@pytest.mark.parametrize(
    ("fields", "script", "said"),
    [
        ({"scheduler": Scheduler(nice=-5)}, "cut -d' ' -f19 /proc/self/stat", ["-5"]),
        ({"scheduler": Scheduler(policy="SCHED_BATCH")}, "cut -d' ' -f41 /proc/self/stat", ["3"]),
        ({}, "ulimit -e; ulimit -r; ulimit -n", None),
    ],
)
def test_limits_and_scheduling(
    unsupervised: Unsupervised, fields: dict[str, Any], script: str, said: list[str] | None
) -> None:
    """The same as without ids of its own, and nothing that it could change afterwards."""
    expected = unsupervised.shell(script, **fields).lines if said is None else said
    assert unsupervised.shell(script, id_map=MAP, **fields).lines == expected


def test_devices_terminals_and_ping(unsupervised: Unsupervised) -> None:
    script = (
        "echo x >/dev/null; head -c2 /dev/zero | wc -c; ls /dev/pts; stat -c %a /dev/ptmx /dev/pts/ptmx"
        "; cat /proc/sys/net/ipv4/ping_group_range; touch /dev/shm/x /dev/mqueue/x && echo made"
    )
    lines = unsupervised.shell(script, id_map=MAP).lines
    assert lines == ["2", "ptmx", "777", "666", "0\t65535", "made"]


def test_masks_and_read_only_paths_hold(unsupervised: Unsupervised) -> None:
    writes = "echo 1 >/proc/sys/kernel/panic; echo b >/proc/sys/kernel/tainted; mkdir /sys/x"
    script = f"wc -c </proc/keys; {writes}; ls /sys/firmware"
    ended = unsupervised.shell(script, id_map=MAP)
    assert ended.stdout == "0\n"
    assert ended.stderr.count("Read-only file system") == 3


def test_the_directory_itself(tmp_path: Path, leftovers: Traces) -> None:
    """``--rw-rootfs``: its files are the container's, and stay those of the same ids on disk."""
    assert not leftovers.find()
    made(tmp_path / "file", 33)

    def owner() -> tuple[int, int]:
        directory = open_rootfs(str(tmp_path))
        with namespace_with(MAP) as descriptor:
            root = clone_writable(directory, Mapping(MAP, descriptor))
        status = os.stat("file", dir_fd=root)
        os.close(root)
        os.close(directory)
        return status.st_uid, status.st_gid

    assert in_child(owner) == (300033, 500033)


def test_a_file_system_without_support(unsupervised: Unsupervised) -> None:
    """Also one below: sysfs, and what is mounted in it."""
    message = (
        "volume /sys/kernel:/v cannot be shown with the ids of a user namespace: its file system, .* does not supp"
    )
    with pytest.raises(AssertionError, match=message):
        unsupervised.shell("true", id_map=MAP, **mounted(Path("/sys/kernel"), "ridmap"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user": f"{OUTSIDE}"}, f"user id {OUTSIDE} does not exist in the container's user namespace: it has 0-65535"),
        ({"user": f"1:{OUTSIDE}"}, f"group id {OUTSIDE} does not exist"),
        ({"network": "host"}, "needs a network namespace of its own"),
    ],
)
def test_what_a_mapping_forbids(unsupervised: Unsupervised, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        unsupervised.shell("true", id_map=MAP, **fields)


def test_a_host_that_hides_parts_of_proc(unsupervised: Unsupervised) -> None:
    """As in a container of docker's: the kernel then shows a user namespace no proc at all."""

    def run() -> str:
        namespaces.unshare(["mount"])
        mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_PRIVATE)
        mounts.mount("tmpfs", "/proc/fs", "tmpfs", mounts.MS_RDONLY)
        parked = unsupervised.park("/bin/true", id_map=MAP)
        assert not parked.wait_ready()
        report = parked.wait_executed()
        parked.wait()
        return str(launch.start_error("alpha", report.failure or {}))

    message = unsupervised.apart(run)
    assert message.startswith(
        "cannot start alpha: mount /proc: something is mounted over a part of the host's own proc"
    )


def test_ids_that_the_kernel_refuses(unsupervised: Unsupervised) -> None:
    """Nothing is left of the child that waits for them."""

    def spawn() -> str:
        channel, theirs = socket.socketpair()
        twice = IdMap.of([[0, 300000, 10], [5, 400000, 10]], [[0, 500000, 10]])
        with channel, theirs, pytest.raises(OSError, match="Invalid argument") as raised:
            launch.spawn([], {launch.CHANNEL: theirs.fileno()}, ["user", "pid"], [], UserNamespace(twice, 0))
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return str(raised.value.filename)

    assert re.fullmatch(r"/proc/\d+/uid_map", unsupervised.apart(spawn))


def test_a_parent_that_dies_before_it_has_given_ids(unsupervised: Unsupervised) -> None:
    """The child does not go on as nobody: it ends."""

    def spawn() -> int:
        channel, theirs = socket.socketpair()
        gate, opener = os.pipe()
        pid, pidfd = namespaces.fork_into(["user", "pid"])
        if pid == 0:
            init.main(theirs.fileno(), [AwaitIds(launch.GATE)], {launch.GATE: gate})
        for descriptor in (gate, opener):
            os.close(descriptor)
        information = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        theirs.close()
        with channel:
            failure = launch.parse_reports(channel.recv(1000)).failure
            assert "the parent has gone" in str(launch.start_error("alpha", failure or {}))
            assert channel.recv(100) == b""
        assert information is not None
        return information.si_status

    assert unsupervised.apart(spawn) == init.EXIT_SETUP


@pytest.mark.attack("keys")
@pytest.mark.parametrize("mapped", [True, False])
def test_keys_of_the_host_s_root(unsupervised: Unsupervised, mapped: bool) -> None:
    """Without a filter they are in reach of root in the host's user namespace alone."""
    program = kept("user_keys")
    subprocess.run([program, "add", "wherry-userns-key", "secret of the host"], check=True, timeout=PATIENCE)
    fields: dict[str, Any] = {"id_map": MAP if mapped else None, "filtered": False, **mounted(program)}
    try:
        ended = unsupervised.run("/v", "read", "wherry-userns-key", **fields)
    finally:
        subprocess.run([program, "remove", "wherry-userns-key"], check=True, timeout=PATIENCE)
    assert (ended.stdout == "secret of the host\n") != mapped, ended
