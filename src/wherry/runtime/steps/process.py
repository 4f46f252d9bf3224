"""Steps about what a process is and may: session, control groups, namespaces, identity, limits, streams, filter."""

from __future__ import annotations

import binascii
import errno
import os
import resource
import stat
from typing import NamedTuple

from wherry.kernel import capabilities, interfaces, namespaces, process, seccomp
from wherry.kernel.libc import call_error, setdomainname, sethostname
from wherry.runtime.steps.context import Context


class NewSession(NamedTuple):
    """A session without a controlling terminal, and a keyring of its own."""

    def describe(self) -> str:
        return "start a session"

    def execute(self, context: Context) -> None:
        os.setsid()
        process.join_new_session_keyring()


class AwaitIds(NamedTuple):
    """The parent says by a byte that our new user namespace has its ids. Until then we are nobody there, and when it
    never says so we end.
    """

    descriptor: str

    def describe(self) -> str:
        return "wait for the ids of the user namespace"

    def execute(self, context: Context) -> None:
        gate = context.descriptors.pop(self.descriptor)
        try:
            if os.read(gate, 1) != b"1":
                raise BrokenPipeError(errno.EPIPE, "the parent has gone")
        finally:
            os.close(gate)


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


class JoinNamespaces(NamedTuple):
    """All these namespaces of the process of which ``descriptor`` is a pidfd, in one call: no name of a container's
    files is looked up for it. Root and working directory are the mount namespace's from then on.
    """

    descriptor: str
    types: list[str]

    def describe(self) -> str:
        return f"join {' '.join(self.types)} namespaces"

    def execute(self, context: Context) -> None:
        namespaces.join(context.descriptors[self.descriptor], self.types)


class LoopbackUp(NamedTuple):
    def describe(self) -> str:
        return "bring up lo"

    def execute(self, context: Context) -> None:
        interfaces.bring_up("lo")


class LimitBoundingSet(NamedTuple):
    """No execve of this process or its descendants gives a capability that is not in the bit mask ``keep``.

    What the process itself holds is untouched, so that this can come long before DropPrivileges.
    """

    keep: int

    def describe(self) -> str:
        return "limit capability bounding set"

    def execute(self, context: Context) -> None:
        capabilities.limit_bounding_set(self.keep)


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
    """(resource, soft, hard) each, as numbers of setrlimit(2). Raising a hard limit needs privilege. After the last
    step that opens a file: there may be no descriptor left.
    """

    limits: list[tuple[int, int, int]]

    def describe(self) -> str:
        return "set resource limits"

    def execute(self, context: Context) -> None:
        for number, soft, hard in self.limits:
            try:
                resource.setrlimit(number, (soft, hard))
            except ValueError:  # EPERM: no CAP_SYS_RESOURCE, or RLIMIT_NOFILE above fs.nr_open (getrlimit(2))
                names = (name for name in dir(resource) if name.startswith("RLIMIT_"))
                name = next((name for name in names if getattr(resource, name) == number), str(number))
                text = f"{name}: {hard} is more than this host allows"
                raise call_error(errno.EPERM, "setrlimit", text) from None


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
    """stdout and stderr to the named descriptors, which become the user's (runc's habit): opened by /dev/stdout, they
    are files with an owner. So does ``stdin``; "" is the container's own /dev/null.
    """

    stdout: str
    stderr: str
    uid: int
    gid: int
    stdin: str = ""

    def describe(self) -> str:
        return "connect stdio"

    def execute(self, context: Context) -> None:
        streams = [(1, self.stdout), (2, self.stderr)]
        if self.stdin:
            streams.append((0, self.stdin))
        else:
            _read_nothing()
        for number, name in streams:
            source = context.descriptors[name]
            if (self.uid, self.gid) != (0, 0):
                os.fchown(source, self.uid, self.gid)
            os.dup2(source, number)


def _read_nothing() -> None:
    null = os.open("/dev/null", os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISCHR(os.fstat(null).st_mode):
        raise FileNotFoundError(2, "not a device", "/dev/null")
    os.set_blocking(null, True)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)


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
