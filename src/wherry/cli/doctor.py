"""``engine doctor``: what this host has of what the engine needs, and how to get the rest. Needs no supervisor."""

from __future__ import annotations

import os

from wherry.cli import formats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.cli.parser import Namespace, Parser

_NAMESPACES = ("pid", "mnt", "uts", "ipc", "net", "cgroup")
_CONTROLLERS = ("memory", "cpu", "pids")
_OPTIONS = ("MEMCG", "CFS_BANDWIDTH", "CGROUP_PIDS", "OVERLAY_FS", "BPF_SYSCALL", "POSIX_MQUEUE")
OK, WARNING, PROBLEM = "ok", "warning", "problem"


class Finding:
    """One line: ``state``, what was looked at, what was found, and how to mend it ("" when there is nothing to)."""

    def __init__(self, state: str, subject: str, found: str, fix: str = "") -> None:
        self.state = state
        self.subject = subject
        self.found = found
        self.fix = fix

    def as_dict(self) -> dict[str, str]:
        return {"State": self.state, "Subject": self.subject, "Found": self.found, "Fix": self.fix}


def add_doctor(parser: Parser) -> None:
    parser.description = (
        "Look at what this host has of what the supervisor needs, and say how to get the rest.\n"
        "Ends with 1 when something is missing that nothing works without; a warning is no problem."
    )
    parser.epilog = f"{formats.ABOUT}\n{' ' * 20}keys and fields: State Subject Found Fix"
    formats.add(parser, "text")
    parser.run = doctor


def doctor(args: Namespace) -> int:
    findings = examine("/")
    if args.format != "text":
        print(formats.rendered(args.format, [finding.as_dict() for finding in findings]), end="")
    else:
        _print(findings)
    return 1 if any(finding.state == PROBLEM for finding in findings) else 0


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        print(f"{finding.state:8} {finding.subject}: {finding.found}")
        if finding.fix:
            print(f"{'':8} -> {finding.fix}")


def examine(root: str) -> list[Finding]:
    """Of the host whose /proc, /sys, /dev and /boot are below ``root``."""
    checks: tuple[Callable[[str], Finding], ...] = (
        _root,
        _namespaces,
        _overlay,
        _cgroups,
        _module,
        _bpf,
        _enforcer,
        _soft_limits,
        _backstop,
        _pins,
        _kernel_log,
        _autogroup,
        _io_weight,
        _kernel_options,
    )
    return [check(root) for check in checks]


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _root(_root: str) -> Finding:
    if os.geteuid() == 0:
        return Finding(OK, "user", "root")
    return Finding(PROBLEM, "user", f"uid {os.geteuid()}", "run the supervisor as root")


def _namespaces(root: str) -> Finding:
    missing = [name for name in _NAMESPACES if not os.path.lexists(f"{root}/proc/self/ns/{name}")]
    if not missing:
        return Finding(OK, "namespaces", " ".join(_NAMESPACES))
    options = " ".join("CONFIG_NAMESPACES" if name == "mnt" else f"CONFIG_{name.upper()}_NS" for name in missing)
    return Finding(PROBLEM, "namespaces", f"missing: {' '.join(missing)}", f"boot a kernel with {options}")


def _overlay(root: str) -> Finding:
    if "\toverlay\n" in (_read(f"{root}/proc/filesystems") or ""):
        return Finding(OK, "overlayfs", "there")
    fix = "modprobe overlay; without it only --rw-rootfs works"
    return Finding(PROBLEM, "overlayfs", "the kernel does not offer it", fix)


def _hierarchies(root: str) -> tuple[set[str], set[str]]:
    """The controllers of version 1 and of version 2 that are mounted."""
    version1: set[str] = set()
    version2: set[str] = set()
    for line in (_read(f"{root}/proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        words = after.split(" ", 2)
        if words[0] == "cgroup" and len(words) == 3:
            version1 |= set(words[2].split(",")) & set(_CONTROLLERS)
        elif words[0] == "cgroup2":
            offered = _read(f"{root}/{before.split(' ')[4]}/cgroup.controllers") or ""
            version2 |= set(offered.split()) & set(_CONTROLLERS)
    return version1, version2


def _cgroups(root: str) -> Finding:
    version1, version2 = _hierarchies(root)
    version, found = (1, version1) if version1 & {"memory", "pids"} else (2, version2)
    missing = [name for name in _CONTROLLERS if name not in found]
    if not found:
        fix = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        return Finding(PROBLEM, "control groups", "no hierarchy with controllers is mounted", fix)
    if missing:
        fix = "boot with cgroup_enable=memory" if "memory" in missing else "mount the controller, or enable it at boot"
        return Finding(WARNING, "control groups", f"version {version}, without {' '.join(missing)}", fix)
    if version == 2 and not _delegates(root):
        fix = "mount -o remount,nsdelegate /sys/fs/cgroup; limits hold all the same, in groups out of containers' reach"
        return Finding(WARNING, "control groups", "version 2, mounted without nsdelegate", fix)
    return Finding(OK, "control groups", f"version {version}: {' '.join(_CONTROLLERS)}")


def _delegates(root: str) -> bool:
    """Whether a control group namespace is a boundary for the kernel itself (cgroup-v2.rst, "Delegation")."""
    lines = (_read(f"{root}/proc/self/mountinfo") or "").splitlines()
    of_groups = [line.partition(" - ")[2].split(" ")[-1] for line in lines if " - cgroup2 " in line]
    return any("nsdelegate" in options.split(",") for options in of_groups)


def _has_module(root: str) -> bool:
    return os.path.exists(f"{root}/dev/container_monitor")


def _has_bpf(root: str) -> bool:
    return os.path.exists(f"{root}/sys/kernel/btf/vmlinux")


def _module(root: str) -> Finding:
    if _has_module(root):
        return Finding(OK, "kernel module", "/dev/container_monitor is there")
    if not os.path.exists(f"{root}/proc/modules"):
        return Finding(
            WARNING, "kernel module", "this kernel loads no modules", "none: bpf or cgroup hold memory limits"
        )
    fix = "make -C kmod && insmod kmod/monitor.ko; without it bpf or cgroup hold memory limits"
    return Finding(WARNING, "kernel module", "not loaded", fix)


def _bpf(root: str) -> Finding:
    if _has_bpf(root):
        return Finding(OK, "BPF", "the kernel describes its types (BTF)")
    fix = (
        "boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_DEBUG_INFO_BTF; without it kmod or cgroup hold memory limits"
    )
    return Finding(WARNING, "BPF", "there is no /sys/kernel/btf/vmlinux", fix)


def _enforcer(root: str) -> Finding:
    candidates = [
        *(["kmod"] if _has_module(root) else []),
        *(["bpf"] if _has_bpf(root) else []),
        *(["cgroup"] if "memory" in set.union(*_hierarchies(root)) else []),
    ]
    if candidates:
        # Whether one really works only its self-test says, which the supervisor makes when it starts.
        return Finding(OK, "memory limits", f"candidates: {' '.join(candidates)} (engine info shows the one in use)")
    return Finding(WARNING, "memory limits", "nothing can hold them", "see kernel module, BPF and control groups above")


def _soft_limits(root: str) -> Finding:
    """What they do beside being told; all of it is of version 2, pressure also where that is mounted without
    controllers.
    """
    version1, version2 = _hierarchies(root)
    missing, fixes = [], []
    if "memory" not in version2 or version1 & {"memory", "pids"}:
        missing.append("--soft-action reclaim or throttle")
        fixes.append("boot with systemd.unified_cgroup_hierarchy=1 (control groups version 2)")
    has_tree = " - cgroup2 " in (_read(f"{root}/proc/self/mountinfo") or "")
    if not has_tree or not os.path.exists(f"{root}/proc/pressure/memory"):
        missing.append("memory-pressure events")
        fixes.append("boot with psi=1" if has_tree else "mount a cgroup2 hierarchy")
    if missing:
        return Finding(WARNING, "soft limits", f"not on this host: {', '.join(missing)}", "; ".join(fixes))
    return Finding(OK, "soft limits", "with actions and memory-pressure events")


def _backstop(root: str) -> Finding:
    """What counts for a hard limit that sums the resident memory of processes, beside that."""
    subject = "memory backstop"
    if "memory" in set.union(*_hierarchies(root)):
        return Finding(OK, subject, "a memory group stands behind every hard limit")
    missed = "files of tmpfs and memfd that are not mapped, page tables, swap, buffers of sockets and pipes"
    found = f"no backstop: hard limits count resident memory only, not {missed}, other kernel memory"
    return Finding(WARNING, subject, found, "boot with cgroup_enable=memory")


def _pins(root: str) -> Finding:
    """For ``--pin-enforcer``."""
    lines = (_read(f"{root}/proc/self/mountinfo") or "").splitlines()
    found = [line.split(" ")[4] for line in lines if line.partition(" - ")[2].startswith("bpf ")]
    if found:
        return Finding(OK, "bpffs", f"mounted at {found[0]}: limits can outlive supervisor and shim (--pin-enforcer)")
    fix = "mount -t bpf -o mode=700 bpf /sys/fs/bpf, where --pin-enforcer is wanted"
    return Finding(WARNING, "bpffs", "not mounted: limits by bpf end when supervisor and shim die together", fix)


def _kernel_log(root: str) -> Finding:
    """Where the supervisor tells of crossed limits, beside its own log and the events."""
    subject, events = "kernel log", "engine events tells of crossed limits all the same"
    if (_read(f"{root}/proc/sys/kernel/printk_devkmsg") or "").strip() == "off":
        fix = f"sysctl kernel.printk_devkmsg=ratelimit; {events}"
        return Finding(WARNING, subject, "programs may not write to it (printk_devkmsg is off)", fix)
    try:
        os.close(os.open(f"{root}/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return Finding(WARNING, subject, "there is no /dev/kmsg", f"mknod -m 644 /dev/kmsg c 1 11; {events}")
    except OSError as error:
        return Finding(WARNING, subject, f"/dev/kmsg cannot be written: {error.strerror}", events)
    return Finding(OK, subject, "crossed memory limits are told in it")


def _autogroup(root: str) -> Finding:
    if (_read(f"{root}/proc/sys/kernel/sched_autogroup_enabled") or "0").strip() == "0":
        return Finding(OK, "autogroup", "off")
    fix = "sysctl kernel.sched_autogroup_enabled=0, where nice values of processes in different sessions are compared"
    return Finding(
        WARNING,
        "autogroup",
        "on: nice values of plain processes count within a session only (--nice of containers is not concerned)",
        fix,
    )


def _io_weight(root: str) -> Finding:
    """The kernel takes a weight whether or not a disk's scheduler looks at it."""
    try:
        disks = sorted(os.listdir(f"{root}/sys/block"))
    except OSError:
        disks = []
    weighing = [disk for disk in disks if "[bfq]" in (_read(f"{root}/sys/block/{disk}/queue/scheduler") or "")]
    if weighing:
        return Finding(OK, "I/O weights", f"bfq schedules {' '.join(weighing)}")
    fix = "echo bfq > /sys/block/DISK/queue/scheduler, where --io-weight is wanted"
    return Finding(WARNING, "I/O weights", "no disk's scheduler is bfq: --io-weight has no effect", fix)


def _kernel_options(root: str) -> Finding:
    text = _config(root)
    if text is None:
        return Finding(OK, "kernel options", "the kernel's configuration is not to be read here")
    missing = [name for name in _OPTIONS if f"CONFIG_{name}=y" not in text and f"CONFIG_{name}=m" not in text]
    if missing:
        options = " ".join(f"CONFIG_{name}" for name in missing)
        return Finding(WARNING, "kernel options", f"missing: {options}", "boot a kernel that has them")
    return Finding(OK, "kernel options", " ".join(f"CONFIG_{name}" for name in _OPTIONS))


def _config(root: str) -> str | None:
    import gzip  # noqa: PLC0415 (no other command needs it)

    try:
        with gzip.open(f"{root}/proc/config.gz", "rt", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return _read(f"{root}/boot/config-{os.uname().release}")
