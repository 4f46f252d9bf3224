"""Capabilities: capabilities(7), capset(2), prctl(2)."""

from __future__ import annotations

from wherry.kernel import libc

# include/uapi/linux/capability.h, in the order of their numbers
NAMES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID "
    "CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK "
    "CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN "
    "CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE "
    "CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND "
    "CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE"
).split()
_NUMBERS = {name: number for number, name in enumerate(NAMES)}

_PR_CAPBSET_DROP = 24
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def mask_of(names: list[str]) -> int:
    """The bit mask of capability names such as CAP_CHOWN. Raises KeyError for an unknown name."""
    return sum(1 << _NUMBERS[name] for name in set(names))


def permitted() -> list[str]:
    """Names of those that the calling process has, as far as they are in ``NAMES``."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm:"))
    return [name for name, number in _NUMBERS.items() if mask >> number & 1]


def limit_bounding_set(keep: int) -> None:
    """Drop every capability that is not in the mask ``keep`` from the bounding set (needs CAP_SETPCAP).

    Goes on until the kernel says EINVAL, so that capabilities younger than this list are dropped as well.
    """
    for number in range(64):
        if keep >> number & 1:
            continue
        try:
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
        except OSError as error:
            if error.errno == 22:
                return
            raise


def keep_across_setuid(keep: bool) -> None:
    """PR_SET_KEEPCAPS: whether the permitted set survives a change from uid 0 to another."""
    libc.prctl(_PR_SET_KEEPCAPS, int(keep), 0, 0, 0)


def apply(effective: int, permitted: int, inheritable: int, ambient: int) -> None:
    """Set the four sets of the calling process from bit masks."""
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    libc.set_capabilities(effective, permitted, inheritable)
    for number in range(64):
        if ambient >> number & 1:
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)
