"""From a spec to a plan: the ordered steps of a container's first process.

A plan has two halves. ``prepare`` depends on the spec only through its *template* (namespaces, kernel file systems,
masked paths), and all containers with the same template can share processes that have been prepared ahead. ``finish``
is the container's own. The seccomp filter comes last: whatever a step does need not be allowed by it. A user namespace
comes with clone, so that all others belong to it; what then still takes privilege on the host is in
``UserNamespace.give``.
"""

from __future__ import annotations

import binascii
import functools
import json
import resource
from typing import NamedTuple

from wherry.errors import InvalidRequest, NotSupported
from wherry.kernel import capabilities, id_maps, mounts
from wherry.kernel.id_maps import Extent, IdMap
from wherry.runtime import mount_options, seccomp, steps, sysctls
from wherry.runtime.spec import (
    ANNOTATION_INIT,
    ANNOTATION_NAME_FILE,
    ANNOTATION_ROOT_ITSELF,
    ANNOTATION_STDIN,
    RLIM_INFINITY,
    IdMapping,
    Linux,
    Mount,
    Process,
    Scheduler,
    Spec,
    User,
)
from wherry.runtime.steps import Step, namefiles, workdir
from wherry.runtime.user_namespace import Favours, UserNamespace

NAMESPACE_ORDER = ("mount", "uts", "ipc", "network", "cgroup")
_STAGED_TYPES = ("proc", "tmpfs", "devpts", "mqueue", "sysfs")
_STAGED_ROOTS = ("/proc", "/dev", "/sys")
_POLICIES = ("SCHED_OTHER", "SCHED_BATCH", "SCHED_IDLE", "SCHED_FIFO", "SCHED_RR")


class Bind(NamedTuple):
    """A host tree that the launcher opens (kernel.mounts.clone_tree) and hands over under ``descriptor``."""

    descriptor: str
    source: str
    destination: str
    recursive: bool
    attributes: int
    mapped: str = ""
    """``idmap`` or ``ridmap``: its files are to have the container's ids."""


class ChildKind(NamedTuple):
    """What a parked process is: two plans with the same kind can have the same process."""

    template: str
    namespace: UserNamespace | None = None


class Plan(NamedTuple):
    """``template`` is equal for two plans exactly when their prepare steps are (the cgroups to join apart), and with it
    what their parent does; ``namespace`` is None for a container in the host's user namespace.
    """

    template: str
    prepare: list[Step]
    binds: list[Bind]
    spec: Spec
    namespace: UserNamespace | None = None

    @property
    def kind(self) -> ChildKind:
        return ChildKind(self.template, self.namespace)

    @property
    def output_owner(self) -> tuple[int, int] | None:
        """User and group of the host that the pipes must be given to before they are handed over; None for none: the
        first process does it.
        """
        return None if self.namespace is None else _owner(self.spec.process.user, self.namespace.id_map)

    @property
    def favours(self) -> Favours | None:
        """What must be done for the parked process before it gets the finish message."""
        if self.namespace is None:
            return None
        process, scheduler = self.spec.process, self.spec.process.scheduler
        return Favours(tuple(_limits(process)), scheduler.nice, scheduler.policy, scheduler.priority)

    def finish(self, directory_binds: set[str]) -> list[Step]:
        """The finish steps; ``directory_binds`` names the bind descriptors that turned out to be directories."""
        return _finish(self.spec, self.binds, directory_binds)


def _owner(user: User, id_map: IdMap) -> tuple[int, int]:
    uid, gid = id_maps.outside(id_map.uids, user.uid), id_maps.outside(id_map.gids, user.gid)
    return (uid or 0, gid or 0)  # both are there: _check_ids


def owner_in(spec: Spec) -> tuple[int, int] | None:
    """User and group of the host that the process is, None without a user namespace. Raises InvalidRequest when there
    are none.
    """
    id_map = _id_map(spec)
    return None if id_map is None else _owner(spec.process.user, id_map)


def make_plan(spec: Spec, stage: str) -> Plan:
    """``stage`` is an existing directory of the host that a tmpfs may be mounted over, inside the container's mount
    namespace.

    Raises NotSupported for what the runtime does not carry out (never ignored), InvalidRequest for what contradicts
    itself.
    """
    id_map = _id_map(spec)
    _check_mounts(spec)
    linux, bounding = spec.linux, spec.process.capabilities.bounding
    types = frozenset(_namespaces(linux))
    oom = spec.process.oom_score_adj or 0
    sysctls.check(linux.sysctl.items(), types)
    staged = _Staged(
        mounts=tuple(mount for mount in spec.mounts if _is_staged(mount)),
        settings=tuple(linux.sysctl.items()),
        files=_staged_name_files(spec, "network" in types),
        masked=linux.masked_paths,
        readonly=linux.readonly_paths,
    )
    template, prepare = _prepare(types, staged, bounding, oom, stage, id_map)
    return Plan(template, prepare, _binds(spec), spec, None if id_map is None else UserNamespace(id_map, oom))


class _Staged(NamedTuple):
    """What there is to be in the stage."""

    mounts: tuple[Mount, ...]
    settings: tuple[tuple[str, str], ...]
    files: tuple[str, ...]
    masked: tuple[str, ...]
    readonly: tuple[str, ...]


@functools.lru_cache(maxsize=64)
def _prepare(
    types: frozenset[str], staged: _Staged, bounding: tuple[str, ...], oom: int, stage: str, id_map: IdMap | None
) -> tuple[str, list[Step]]:
    unshare = steps.Unshare([name for name in NAMESPACE_ORDER if name in types])
    result: list[Step] = [unshare] if id_map else [steps.SetOomScore(oom), unshare]
    if "network" in types:
        result.append(steps.LoopbackUp())
    result.append(steps.MountStage(stage, mapped=id_map is not None))
    read_only: list[Step] = []
    for mount in staged.mounts:
        parsed = mount_options.parse(mount.options)
        flags = parsed.flags & ~mounts.MS_RDONLY
        result.append(steps.MountStaged(mount.destination, mount.type, mount.source, flags, parsed.data_string()))
        if mount.destination == "/dev":
            result.append(steps.MakeDevices(list(steps.DEVICES)))
        if mount.destination == "/proc" and "network" in types:
            result.append(steps.AllowPing(*(() if id_map is None else id_maps.widest(id_map.gids))))
        if mount.destination == "/proc" and staged.settings:
            result.append(steps.SetParameters([(sysctls.path_of(name), value) for name, value in staged.settings]))
        if parsed.read_only:
            read_only.append(steps.ReadOnlyStaged(mount.destination, flags))
    result.append(namefiles.StageNameFiles(list(staged.files)))
    result += [steps.MaskStaged(path) for path in staged.masked]
    result += [steps.ProtectStaged(path) for path in staged.readonly]
    result += [*read_only, steps.LimitBoundingSet(mask_of(bounding)), steps.EnterStage()]
    return json.dumps(steps.encode(result)), result


def _id_map(spec: Spec) -> IdMap | None:
    linux = spec.linux
    types = {namespace.type for namespace in linux.namespaces}
    if "user" not in types:
        if linux.uid_mappings or linux.gid_mappings:
            raise InvalidRequest("id mappings without a user namespace")
        return None
    if "network" not in types:
        raise InvalidRequest(
            "a user namespace needs a network namespace of its own: the host's shows it neither sysfs nor settings"
        )
    id_map = IdMap(_extents("uid", linux.uid_mappings), _extents("gid", linux.gid_mappings))
    _check_policy(spec.process.scheduler)
    user = spec.process.user
    _check_ids("user", (user.uid,), id_map.uids)
    _check_ids("group", (user.gid, *user.additional_gids), id_map.gids)
    return id_map


def _extents(what: str, mappings: tuple[IdMapping, ...]) -> tuple[Extent, ...]:
    result = tuple(Extent(each.container_id, each.host_id, each.size) for each in mappings)
    if fault := id_maps.fault_of(result):
        raise InvalidRequest(f"{what} mappings: {fault}")
    if id_maps.outside(result, 0) is None:
        raise InvalidRequest(f"{what} mappings: 0 is missing, and a container is set up by its own root")
    return result


def _check_ids(what: str, ids: tuple[int, ...], extents: tuple[Extent, ...]) -> None:
    for number in ids:
        if id_maps.outside(extents, number) is None:
            there = id_maps.described(extents)
            raise InvalidRequest(f"{what} id {number} does not exist in the container's user namespace: it has {there}")


def _check_mounts(spec: Spec) -> None:
    for mount in spec.mounts:
        names = mount.destination.split("/")[1:]
        if not mount.destination.startswith("/") or not any(names) or ".." in names:
            raise InvalidRequest(f"mount destination {mount.destination!r} is not an absolute path below /")
        if names[0] in ("dev", "sys") and len(names) == 1 and not _is_default(mount):
            raise InvalidRequest(f"mount destination {mount.destination!r} would take the place of the runtime's own")
        if names[0] == "proc" and (len(names) > 1 or mount.type != "proc"):
            raise InvalidRequest(f"mount destination {mount.destination!r}: nothing may be mounted over /proc")


def _staged_name_files(spec: Spec, own_network: bool) -> tuple[str, ...]:
    """With a network of its own a container keeps the /etc/resolv.conf of its root unless it is to have another."""
    asked = _name_files(spec)
    for path in asked:
        if path not in namefiles.PATHS:
            raise NotSupported(f"name file {path!r} is not supported")
    return tuple(path for path in namefiles.PATHS if path in asked or path != "/etc/resolv.conf" or not own_network)


def _name_files(spec: Spec) -> dict[str, str]:
    """Path and content."""
    prefix = ANNOTATION_NAME_FILE
    return {name.removeprefix(prefix): text for name, text in spec.annotations.items() if name.startswith(prefix)}


def _namespaces(linux: Linux) -> set[str]:
    for namespace in linux.namespaces:
        if namespace.path:
            raise NotSupported(f"joining the {namespace.type} namespace {namespace.path!r} is not supported yet")
        if namespace.type not in (*NAMESPACE_ORDER, "pid", "user"):
            raise NotSupported(f"{namespace.type} namespaces are not supported yet")
    types = {namespace.type for namespace in linux.namespaces}
    for needed in ("pid", "mount"):
        if needed not in types:
            raise NotSupported(f"a container without a {needed} namespace of its own is not supported")
    for path in (*linux.masked_paths, *linux.readonly_paths):
        if not path.startswith(("/proc/", "/sys/")):
            raise NotSupported(f"masked or read-only path {path!r}: only paths below /proc and /sys are supported yet")
    return types


def _is_default(mount: Mount) -> bool:
    return (mount.destination, mount.type) in (("/dev", "tmpfs"), ("/sys", "sysfs"))


def _is_staged(mount: Mount) -> bool:
    top = "/" + mount.destination.split("/")[1]
    return mount.type in _STAGED_TYPES and top in _STAGED_ROOTS


def _binds(spec: Spec) -> list[Bind]:
    result = []
    for number, mount in enumerate(spec.mounts):
        if mount.type == "bind":
            parsed = mount_options.parse(mount.options)
            if parsed.data:
                raise InvalidRequest(f"mount {mount.destination}: unknown option {parsed.data_string()!r}")
            if parsed.mapped and not spec.linux.uid_mappings:
                raise InvalidRequest(f"mount {mount.destination}: {parsed.mapped} without a user namespace")
            place = (mount.source, mount.destination)
            result.append(Bind(f"volume{number}", *place, parsed.recursive, parsed.attributes, parsed.mapped))
    return result


def _finish(spec: Spec, binds: list[Bind], directory_binds: set[str]) -> list[Step]:
    process = spec.process
    result: list[Step] = [steps.AttachRoot("root")]
    roots = {"/" + mount.destination.split("/")[1]: None for mount in spec.mounts if _is_staged(mount)}
    result += [steps.MoveStaged(root) for root in roots]
    by_destination = {bind.destination: bind for bind in binds}
    own = [mount for mount in spec.mounts if not _is_staged(mount)]
    # Name files come before the first volume, so that none is made in a directory of the host.
    first = next((place for place, mount in enumerate(own) if mount.type == "bind"), len(own))
    attached = [_mount_in_root(mount, by_destination.get(mount.destination), directory_binds) for mount in own]
    result += [*attached[:first], *_name_file_steps(spec), *attached[first:]]
    if process.cwd != "/":  # where EnterRoot leads
        result.append(workdir.MakeWorkingDirectory(process.cwd))
    if spec.root.readonly:
        result.append(steps.ReadOnlyRoot())
    result.append(steps.EnterRoot())
    if spec.hostname or spec.domainname:
        result.append(steps.SetHostname(spec.hostname, spec.domainname))
    stdin = "stdin" if has_stdin(spec) else ""
    mapped = bool(spec.linux.uid_mappings)
    return [*result, *_process_steps(process, stdin, mapped), *filter_of(spec)]


def filter_of(spec: Spec) -> list[Step]:
    if spec.linux.seccomp is None:
        return []
    if not spec.process.no_new_privileges:
        # Without it only CAP_SYS_ADMIN may install one, and the privileges are gone by then.
        raise NotSupported("a seccomp filter without noNewPrivileges is not supported")
    program, flags = seccomp.compile_filter(spec.linux.seccomp)
    return [steps.InstallFilter(_text(program), flags)]


@functools.lru_cache(maxsize=64)
def _text(program: bytes) -> str:
    return binascii.b2a_base64(program, newline=False).decode()


def _name_file_steps(spec: Spec) -> list[Step]:
    make = spec.annotations.get(ANNOTATION_ROOT_ITSELF) != "true"
    attributes = mounts.MOUNT_ATTR_RDONLY if spec.root.readonly else 0
    return [namefiles.AttachNameFile(path, text, make, attributes) for path, text in _name_files(spec).items()]


def _mount_in_root(mount: Mount, bind: Bind | None, directory_binds: set[str]) -> Step:
    if bind is not None:
        return steps.AttachVolume(bind.descriptor, bind.destination, bind.descriptor in directory_binds)
    if mount.type == "tmpfs":
        parsed = mount_options.parse(mount.options)
        return steps.MountTmpfs(mount.destination, parsed.data, parsed.attributes | mounts.MOUNT_ATTR_NODEV)
    raise NotSupported(f"mount {mount.destination}: file system type {mount.type!r} is not supported yet")


def rlimits_of(process: Process) -> list[Step]:
    """Of an exec as well. After what opens files: there may be few that it may have."""
    return [steps.SetRlimits(_limits(process))] if process.rlimits else []


def _process_steps(process: Process, stdin: str, mapped: bool) -> list[Step]:
    user = User() if mapped else process.user  # the rest is Plan.favours, and the pipes are its own: Plan.output_owner
    stdio = steps.SetStdio("stdout", "stderr", user.uid, user.gid, stdin)
    scheduling = [] if mapped else scheduling_of(process.scheduler)
    return [*scheduling, stdio, *rlimits_of(process), *identity_of(process)]


def identity_of(process: Process) -> list[Step]:
    """Working directory and privileges; of an exec as well."""
    if process.cwd == "/":
        return [_privileges(process)]
    return [workdir.EnterDirectory(process.cwd), _privileges(process), workdir.ChangeDirectory(process.cwd)]


def _limits(process: Process) -> list[tuple[int, int, int]]:
    return [(_rlimit(each.type), _bound(each.soft), _bound(each.hard)) for each in process.rlimits]


def _check_policy(scheduler: Scheduler) -> None:
    if scheduler.policy not in _POLICIES:
        raise NotSupported(f"scheduling policy {scheduler.policy!r} is not supported: only {', '.join(_POLICIES)}")


def scheduling_of(scheduler: Scheduler) -> list[Step]:
    _check_policy(scheduler)
    result: list[Step] = [steps.SetNice(scheduler.nice)]
    if scheduler.policy != "SCHED_OTHER":
        result.append(steps.SetScheduler(scheduler.policy, scheduler.priority))
    return result


def _privileges(process: Process) -> Step:
    user, sets = process.user, process.capabilities
    return steps.DropPrivileges(
        uid=user.uid,
        gid=user.gid,
        groups=list(user.additional_gids),
        umask=0o022 if user.umask is None else user.umask,
        effective=mask_of(sets.effective),
        permitted=mask_of(sets.permitted),
        inheritable=mask_of(sets.inheritable),
        ambient=mask_of(sets.ambient),
        no_new_privileges=process.no_new_privileges,
    )


def _rlimit(name: str) -> int:
    number = getattr(resource, name, None) if name.startswith("RLIMIT_") else None
    if not isinstance(number, int):
        raise InvalidRequest(f"unknown resource limit {name!r}")
    return number


def _bound(value: int) -> int:
    return resource.RLIM_INFINITY if value == RLIM_INFINITY else value


def mask_of(names: tuple[str, ...]) -> int:
    try:
        return capabilities.mask_of(list(names))
    except KeyError as error:
        raise InvalidRequest(f"unknown capability {error.args[0]!r}") from None


def wants_init(spec: Spec) -> bool:
    return spec.annotations.get(ANNOTATION_INIT) == "true"


def has_stdin(spec: Spec) -> bool:
    """Whether a descriptor ``stdin`` goes with the finish steps."""
    return spec.annotations.get(ANNOTATION_STDIN) == "true"
