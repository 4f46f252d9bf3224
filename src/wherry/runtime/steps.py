"""The steps that turn a fresh process into a container: small objects with ``describe()`` and ``execute()``.

*Prepare* steps need nothing of the container but its template (namespaces and kernel file systems), so a process can
run them ahead of time and wait, parked; they end in a root of our own, a small tmpfs called the stage that holds
/proc, /dev and /sys ready made and no mount of the host. *Finish* steps put in what is the container's own. A process
that has entered the container's root (EnterRoot) imports nothing and reads no file of it as code.

Steps cross from the supervisor to the container's first process as JSON arrays, [class name, field, ...]; host files
cross as open descriptors, which a step finds by name in the context.
"""

from __future__ import annotations

import binascii
import os
import resource
import stat
from typing import NamedTuple, Protocol

from wherry.kernel import capabilities, interfaces, mounts, namespaces, paths, process, seccomp
from wherry.kernel.libc import call_error, setdomainname, sethostname
from wherry.runtime.namefiles import AttachNameFile, StageNameFiles
from wherry.runtime.workdir import ChangeDirectory, EnterDirectory, MakeWorkingDirectory

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/core", "/proc/kcore"),
)


class Context:
    """What the steps of one container share: its named descriptors and where the stage is at the moment."""

    def __init__(self) -> None:
        self.descriptors: dict[str, int] = {}
        self.stage = ""
        self.root = -1
        self.name_files: dict[str, tuple[int, int]] = {}
        """Path to (a writable descriptor, a detached mount) of each file of StageNameFiles."""
        self.directory_entered = False

    def in_root(self, path: str, directory: bool = True) -> int:
        return paths.make_mount_point(self.root, path, directory)

    def is_in_proc(self, target: int) -> bool:
        return os.fstat(target).st_dev == os.stat("proc", dir_fd=self.root, follow_symlinks=False).st_dev


class Step(Protocol):
    def describe(self) -> str: ...

    def execute(self, context: Context) -> None: ...


class NewSession(NamedTuple):
    """A session without a controlling terminal, and a keyring of its own."""

    def describe(self) -> str:
        return "start a session"

    def execute(self, context: Context) -> None:
        os.setsid()
        process.join_new_session_keyring()


class SetOomScore(NamedTuple):
    """Before the namespaces: it needs the host's /proc. Not what a service manager gave the supervisor."""

    adjustment: int

    def describe(self) -> str:
        return f"set oom_score_adj {self.adjustment}"

    def execute(self, context: Context) -> None:
        process.set_oom_score_adjustment(self.adjustment)


class JoinCgroups(NamedTuple):
    """Write ourselves into every ``cgroup.procs``, in one burst (kernel.cgroups.Group.process_files)."""

    files: list[str]

    def describe(self) -> str:
        return "join cgroups"

    def execute(self, context: Context) -> None:
        for path in self.files:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"0")
            except OSError as error:
                raise call_error(error.errno or 0, "write", path) from None
            finally:
                os.close(descriptor)


class Unshare(NamedTuple):
    """New namespaces; the pid namespace came with clone. After JoinCgroups: the cgroup namespace's root is the group
    of now.
    """

    types: list[str]

    def describe(self) -> str:
        return f"unshare {' '.join(self.types)}"

    def execute(self, context: Context) -> None:
        namespaces.unshare(self.types)


class LoopbackUp(NamedTuple):
    def describe(self) -> str:
        return "bring up lo"

    def execute(self, context: Context) -> None:
        interfaces.bring_up("lo")


class MountStage(NamedTuple):
    """A tmpfs of our own over ``path``. Slave propagation first: nothing of ours reaches the host, and a host's
    unmount reaches us.
    """

    path: str

    def describe(self) -> str:
        return f"mount stage {self.path}"

    def execute(self, context: Context) -> None:
        mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_SLAVE)
        restrict = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
        mounts.mount("stage", self.path, "tmpfs", restrict, "mode=700,size=4m")
        # MS_SLAVE of a host mount may still be a peer of nobody; the stage itself must be private or move_mount(2)
        # refuses.
        mounts.mount("", self.path, "", mounts.MS_PRIVATE)
        context.stage = self.path
        os.mkdir(f"{self.path}/root", 0o700)


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
        mounts.mount(self.source, target, self.fstype, self.flags, self.data)


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

    /proc/sys/net shows the network namespace of who looks.
    """

    def describe(self) -> str:
        return "allow ping"

    def execute(self, context: Context) -> None:
        try:
            descriptor = os.open(f"{context.stage}/proc/sys/net/ipv4/ping_group_range", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # a kernel without it
            return
        try:
            os.write(descriptor, b"0 2147483647")
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


class LimitBoundingSet(NamedTuple):
    """No execve of this process or its descendants gives a capability that is not in the bit mask ``keep``.

    What the process itself holds is untouched, so that this can come long before DropPrivileges.
    """

    keep: int

    def describe(self) -> str:
        return "limit capability bounding set"

    def execute(self, context: Context) -> None:
        capabilities.limit_bounding_set(self.keep)


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


class AttachRoot(NamedTuple):
    """Attach the detached mount of the container's root file system."""

    descriptor: str

    def describe(self) -> str:
        return "attach rootfs"

    def execute(self, context: Context) -> None:
        context.root = context.descriptors[self.descriptor]
        target = os.open("/root", os.O_PATH | os.O_CLOEXEC)
        try:
            mounts.attach(context.root, target)
        finally:
            os.close(target)


class MoveStaged(NamedTuple):
    """Move /proc, /dev or /sys with all that is mounted in it from the stage into the rootfs.

    No symbolic link is followed: a rootfs whose /dev leads to its /proc would have one hide the other.
    """

    destination: str

    def describe(self) -> str:
        return f"mount {self.destination}"

    def execute(self, context: Context) -> None:
        name = self.destination.lstrip("/")
        try:
            os.mkdir(name, 0o755, dir_fd=context.root)
        except FileExistsError:
            pass
        tree = os.open(self.destination, os.O_PATH | os.O_CLOEXEC)
        try:
            flags = os.O_PATH | os.O_DIRECTORY
            target = paths.openat2(context.root, name, flags, 0, paths.RESOLVE_BENEATH | paths.RESOLVE_NO_SYMLINKS)
            try:
                mounts.attach(tree, target)
            finally:
                os.close(target)
        finally:
            os.close(tree)


class AttachVolume(NamedTuple):
    """Attach a detached copy of a host tree inside the rootfs; its mount point is made when missing."""

    descriptor: str
    destination: str
    directory: bool

    def describe(self) -> str:
        return f"mount volume {self.destination}"

    def execute(self, context: Context) -> None:
        _attach(context, context.descriptors[self.descriptor], self.destination, self.directory)


class MountTmpfs(NamedTuple):
    """A tmpfs inside the rootfs; options as (key, value) or (flag, None) pairs, attributes as MOUNT_ATTR_* bits."""

    destination: str
    options: list[tuple[str, str | None]]
    attributes: int

    def describe(self) -> str:
        return f"mount tmpfs {self.destination}"

    def execute(self, context: Context) -> None:
        tree = mounts.new_filesystem("tmpfs", self.options, self.attributes)
        try:
            _attach(context, tree, self.destination, True)
        finally:
            os.close(tree)


def _attach(context: Context, tree: int, destination: str, directory: bool) -> None:
    target = context.in_root(destination, directory)
    try:
        # A link of the rootfs may lead a volume into /proc, where it could fake what the runtime itself reads
        # (CVE-2019-16884).
        if context.is_in_proc(target):
            raise PermissionError(1, "the destination is inside /proc", destination)
        mounts.attach(tree, target)
    finally:
        os.close(target)


class ReadOnlyRoot(NamedTuple):
    def describe(self) -> str:
        return "make rootfs read-only"

    def execute(self, context: Context) -> None:
        mounts.set_attributes(context.root, mounts.MOUNT_ATTR_RDONLY)


class EnterRoot(NamedTuple):
    """pivot_root(2) into the rootfs and detach the stage: nothing but the container's own mounts is left in this
    namespace.
    """

    def describe(self) -> str:
        return "pivot_root"

    def execute(self, context: Context) -> None:
        mounts.pivot_into(context.root)


class SetHostname(NamedTuple):
    hostname: str
    domainname: str

    def describe(self) -> str:
        return f"set hostname {self.hostname}"

    def execute(self, context: Context) -> None:
        if self.hostname:
            sethostname(self.hostname.encode(), len(self.hostname.encode()))
        if self.domainname:
            setdomainname(self.domainname.encode(), len(self.domainname.encode()))


class SetRlimits(NamedTuple):
    """(resource, soft, hard) each, as numbers of setrlimit(2). Raising a hard limit needs privilege."""

    limits: list[tuple[int, int, int]]

    def describe(self) -> str:
        return "set resource limits"

    def execute(self, context: Context) -> None:
        for number, soft, hard in self.limits:
            resource.setrlimit(number, (soft, hard))


class SetNice(NamedTuple):
    nice: int

    def describe(self) -> str:
        return f"set nice {self.nice}"

    def execute(self, context: Context) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, self.nice)


class SetScheduler(NamedTuple):
    """``policy`` is the name of a constant of the os module (SCHED_BATCH); children inherit it (sched(7))."""

    policy: str
    priority: int

    def describe(self) -> str:
        return f"set scheduling policy {self.policy}"

    def execute(self, context: Context) -> None:
        os.sched_setscheduler(0, getattr(os, self.policy), os.sched_param(self.priority))


class SetStdio(NamedTuple):
    """stdin from the container's own /dev/null; stdout and stderr to the named descriptors, which become the user's
    (runc's habit).
    """

    stdout: str
    stderr: str
    uid: int
    gid: int

    def describe(self) -> str:
        return "connect stdio"

    def execute(self, context: Context) -> None:
        null = os.open("/dev/null", os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISCHR(os.fstat(null).st_mode):
            raise FileNotFoundError(2, "not a device", "/dev/null")
        os.set_blocking(null, True)
        if null != 0:
            os.dup2(null, 0)
            os.close(null)
        for number, name in ((1, self.stdout), (2, self.stderr)):
            source = context.descriptors[name]
            if (self.uid, self.gid) != (0, 0):
                os.fchown(source, self.uid, self.gid)
            os.dup2(source, number)


class DropPrivileges(NamedTuple):
    """User, groups, umask, capability sets (bit masks) and no_new_privs, in the only order in which all of them are
    permitted.
    """

    uid: int
    gid: int
    groups: list[int]
    umask: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int
    no_new_privileges: bool

    def describe(self) -> str:
        return f"become {self.uid}:{self.gid}"

    def execute(self, context: Context) -> None:
        os.umask(self.umask)
        capabilities.keep_across_setuid(True)
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        capabilities.keep_across_setuid(False)
        capabilities.apply(self.effective, self.permitted, self.inheritable, self.ambient)
        if self.no_new_privileges:
            process.set_no_new_privileges()


class InstallFilter(NamedTuple):
    """A seccomp filter, ``program`` in base64. Nothing but execve comes after it."""

    program: str
    flags: int

    def describe(self) -> str:
        return "install seccomp filter"

    def execute(self, context: Context) -> None:
        seccomp.install(binascii.a2b_base64(self.program), self.flags)


_STEPS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *(
            NewSession,
            SetOomScore,
            JoinCgroups,
            Unshare,
            LoopbackUp,
            MountStage,
            MountStaged,
            ReadOnlyStaged,
            MakeDevices,
        ),
        *(
            AllowPing,
            StageNameFiles,
            MaskStaged,
            ProtectStaged,
            LimitBoundingSet,
            EnterStage,
            AttachRoot,
            MoveStaged,
            AttachNameFile,
            AttachVolume,
            MountTmpfs,
            ReadOnlyRoot,
        ),
        *(EnterRoot, SetHostname, SetRlimits, SetNice, SetScheduler),
        *(SetStdio, MakeWorkingDirectory, EnterDirectory, DropPrivileges, ChangeDirectory, InstallFilter),
    )
}


def in_cgroups(files: list[str], prepare: list[Step]) -> list[Step]:
    """The prepare steps of a template as one child runs them: it joins those cgroups before it makes namespaces."""
    return [NewSession(), JoinCgroups(files), *prepare]


def encode(steps: list[Step]) -> list[list[object]]:
    """JSON-ready form; ``decode`` is its inverse."""
    return [[type(step).__name__, *step] for step in steps]  # type: ignore[misc]  # every step is a NamedTuple


def decode(items: list[list[object]]) -> list[Step]:
    return [_STEPS[str(name)](*fields) for name, *fields in items]
