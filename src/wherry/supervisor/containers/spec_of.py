"""From a request to the OCI spec that describes the container from then on."""

from __future__ import annotations

import resource

import msgspec

from wherry.kernel import id_maps
from wherry.kernel.id_maps import Extent, IdMap
from wherry.runtime import presets, seccomp
from wherry.runtime.spec import (
    ANNOTATION_HARD_LIMIT,
    ANNOTATION_INIT,
    ANNOTATION_NAME_FILE,
    ANNOTATION_ROOT_ITSELF,
    ANNOTATION_SOFT_LIMIT,
    ANNOTATION_STDIN,
    RLIM_INFINITY,
    BlockIO,
    Capabilities,
    Cpu,
    IdMapping,
    Linux,
    Memory,
    Mount,
    Namespace,
    Pids,
    Process,
    Resources,
    Rlimit,
    Root,
    Scheduler,
    Seccomp,
    Spec,
)
from wherry.runtime.spec import User as SpecUser
from wherry.runtime.users import User
from wherry.supervisor.containers import privileges, process_limits
from wherry.supervisor.containers.request import UNCONFINED, CreateRequest, clean_path
from wherry.supervisor.namefiles import name_files
from wherry.weights import weight_of_nice

_CPU_PERIOD = 100_000  # microseconds; docker's
_TTY = 5  # the group that presets.MOUNTS gives terminals


def make_spec(name: str, request: CreateRequest, rootfs: str, user: User, id_map: IdMap | None = None) -> Spec:
    """``rootfs`` is the directory the container's root is made of; ``user`` the request's user, looked up in it;
    ``id_map`` is of the user namespace that it is to have, None for none.
    """
    hostname = request.hostname or name[:63]
    annotations = request.annotations | _limit_annotations(request)
    if request.init:
        annotations[ANNOTATION_INIT] = "true"
    if request.rw_rootfs:
        annotations[ANNOTATION_ROOT_ITSELF] = "true"
    if request.stdin:
        annotations[ANNOTATION_STDIN] = "true"
    files = name_files(hostname, request)
    annotations |= {ANNOTATION_NAME_FILE + path: text for path, text in files.items() if path not in _taken(request)}
    return Spec(
        process=_process(request, hostname, user),
        root=Root(path=rootfs, readonly=request.read_only),
        hostname=hostname,
        domainname=request.domainname,
        mounts=(*_base_mounts(request, id_map), *_own_mounts(request, id_map)),
        linux=Linux(
            namespaces=_namespaces(request, id_map),
            uid_mappings=() if id_map is None else _mappings(id_map.uids),
            gid_mappings=() if id_map is None else _mappings(id_map.gids),
            resources=resources(request),
            masked_paths=presets.MASKED_PATHS,
            readonly_paths=presets.READONLY_PATHS,
            seccomp=_seccomp(request),
            sysctl=request.sysctls,
        ),
        annotations=annotations,
    )


def _process(request: CreateRequest, hostname: str, user: User) -> Process:
    return Process(
        args=request.command,
        env=_environment(request.env, hostname, user.home),
        cwd=request.working_dir or "/",
        user=SpecUser(uid=user.uid, gid=user.gid, additional_gids=user.groups),
        capabilities=_capabilities(request, user.uid == 0),
        rlimits=_limits(request),
        oom_score_adj=request.oom_score_adj or None,
        scheduler=_scheduler(request),
    )


def _seccomp(request: CreateRequest) -> Seccomp | None:
    """By the bounding set: that is what the container can ever get."""
    if request.seccomp == UNCONFINED:
        return None
    return seccomp.resolve(seccomp.parse(request.seccomp), frozenset(_capabilities(request, True).bounding))


def _capabilities(request: CreateRequest, is_root: bool) -> Capabilities:
    if request.cap_add or request.cap_drop:
        return privileges.granted(request.cap_add, request.cap_drop, is_root)
    return presets.CAPABILITIES if is_root else presets.CAPABILITIES_OF_OTHER_USERS


def _scheduler(request: CreateRequest) -> Scheduler:
    policy, _, priority = request.sched_policy.partition(":")
    return Scheduler(policy=f"SCHED_{(policy or 'other').upper()}", nice=request.nice, priority=int(priority or 0))


def _descriptor_limit() -> Rlimit:
    """The customary soft limit, whatever the supervisor raised its own to; the hard limit is the host's."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Rlimit(type="RLIMIT_NOFILE", soft=min(1024, hard), hard=hard)


def _limits(request: CreateRequest) -> tuple[Rlimit, ...]:
    found = {limit.type: limit for limit in (_descriptor_limit(),)}
    for asked in request.ulimits:
        found[asked.type] = Rlimit(type=asked.type, soft=_size(asked.soft), hard=_size(asked.hard))
    return tuple(found.values())


def _size(limit: int) -> int:
    return RLIM_INFINITY if limit == process_limits.UNLIMITED else limit


def _environment(asked: tuple[str, ...], hostname: str, home: str) -> tuple[str, ...]:
    """PATH, HOSTNAME and HOME unless the request sets them; of a variable set twice the last counts."""
    variables = {"PATH": presets.PATH, "HOSTNAME": hostname, "HOME": home}
    for entry in asked:
        key, _, value = entry.partition("=")
        variables[key] = value
    return tuple(f"{key}={value}" for key, value in variables.items())


def _namespaces(request: CreateRequest, id_map: IdMap | None) -> tuple[Namespace, ...]:
    shared = {"network"} if request.network == "host" else set()
    own = [Namespace(type="user")] if id_map is not None else []
    return (*own, *(namespace for namespace in presets.NAMESPACES if namespace.type not in shared))


def _mappings(extents: tuple[Extent, ...]) -> tuple[IdMapping, ...]:
    return tuple(IdMapping(container_id=each.inside, host_id=each.outside, size=each.size) for each in extents)


def _base_mounts(request: CreateRequest, id_map: IdMap | None) -> tuple[Mount, ...]:
    # A tmpfs or volume over one of the defaults takes its place, as in docker (--tmpfs /dev/shm:size=1g).
    mounts = tuple(mount for mount in presets.MOUNTS if mount.destination not in _taken(request))
    if request.shm_bytes is not None:
        size = request.shm_bytes
        mounts = tuple(_sized(mount, size) if mount.destination == "/dev/shm" else mount for mount in mounts)
    if id_map is None or id_maps.outside(id_map.gids, _TTY) is not None:
        return mounts
    return tuple(_without_group(mount) for mount in mounts)


def _sized(mount: Mount, size: int) -> Mount:
    options = (option for option in mount.options if not option.startswith("size="))
    return msgspec.structs.replace(mount, options=(*options, f"size={size}"))


def _without_group(mount: Mount) -> Mount:
    """Terminals belong to the group of who opens them where there is no group ``tty``: podman does so."""
    options = tuple(option for option in mount.options if option != f"gid={_TTY}")
    return msgspec.structs.replace(mount, options=options)


def _own_mounts(request: CreateRequest, id_map: IdMap | None) -> list[Mount]:
    mapped = ("ridmap",) if id_map is not None else ()
    result = [
        Mount(
            destination=clean_path(volume.destination),
            type="bind",
            source=volume.source,
            options=("rbind", "ro" if volume.read_only else "rw", *mapped),
        )
        for volume in request.volumes
    ]
    for destination, options in request.tmpfs.items():
        chosen = ("nosuid", "nodev", "noexec", *(part for part in options.split(",") if part))
        result.append(Mount(destination=clean_path(destination), type="tmpfs", source="tmpfs", options=chosen))
    # A mount below another comes after it, whatever the order they were asked for in.
    return sorted(result, key=lambda mount: (mount.destination.count("/"), mount.type == "bind"))


def _taken(request: CreateRequest) -> set[str]:
    return {clean_path(path) for path in (*request.tmpfs, *(volume.destination for volume in request.volumes))}


def _memory(request: CreateRequest) -> Memory:
    """Docker's default for memory and swap together is twice the memory."""
    limit, swap = request.memory_bytes, request.memory_swap_bytes
    if limit is not None and swap is None:
        swap = 2 * limit
    return Memory(limit=limit, reservation=request.memory_reservation_bytes, swap=swap)


def _limit_annotations(request: CreateRequest) -> dict[str, str]:
    limits = {ANNOTATION_SOFT_LIMIT: request.soft_bytes, ANNOTATION_HARD_LIMIT: request.hard_bytes}
    return {name: str(size) for name, size in limits.items() if size is not None}


def resources(request: CreateRequest) -> Resources:
    """What the control group is to hold the container to. Nice is a weight of the group, by the kernel's own table."""
    return Resources(
        memory=_memory(request),
        cpu=_cpu(request),
        pids=Pids(limit=request.pids_limit) if request.pids_limit and request.pids_limit > 0 else None,
        block_io=BlockIO(weight=request.io_weight),
        # Version 2's cpu.weight is too coarse for it: nice 19 would be 1.46 of 100.
        unified={"cpu.weight.nice": str(request.nice)} if request.nice else {},
    )


def _cpu(request: CreateRequest) -> Cpu:
    quota = None if request.cpus is None else round(request.cpus * _CPU_PERIOD)
    return Cpu(
        shares=request.cpu_shares or weight_of_nice(request.nice),
        quota=quota,
        period=_CPU_PERIOD if quota else None,
        cpus=request.cpuset_cpus,
        idle=1 if request.sched_policy == "idle" else None,
    )
