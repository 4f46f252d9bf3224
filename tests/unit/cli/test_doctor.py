"""``engine doctor`` on made-up hosts: what it finds, how to mend it, and its exit code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.cli import doctor
from wherry.cli.main import main

CGROUP2 = "25 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
BPFFS = "30 1 0:30 / /sys/fs/bpf rw - bpf bpf rw,mode=700\n"
CGROUP1 = "".join(
    f"2{n} 1 0:2{n} / /cg/{c} rw - cgroup cgroup rw,{c}\n" for n, c in enumerate(("memory", "cpu", "pids"))
)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """One that has everything."""
    for name in ("pid", "mnt", "uts", "ipc", "net", "cgroup"):
        write(tmp_path / "proc/self/ns" / name, "")
    write(tmp_path / "proc/filesystems", "nodev\ttmpfs\nnodev\toverlay\n")
    write(tmp_path / "proc/self/mountinfo", CGROUP2 + BPFFS)
    write(tmp_path / "sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    write(tmp_path / "dev/container_monitor", "")
    write(tmp_path / "sys/kernel/btf/vmlinux", "")
    write(tmp_path / "proc/sys/kernel/sched_autogroup_enabled", "0\n")
    write(tmp_path / "proc/pressure/memory", "")
    write(tmp_path / "dev/kmsg", "")
    write(tmp_path / "proc/sys/kernel/printk_devkmsg", "ratelimit\n")
    write(tmp_path / "sys/block/sda/queue/scheduler", "none mq-deadline [bfq]\n")
    names = ("MEMCG", "CFS_BANDWIDTH", "CGROUP_PIDS", "OVERLAY_FS", "BPF_SYSCALL", "POSIX_MQUEUE")
    write(tmp_path / f"boot/config-{os.uname().release}", "".join(f"CONFIG_{name}=y\n" for name in names))
    return tmp_path


def states(host: Path) -> dict[str, str]:
    return {finding.subject: finding.state for finding in doctor.examine(str(host)) if finding.subject != "user"}


def test_a_host_that_has_everything(host: Path) -> None:
    assert set(states(host).values()) == {"ok"}


def test_version_1(host: Path) -> None:
    write(host / "proc/self/mountinfo", CGROUP1)
    assert states(host)["control groups"] == "ok"
    assert states(host)["soft limits"] == "warning"


@pytest.mark.parametrize(
    ("mounts", "pressure", "found"),
    [
        (CGROUP1, True, "not on this host: --soft-action reclaim or throttle, memory-pressure events"),
        (CGROUP1 + CGROUP2, True, "not on this host: --soft-action reclaim or throttle"),
        (CGROUP2, False, "not on this host: memory-pressure events"),
        (CGROUP2, True, "with actions and memory-pressure events"),
    ],
    ids=["version 1", "hybrid", "psi=0", "version 2"],
)
def test_what_soft_limits_can_do(host: Path, mounts: str, pressure: bool, found: str) -> None:
    write(host / "proc/self/mountinfo", mounts)
    if not pressure:
        (host / "proc/pressure/memory").unlink()
    (finding,) = [finding for finding in doctor.examine(str(host)) if finding.subject == "soft limits"]
    assert finding.found == found


WITHOUT = {
    "namespaces": ("proc/self/ns/net", "problem", "CONFIG_NET_NS"),
    "overlayfs": ("proc/filesystems", "problem", "modprobe overlay"),
    "control groups": ("proc/self/mountinfo", "problem", "mount -t cgroup2"),
    "bpffs": ("proc/self/mountinfo", "warning", "mount -t bpf"),
    "kernel module": ("dev/container_monitor", "warning", "bpf or cgroup hold memory limits"),
    "I/O weights": ("sys/block/sda/queue/scheduler", "warning", "echo bfq"),
    "kernel log": ("dev/kmsg", "warning", "mknod"),
    "BPF": ("sys/kernel/btf/vmlinux", "warning", "CONFIG_DEBUG_INFO_BTF"),
}


@pytest.mark.parametrize("subject", WITHOUT)
def test_what_is_missing_is_named_with_its_remedy(host: Path, subject: str) -> None:
    path, state, fix = WITHOUT[subject]
    (host / path).unlink()
    (found,) = [finding for finding in doctor.examine(str(host)) if finding.subject == subject]
    assert found.state == state
    assert fix in found.fix


def test_a_missing_controller_autogroup_and_a_missing_option_are_warnings(host: Path) -> None:
    write(host / "sys/fs/cgroup/cgroup.controllers", "cpu pids\n")
    write(host / "proc/sys/kernel/sched_autogroup_enabled", "1\n")
    write(host / "proc/sys/kernel/printk_devkmsg", "off\n")
    write(host / f"boot/config-{os.uname().release}", "# CONFIG_MEMCG is not set\n")
    found = states(host)
    (backstop,) = [each for each in doctor.examine(str(host)) if each.subject == "memory backstop"]
    assert backstop.found.startswith("no backstop: ")
    assert {
        found[name] for name in ("control groups", "memory backstop", "autogroup", "kernel log", "kernel options")
    } == {"warning"}


def test_nothing_can_hold_memory_limits(host: Path) -> None:
    for path in ("dev/container_monitor", "sys/kernel/btf/vmlinux", "proc/self/mountinfo"):
        (host / path).unlink()
    assert states(host)["memory limits"] == "warning"


@pytest.mark.parametrize(("lacks", "code"), [("", 0), ("dev/container_monitor", 0), ("proc/filesystems", 1)])
def test_the_exit_code(
    host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lacks: str, code: int
) -> None:
    if lacks:
        (host / lacks).unlink()
    findings = [finding for finding in doctor.examine(str(host)) if finding.subject != "user"]
    monkeypatch.setattr(doctor, "examine", lambda _root: findings)
    assert main(["doctor"]) == code
    out = capsys.readouterr().out
    assert out.startswith("ok       namespaces: ")
    assert ("\n         -> " in out) == bool(lacks)
