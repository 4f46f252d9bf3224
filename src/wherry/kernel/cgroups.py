"""Control groups, version 1 and 2: cgroups(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.

A ``Layout`` says where this host mounts its controllers; a ``Group`` is one group in all of them under one relative
path. On version 1 each controller is a hierarchy of its own (several may share one mount), on version 2 there is one
tree.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator

from wherry.kernel.libc import call_error

CONTROLLERS = (
    *("memory", "cpu", "cpuacct", "pids", "devices", "freezer", "blkio", "cpuset", "net_cls", "net_prio"),
    *("perf_event", "hugetlb", "rdma", "misc"),
)
"""The version 1 hierarchies that a group gets a directory in, besides named ones such as systemd's: every one that is
mounted. A container's cgroup namespace has its root wherever the container is: in a hierarchy without a group of its
own that would be the group of the shim.
"""
INNER = "c"
"""The name of the group below a container's own that its processes and the root of its cgroup namespace are in: what
holds the container is above all that it can reach.
"""
NESTED_DEPTH = 16
NESTED_GROUPS = 512
"""How many groups a container can make below its own on version 2, and how deep; version 1 bounds neither."""
_V2_CONTROLLERS = ("memory", "cpu", "pids", "io", "cpuset")

# Documentation/admin-guide/cgroup-v1/devices.rst; the numbers: Documentation/admin-guide/devices.txt. As docker and
# runc: making any node is allowed, reading and writing null, zero, full, random, urandom, tty, console, ptmx and the
# pts only.
_DEVICE_RULES = (
    *("c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm"),
    *("c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm"),
)


def weight_of_shares(shares: int) -> int:
    """Version 2's ``cpu.weight`` (1 to 10000) for version 1's ``cpu.shares`` (2 to 262144).

    The defaults (100, 1024) and both ends become each other, as in the OCI runtimes since 2025.

    Source: opencontainers/cgroups, utils.go, ConvertCPUSharesToCgroupV2Value.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    exponent = math.log2(shares)
    return math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))


class Layout:
    """Where the controllers are: ``version`` 1 or 2 and ``mounts``, controller name to mount point (version 2: one
    entry, "").
    """

    def __init__(self, version: int, mounts: dict[str, str]) -> None:
        self.version = version
        self.mounts = mounts

    def directories(self, path: str) -> dict[str, str]:
        """Controller name to directory of the group at ``path``; co-mounted controllers share a directory."""
        return {name: f"{mount}/{path}" for name, mount in self.mounts.items()}

    def taking_processes(self) -> Layout | None:
        """One hierarchy of it, in which a new group takes processes at once: version 2's where there is one (which has
        cgroup.kill), and never that of cpuset, whose groups need CPUs and memory nodes first (cgroup-v1/cpusets.rst).
        None on a host with that one alone.
        """
        unfit = self.mounts.get("cpuset")
        fit = [name for name, mount in self.mounts.items() if mount != unfit]
        chosen = "unified" if "unified" in fit else fit[0] if fit else None
        return None if chosen is None else Layout(self.version, {chosen: self.mounts[chosen]})


def detect(mountinfo: str = "/proc/self/mountinfo") -> Layout:
    """The layout of this host. A hybrid host, with controllers in version 1, counts as version 1.

    Raises FileNotFoundError when no usable hierarchy is mounted.
    """
    version1: dict[str, str] = {}
    version2 = ""
    for mount, fstype, options in _cgroup_mounts(mountinfo):
        if fstype == "cgroup2":
            version2 = version2 or mount
        for option in options.split(",") if fstype == "cgroup" else ():
            if option in CONTROLLERS or option.startswith("name="):
                version1.setdefault(option, mount)
    if "memory" in version1 or "pids" in version1:
        # A hybrid host: its version 2 tree has no controllers that matter, but processes are members of it as well.
        return Layout(1, version1 | ({"unified": version2} if version2 else {}))
    if version2:
        return Layout(2, {"": version2})
    raise FileNotFoundError(errno.ENOENT, "no cgroup hierarchy with a memory controller is mounted", "/sys/fs/cgroup")


def _cgroup_mounts(mountinfo: str) -> Iterator[tuple[str, str, str]]:
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            fstype, _, options = after.rstrip("\n").split(" ", 2)
            if fstype in ("cgroup", "cgroup2"):
                yield before.split(" ")[4], fstype, options


class Group:
    """One control group. ``path`` is relative to the mount points, for example ``wherry/3f2a/<id>``."""

    def __init__(self, layout: Layout, path: str) -> None:
        self.layout = layout
        self.path = path
        self.directories = layout.directories(path)

    @property
    def inner(self) -> Group:
        """The group that a container's processes join, where this one holds the container: see ``INNER``."""
        return Group(self.layout, f"{self.path}/{INNER}")

    @property
    def places(self) -> list[str]:
        """Its directories, each once."""
        return list(dict.fromkeys(self.directories.values()))

    def create_for_container(self) -> None:
        """``create``, with the inner group, which gets no controllers on version 2 and so needs none of the care that
        groups with processes and children need there; what is above counts and limits all that is in it.
        """
        self.create()
        for directory in self.places:
            _make_directory(f"{directory}/{INNER}")
            if directory == self.directories.get("cpuset"):
                _inherit_cpuset(f"{directory}/{INNER}")
        for name in {"", "unified"} & self.directories.keys():
            self.write(name, "cgroup.max.depth", NESTED_DEPTH)
            self.write(name, "cgroup.max.descendants", NESTED_GROUPS)

    def create(self) -> None:
        """Make the group and its parents. Raises OSError; what was made before stays and is removed by ``remove``."""
        for mount in dict.fromkeys(self.layout.mounts.values()):
            try:
                if self.layout.version == 2:
                    _enable_controllers(os.path.dirname(f"{mount}/{self.path}"))
                os.mkdir(f"{mount}/{self.path}", 0o755)
            except FileExistsError:
                continue
            except FileNotFoundError:
                self._create_with_parents(mount)
            except OSError as error:
                raise call_error(error.errno or 0, "mkdir", f"{mount}/{self.path}") from error
            if mount == self.layout.mounts.get("cpuset"):
                _inherit_cpuset(f"{mount}/{self.path}")

    def _create_with_parents(self, mount: str) -> None:
        directory = mount
        for name in self.path.split("/"):
            if self.layout.version == 2:
                _enable_controllers(directory)
            directory = f"{directory}/{name}"
            _make_directory(directory)
            if mount == self.layout.mounts.get("cpuset"):
                _inherit_cpuset(directory)

    def process_files(self) -> list[str]:
        """The ``cgroup.procs`` files; a process joins by writing ``0`` to each, in one burst.

        On version 1 the first such write after idleness waits for an RCU grace period (7 to 11 ms); those right
        behind it do not.
        """
        return [f"{directory}/cgroup.procs" for directory in self.places]

    def write(self, controller: str, file: str, value: str | int) -> None:
        """Write one control file. Raises OSError with its path."""
        path = f"{self._directory(controller)}/{file}"
        try:
            with open(path, "wb", buffering=0) as control:
                control.write(str(value).encode())
        except OSError as error:
            raise call_error(error.errno or 0, "write", path) from error

    def read(self, controller: str, file: str) -> str | None:
        """The content of a control file without its newline; None when this kernel does not have it."""
        try:
            # Not open(): its buffers and decoder cost more than the system calls, and stats reads eight files a group.
            descriptor = os.open(f"{self._directory(controller)}/{file}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            content = b""
            while piece := os.read(descriptor, 65536):
                content += piece
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return content.decode("ascii").rstrip("\n")

    def read_number(self, controller: str, file: str) -> int | None:
        """The number in a control file; None when it says something else ("max") or this kernel does not have it."""
        text = self.read(controller, file)
        return int(text) if text is not None and text.isdecimal() else None

    def _directory(self, controller: str) -> str:
        found = self.directories.get(controller) or self.directories.get("")
        if found is None:
            raise call_error(errno.ENOENT, "open", f"cgroup controller {controller}")
        return found

    def processes(self) -> list[int]:
        """Host pids of the group's own processes, without those below it (``cgroup_trees``); empty when it is gone."""
        return _numbers(self.process_files()[0])

    def remove(self) -> bool:
        """rmdir in every hierarchy, of a group that has none below it. False when a process still keeps one of them
        (EBUSY): call again later.
        """
        done = True
        for directory in self.places:
            done &= _remove_directory(directory)
        return done


def _numbers(path: str) -> list[int]:
    try:
        with open(path, encoding="ascii") as file:
            return [int(line) for line in file]
    except OSError:
        return []


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except OSError as error:
        raise call_error(error.errno or 0, "mkdir", path) from error


def _inherit_cpuset(directory: str) -> None:
    """A new cpuset of version 1 is empty, and refuses processes (ENOSPC) until it has CPUs and memory nodes."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        with open(f"{directory}/../{file}", encoding="ascii") as parent:
            value = parent.read()
        with open(f"{directory}/{file}", "w", encoding="ascii") as own:
            own.write(value)


def _remove_directory(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise call_error(error.errno or 0, "rmdir", path) from error
    return True


def _enable_controllers(directory: str) -> None:
    """Hand the controllers down to the children of ``directory``; those that the parent does not offer are left out."""
    with open(f"{directory}/cgroup.controllers", encoding="ascii") as file:
        offered = file.read().split()
    with open(f"{directory}/cgroup.subtree_control", encoding="ascii") as file:
        enabled = file.read().split()
    missing = [f"+{name}" for name in _V2_CONTROLLERS if name in offered and name not in enabled]
    if missing:
        with open(f"{directory}/cgroup.subtree_control", "w", encoding="ascii") as file:
            file.write(" ".join(missing))


def restrict_devices(group: Group) -> None:
    """On version 1, let the group and all below it open only the devices that containers have. No tasks may be in it
    yet.

    Version 2 has no device files; there ``nodev`` mounts are the only barrier, and on version 1 this is the second one.
    """
    if "devices" not in group.directories:
        return
    group.write("devices", "devices.deny", "a")
    for rule in _DEVICE_RULES:
        group.write("devices", "devices.allow", rule)


def children(layout: Layout, path: str) -> list[str]:
    """Names of the groups directly under ``path``, in any hierarchy."""
    found: set[str] = set()
    for directory in set(layout.directories(path).values()):
        try:
            found.update(entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            continue
    return sorted(found)
