"""Capability sets, network interfaces and control groups of processes of their own."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.forked import in_child
from tests.patience import PATIENCE
from tests.waiting import wait_until

from wherry.kernel import capabilities, cgroups, interfaces, libc, namespaces
from wherry.kernel.cgroups import Group

_PR_CAPBSET_READ = 23

pytestmark = pytest.mark.root
CHOWN, SETPCAP, RAW = (capabilities.mask_of([name]) for name in ("CAP_CHOWN", "CAP_SETPCAP", "CAP_NET_RAW"))


def sets() -> dict[str, int]:
    """The capability sets of this process by their names in proc(5), without "Cap": Eff, Prm, Inh, Bnd, Amb."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line[3:6]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}


@pytest.mark.parametrize("keep", [0, CHOWN, CHOWN | RAW | SETPCAP])
def test_limit_bounding_set(keep: int) -> None:
    """Also of capabilities that are younger than our list: nothing but ``keep`` is left."""

    def measure() -> tuple[dict[str, int], dict[str, int], list[bool]]:
        before = sets()
        capabilities.limit_bounding_set(keep)
        return before, sets(), [libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1 for number in range(14)]

    before, after, known = in_child(measure)
    assert after["Bnd"] == keep
    assert {name: mask for name, mask in after.items() if name != "Bnd"} == {
        name: mask for name, mask in before.items() if name != "Bnd"
    }
    assert known == [bool(keep >> number & 1) for number in range(14)]


def test_apply() -> None:
    def measure() -> dict[str, int]:
        capabilities.apply(CHOWN, CHOWN | RAW, RAW, RAW)
        return sets()

    after = in_child(measure)
    assert [after[name] for name in ("Eff", "Prm", "Inh", "Amb")] == [CHOWN, CHOWN | RAW, RAW, RAW]


def test_what_was_ambient_before_is_not_any_more() -> None:
    def measure() -> int:
        capabilities.apply(CHOWN, CHOWN, CHOWN, CHOWN)
        capabilities.apply(CHOWN, CHOWN, CHOWN, 0)
        return sets()["Amb"]

    assert in_child(measure) == 0


def test_dropped_capabilities_do_not_come_back() -> None:
    def measure() -> int | None:
        capabilities.apply(CHOWN, CHOWN, 0, 0)
        with pytest.raises(PermissionError) as caught:
            capabilities.apply(CHOWN | RAW, CHOWN | RAW, 0, 0)
        assert libc.call_of(caught.value) == "capset"
        return caught.value.errno

    assert in_child(measure) == errno.EPERM


@pytest.mark.parametrize("keep", [False, True])
def test_keep_across_setuid(keep: bool) -> None:
    def measure() -> int:
        capabilities.keep_across_setuid(keep)
        os.setresuid(1000, 1000, 1000)
        return sets()["Prm"]

    assert bool(in_child(measure)) is keep


def test_loopback() -> None:
    def send() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(PATIENCE)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"hello", receiver.getsockname())
            return receiver.recv(10)

    def measure() -> bytes:
        namespaces.unshare(["network"])
        assert [name for _, name in socket.if_nameindex()][:1] == ["lo"]
        with pytest.raises(OSError, match="Network is unreachable"):
            send()
        interfaces.bring_up("lo")
        interfaces.bring_up("lo")
        return send()

    assert in_child(measure) == b"hello"


def test_no_such_interface() -> None:
    with pytest.raises(OSError, match="No such device"):
        interfaces.bring_up("nosuch0")


@pytest.fixture
def group() -> Iterator[Group]:
    """A real group, ``wherry-test-<random>/c``, gone afterwards."""
    layout = cgroups.detect()
    parent = Group(layout, f"wherry-test-{secrets.token_hex(4)}")
    made = Group(layout, f"{parent.path}/c")
    made.create()
    yield made
    wait_until(made.remove)
    assert parent.remove()
    assert not any(os.path.exists(directory) for directory in parent.directories.values())


def test_processes_of_a_group(group: Group) -> None:
    assert group.processes() == []
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as member:
        for path in group.process_files():
            Path(path).write_text(str(member.pid))
        assert group.processes() == [member.pid]
        assert not group.remove()
        assert cgroups.children(group.layout, os.path.dirname(group.path)) == ["c"]
        member.kill()
    wait_until(group.remove)
    assert cgroups.children(group.layout, os.path.dirname(group.path)) == []


def test_a_process_joins_by_writing_0(group: Group) -> None:
    def measure() -> str:
        for path in group.process_files():
            Path(path).write_text("0")
        return Path("/proc/self/cgroup").read_text()

    lines = in_child(measure).splitlines()
    joined = {line.split(":", 2)[1] for line in lines if line.endswith(f":/{group.path}")}
    assert {"memory", "pids", "cpu"} <= joined or joined == {""}


def test_a_limit_that_the_kernel_refuses_is_named(group: Group) -> None:
    with pytest.raises(OSError, match=r"pids\.max") as caught:
        group.write("pids", "pids.max", "many")
    assert caught.value.errno == errno.EINVAL
    group.write("pids", "pids.max", 7)
    assert group.read("pids", "pids.max") == "7"


@pytest.mark.host_variant
def test_devices_of_version_1(group: Group) -> None:
    if "devices" not in group.directories:
        pytest.skip("needs the devices controller of version 1")
    cgroups.restrict_devices(group)

    def measure() -> None:
        Path(f"{group.directories['devices']}/cgroup.procs").write_text("0")
        Path("/dev/null").write_text("x")
        assert len(os.urandom(1)) == 1
        os.close(os.open("/dev/zero", os.O_RDWR))
        with pytest.raises(PermissionError):
            os.open("/dev/kmsg", os.O_RDONLY)

    in_child(measure)
