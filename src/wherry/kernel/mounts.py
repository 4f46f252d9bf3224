"""Mounts: mount(2) for staging trees that are ours alone, the descriptor-based calls (Linux 5.2) for everything else.

A detached mount (``fsmount``, ``open_tree`` with OPEN_TREE_CLONE) is made in the supervisor, where the host's paths
mean what the user wrote, and attached in the container by ``move_mount``, so that no host path is resolved inside a
container.
"""

from __future__ import annotations

import os

from wherry.kernel import libc

# <sys/mount.h>
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2

# include/uapi/linux/mount.h
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
ROOT_ATTRIBUTES = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID
"""Of a container's root. nodev: device files of an image, or made with CAP_MKNOD, open nothing; the container's /dev
brings its own. nosuid: what set-user-ID bits and capabilities of files would give is not to be had under no_new_privs
anyway, but a program whose file asks for a capability beyond the bounding set, as Debian's ping does for CAP_NET_RAW,
could not even be executed without (capabilities(7), "Safety checking for capability-dumb binaries").
"""
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError with ``target`` as its file name."""
    try:
        libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            fstype.encode() or None,
            flags,
            os.fsencode(data) or None,
        )
    except OSError as error:
        error.filename = target
        raise


def detach(target: str) -> None:
    """umount2(2) with MNT_DETACH: the tree leaves the namespace at once and goes when its last user goes."""
    try:
        libc.umount2(os.fsencode(target), MNT_DETACH)
    except OSError as error:
        error.filename = target
        raise


def pivot_into(root: int) -> None:
    """Make the mount at descriptor ``root`` the root of this mount namespace and detach the old root.

    pivot_root(".", ".") stacks the old root on the new one, which needs no directory to put it in
    (pivot_root(2), NOTES).
    """
    os.fchdir(root)
    libc.pivot_root(b".", b".")
    libc.umount2(b".", MNT_DETACH)
    os.chdir("/")


def clone_tree(path: str, dirfd: int = libc.AT_FDCWD, recursive: bool = False) -> int:
    """A detached private copy of the mount at ``path``, or of what ``dirfd`` is open on when ``path`` is empty.

    A bind mount without a place: open_tree(2) with OPEN_TREE_CLONE.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (libc.AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= libc.AT_EMPTY_PATH
    try:
        tree = libc.open_tree(dirfd, os.fsencode(path), flags)
    except OSError as error:
        error.filename = path or None
        raise
    # A copy stays in the peer group of its original: whatever was mounted on it would appear on the host as well.
    try:
        libc.mount_setattr(tree, b"", libc.at_flags(recursive), 0, 0, MS_PRIVATE)
    except BaseException:
        os.close(tree)
        raise
    return tree


def attach(tree: int, target: int) -> None:
    """Attach the detached (or move the attached) mount ``tree`` onto the directory or file that ``target`` is open
    on.
    """
    libc.move_mount(tree, b"", target, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)


def set_attributes(tree: int, attributes: int, recursive: bool = False) -> None:
    """Set MOUNT_ATTR_* bits of a mount: mount_setattr(2), Linux 5.12. Bits that are not named stay."""
    libc.mount_setattr(tree, b"", libc.at_flags(recursive), attributes, 0, 0)


def new_filesystem(fstype: str, options: list[tuple[str, str | None]], attributes: int = 0) -> int:
    """A detached mount of a new file system instance; an option is (key, value) or (flag, None).

    Raises OSError whose strerror has the kernel's own explanation appended where it gives one.
    """
    context = libc.fsopen(fstype.encode(), _FSOPEN_CLOEXEC)
    try:
        for key, value in options:
            _configure(context, key, value)
        libc.fsconfig(context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return libc.fsmount(context, _FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        if explanation := _explanation(context):
            error.strerror = f"{error.strerror}: {explanation}"
        raise
    finally:
        os.close(context)


def _configure(context: int, key: str, value: str | None) -> None:
    if value is None:
        libc.fsconfig(context, _FSCONFIG_SET_FLAG, key.encode(), None, 0)
    else:
        libc.fsconfig(context, _FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)


def _explanation(context: int) -> str:
    # A file system context queues messages such as "e overlay: ..." for read(2); ENODATA when there is none.
    try:
        text = os.read(context, 1024).decode(errors="replace").strip()
    except OSError:
        return ""
    return text[2:] if text[1:2] == " " else text


def overlay_of(lower: int, upper: int, work: int) -> int:
    """A detached overlay of three open directories.

    They are named by /proc/self/fd so that no character of a path (``:``, ``,``, a backslash) means anything to the
    option parser.
    """
    return overlay(*(f"/proc/self/fd/{each}" for each in (lower, upper, work)))


def overlay(lower: str, upper: str, work: str) -> int:
    """A detached overlay of directories whose paths mean nothing to the option parser. Its mount is as
    ``ROOT_ATTRIBUTES`` says.
    """
    options = [("source", "overlay"), ("lowerdir", lower), ("upperdir", upper), ("workdir", work)]
    return new_filesystem("overlay", [*options], ROOT_ATTRIBUTES)


def points_of(kind: str) -> set[str]:
    """Where file systems of a kind ("bpf") are mounted in our mount namespace: /proc/self/mountinfo, proc(5)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        parts = (line.partition(" - ") for line in file)
        return {_unescaped(before.split(" ")[4]) for before, _, after in parts if after.split(" ", 1)[0] == kind}


def _unescaped(path: str) -> str:
    """Blanks and the like are octal there."""
    for number in (0o40, 0o11, 0o12, 0o134):
        path = path.replace(f"\\{number:03o}", chr(number))
    return path
