"""Steps that make the stage: kernel file systems and devices, ready for any container."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from wherry.kernel import mounts, namespaces, process
from wherry.kernel.libc import call_error
from wherry.runtime.steps.context import Context

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/core", "/proc/kcore"),
)


class MountStage(NamedTuple):
    """A tmpfs of our own over ``path``, which becomes the working directory: ``Context.stage`` is relative, since who
    is nobody on the host (``mapped``) may not walk there. Slave propagation first: nothing of ours reaches the host,
    and a host's unmount reaches us.
    """

    path: str
    mapped: bool = False
    """Become root of our user namespace, whose root is to own the tmpfs; only the host's could open ``path``."""

    def describe(self) -> str:
        return f"mount stage {self.path}"

    def execute(self, context: Context) -> None:
        mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_SLAVE)
        target = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self.mapped:
                process.become_root()
            restrict = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
            options: list[tuple[str, str | None]] = [("source", "stage"), ("mode", "700"), ("size", "4m")]
            tree = mounts.new_filesystem("tmpfs", options, restrict)
            try:
                mounts.attach(tree, target)
                os.fchdir(tree)
            finally:
                os.close(tree)
        finally:
            os.close(target)
        # MS_SLAVE of a host mount may still be a peer of nobody; the stage itself must be private or move_mount(2)
        # refuses.
        mounts.mount("", ".", "", mounts.MS_PRIVATE)
        context.stage = "."
        os.mkdir("root", 0o700)


class MountStaged(NamedTuple):
    """A kernel file system at its place in the stage, writable: ReadOnlyStaged comes after all that goes inside it."""

    destination: str
    fstype: str
    source: str
    flags: int
    data: str

    def describe(self) -> str:
        return f"mount {self.destination}"

    def execute(self, context: Context) -> None:
        target = context.stage + self.destination
        os.makedirs(target, 0o755, exist_ok=True)
        try:
            mounts.mount(self.source, target, self.fstype, self.flags, self.data)
        except PermissionError as error:
            if self.fstype in ("proc", "sysfs") and namespaces.in_user_namespace():
                # mount_too_revealing() in the kernel's fs/namespace.c
                error.strerror = (
                    f"something is mounted over a part of the host's own {self.fstype}, "
                    "and a user namespace is shown no more than that"
                )
            raise


class ReadOnlyStaged(NamedTuple):
    """Make a staged mount read-only; the mount, not the file system, which for sysfs may be the host's."""

    destination: str
    flags: int

    def describe(self) -> str:
        return f"make {self.destination} read-only"

    def execute(self, context: Context) -> None:
        flags = mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY | self.flags
        mounts.mount("", context.stage + self.destination, "", flags)


class MakeDevices(NamedTuple):
    """The device files of /dev, bind mounted from the host.

    Not made by mknod: the tmpfs is nodev, so that a container with CAP_MKNOD cannot make itself the host's disk
    there, whatever the host's cgroups can or cannot forbid (version 2 has no device controller without BPF). The
    mounts are read-only, which does not keep anybody from writing to a device but keeps a container's chmod and chown
    off the host's file.
    """

    names: list[str]

    def describe(self) -> str:
        return "make devices"

    def execute(self, context: Context) -> None:
        for name in self.names:
            target = os.open(f"{context.stage}/dev/{name}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            device = mounts.clone_tree(f"/dev/{name}")
            try:
                restrict = mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NOEXEC
                mounts.set_attributes(device, restrict)
                mounts.attach(device, target)
            finally:
                os.close(device)
                os.close(target)
        for link, destination in LINKS:
            os.symlink(destination, context.stage + link)


class AllowPing(NamedTuple):
    """Every group may open the datagram sockets of ICMP, which need no CAP_NET_RAW (icmp(7)): as docker and podman.

    /proc/sys/net shows the network namespace of who looks, and takes no group that is not mapped.
    """

    first_group: int = 0
    last_group: int = 2147483647

    def describe(self) -> str:
        return "allow ping"

    def execute(self, context: Context) -> None:
        try:
            descriptor = os.open(f"{context.stage}/proc/sys/net/ipv4/ping_group_range", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # a kernel without it
            return
        try:
            os.write(descriptor, f"{self.first_group} {self.last_group}".encode())
        finally:
            os.close(descriptor)


class SetParameters(NamedTuple):
    """Kernel parameters of our namespaces, as (path below /proc/sys, value): before /proc/sys is made read-only."""

    settings: list[tuple[str, str]]

    def describe(self) -> str:
        return "set kernel parameters"

    def execute(self, context: Context) -> None:
        for path, value in self.settings:
            shown = f"/proc/sys/{path}"
            try:
                descriptor = os.open(context.stage + shown, os.O_WRONLY | os.O_CLOEXEC)
            except OSError as error:
                raise call_error(error.errno or 0, "open", shown) from None
            try:
                os.write(descriptor, value.encode())
            except OSError as error:
                raise call_error(error.errno or 0, "write", shown) from None
            finally:
                os.close(descriptor)


class MaskStaged(NamedTuple):
    """Hide a path of a staged mount: the staged /dev/null over a file, an empty read-only tmpfs over a directory.

    A missing path is fine.
    """

    path: str

    def describe(self) -> str:
        return f"mask {self.path}"

    def execute(self, context: Context) -> None:
        target = context.stage + self.path
        try:
            mode = os.stat(target).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            mounts.mount("tmpfs", target, "tmpfs", mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV, "nr_inodes=1")
        else:
            mounts.mount(f"{context.stage}/dev/null", target, "", mounts.MS_BIND)


class ProtectStaged(NamedTuple):
    """Make a path of a staged mount read-only by a bind mount on itself. A missing path is fine."""

    path: str

    def describe(self) -> str:
        return f"make {self.path} read-only"

    def execute(self, context: Context) -> None:
        target = context.stage + self.path
        if not os.path.lexists(target):
            return
        mounts.mount(target, target, "", mounts.MS_BIND)
        restrict = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
        mounts.mount("", target, "", mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY | restrict)


class EnterStage(NamedTuple):
    """Make the stage our root and let go of every mount of the host, so that a parked process pins none of them."""

    def describe(self) -> str:
        return "enter stage"

    def execute(self, context: Context) -> None:
        descriptor = os.open(context.stage, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mounts.pivot_into(descriptor)
        finally:
            os.close(descriptor)
        context.stage = ""
