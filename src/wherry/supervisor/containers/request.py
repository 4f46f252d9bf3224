"""What a client may ask for when it creates a container, and the rules that hold whatever way the request came.

The API turns Docker's JSON into a ``CreateRequest`` with the parse functions below; ``check`` then refuses what
contradicts itself or could not be carried out anywhere. Whether a path exists is not decided here: that is the host's
state at start.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from wherry.errors import InvalidRequest, NotSupported, quoted
from wherry.kernel.scheduling import parse_cpu_list
from wherry.logs.options import BUFFER_MAX, BUFFER_MIN, FILE_MIN, MODES, LogOptions
from wherry.runtime import sysctls
from wherry.runtime.signals import signal_number
from wherry.runtime.spec import ANNOTATION_PREFIX
from wherry.supervisor.containers import name_service, privileges, process_limits, restart_policy, userns
from wherry.supervisor.containers.bounds import check_sizes
from wherry.supervisor.containers.process_limits import Ulimit
from wherry.supervisor.containers.restart_policy import RestartPolicy

_HOST_NAME = re.compile(r"[a-zA-Z0-9_.-]+")
_HOST_NAME_MAX = 64  # __NEW_UTS_LEN: sethostname(2) and setdomainname(2) refuse more
_COUNTER_MAX = 2**63 - 1  # memory cgroups and SQLite count in signed 64 bits
_LEAST_MEMORY = 6 << 20  # docker's
_PIDS_MAX = 4194304  # PID_MAX_LIMIT; pids.max refuses more (kernel/cgroup/pids.c)
_POLICY = re.compile(r"other|batch|idle|(fifo|rr):[1-9][0-9]?")
_KERNEL_MOUNTS = frozenset({"/proc", "/dev", "/sys"})
_LOG_FILES_MAX = 1000
_GROUPS_MAX = 256
_TIMEOUT_MAX = 10 * 365 * 24 * 3600
_ENGINE_VARIABLES = frozenset({"PATH", "HOSTNAME", "HOME"})
UNCONFINED = "unconfined"
"""In place of a seccomp profile: no filter at all."""
_TMPFS_FLAGS = frozenset({"ro", "rw", "exec", "noexec", "suid", "nosuid", "nodev"})
_TMPFS_VALUES = {
    "size": re.compile(r"[0-9]{1,18}[kKmMgG%]?"),
    "mode": re.compile(r"[0-7]{1,4}"),
    "uid": re.compile(r"[0-9]{1,9}"),
    "gid": re.compile(r"[0-9]{1,9}"),
    "nr_inodes": re.compile(r"[0-9]{1,18}[kKmMgG]?"),
}


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A host path shown inside the container: both paths absolute."""

    source: str
    destination: str
    read_only: bool = False


class SoftAction(StrEnum):
    """What a soft limit does beside being told: ``soft``."""

    NONE = "none"
    RECLAIM = "reclaim"
    THROTTLE = "throttle"


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One container as asked for, before anything is looked up on the host.

    ``rootfs`` is an absolute path (directory or tar archive); ``command`` is all that is executed, of which
    ``entrypoint`` is the part that was named so; ``env`` holds "K=V" strings without the variables the
    supervisor adds (PATH, HOSTNAME, HOME); ``tmpfs`` maps a destination to mount options as docker's
    ("size=1m,mode=1777"); ``cpus`` counts CPUs (0.5 is half of one); limits are in bytes and None where there is none.
    ``soft_bytes`` and ``hard_bytes`` are the memory enforcer's, ``soft_action`` (none, reclaim or throttle, "" is none)
    is what happens at the soft one beside being told; ``memory_*`` are docker's and set the control group:
    ``memory_swap_bytes`` is memory and swap together, -1 for any amount, None for twice the memory;
    ``nice`` (of the container), ``cpu_shares`` and ``sched_policy`` "idle" each set the container's weight against
    others, so that one excludes the rest; ``sched_policy`` is other, batch, idle, fifo:N or rr:N, "" is other;
    ``userns`` is host, auto, keep-id or UID:GID:SIZE;
    ``seccomp`` is a profile in docker's JSON, "" for the default one, "unconfined" for none;
    ``ulimits`` take the place of the default ones by name; ``shm_bytes`` is the size of /dev/shm, None for 64 MiB;
    ``group_add`` are names or numbers, looked up as ``user``; ``extra_hosts`` are "NAME:IP" for /etc/hosts, ``dns*``
    are lines of /etc/resolv.conf; ``cap_*`` are names such as CAP_CHOWN, or ALL to drop; ``sysctls`` are those of the
    container's namespaces;
    ``restart`` is a ``RestartPolicy``, ``restart_retries`` the most restarts of on-failure, 0 for any number;
    ``timeout_seconds`` is how long each run may take before it is killed, None for any time;
    ``stop_seconds`` is how long stop waits before it kills, negative for ever (docker's -1), None when nobody has said;
    ``annotations`` go into the container's OCI spec, beside ours;
    ``merge_streams`` gives stdout and stderr one pipe, so that their order is kept, and all is stdout;
    ``stdin`` gives it a standard input that clients feed; with ``stdin_once`` it ends when the first of them does.
    """

    rootfs: str
    command: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    rw_rootfs: bool = False
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    domainname: str = ""
    read_only: bool = False
    init: bool = False
    auto_remove: bool = False
    volumes: tuple[Volume, ...] = ()
    tmpfs: dict[str, str] = {}
    network: str = "none"
    userns: str = userns.HOST
    pids_limit: int | None = None
    cpus: float | None = None
    soft_bytes: int | None = None
    hard_bytes: int | None = None
    soft_action: str = ""
    memory_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    memory_swap_bytes: int | None = None
    nice: int = 0
    cpu_shares: int | None = None
    cpuset_cpus: str = ""
    sched_policy: str = ""
    io_weight: int | None = None
    seccomp: str = ""
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0
    shm_bytes: int | None = None
    group_add: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    sysctls: dict[str, str] = {}
    restart: str = RestartPolicy.NO.value
    restart_retries: int = 0
    timeout_seconds: float | None = None
    stop_signal: str = "SIGTERM"
    stop_seconds: float | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    log: LogOptions = LogOptions()
    merge_streams: bool = False
    stdin: bool = False
    stdin_once: bool = False


def parse_size(text: str, what: str) -> int:
    """Bytes in "1048576", "64k", "10m", "1g" (of 1024, as docker has it); 0 for docker's "-1", without limit.

    Raises:
        InvalidRequest: it is no such size.
    """
    match = re.fullmatch(r"([0-9]{1,18})([kmgt]?)i?b?", text.strip().lower())
    if text == "-1":
        return 0
    if not match:
        raise InvalidRequest(f"invalid {what}: {quoted(text)} is not a size such as 10m")
    return int(match[1]) << 10 * " kmgt".index(match[2] or " ")


def parse_env(variables: Iterable[str]) -> tuple[str, ...]:
    """Docker's rules for a list of variables: the last value of a name holds, a name without "=" takes it out again.

    Raises:
        InvalidRequest: a variable without a name.
        NotSupported: a name without "=" that the supervisor sets itself.
    """
    values: dict[str, str] = {}
    for variable in variables:
        name, equals, _ = variable.partition("=")
        if not name:
            raise InvalidRequest(f"invalid environment variable: {quoted(variable)}")
        if equals:
            values[name] = variable
        elif name in _ENGINE_VARIABLES:
            raise NotSupported(f"invalid environment variable: {name} cannot be unset")
        else:
            values.pop(name, None)
    return tuple(values.values())


def parse_bind(bind: str) -> Volume:
    """A volume from "HOST:CONTAINER[:ro|rw]".

    Raises:
        InvalidRequest: it has not that form, or a path is not absolute.
        NotSupported: a named volume, or an option other than ro and rw.
    """
    parts = bind.split(":")
    if len(parts) not in (2, 3):
        raise InvalidRequest(f"invalid volume specification: {quoted(bind)}: expected HOST:CONTAINER[:ro|rw]")
    source, destination = parts[0], parts[1]
    if not source.startswith("/"):
        if "/" in source or not source:
            raise InvalidRequest(f"invalid volume specification: {quoted(bind)}: the host path is not absolute")
        raise NotSupported(f"invalid volume specification: {quoted(bind)}: named volumes are not supported")
    options = parts[2].split(",") if len(parts) == 3 else []
    unknown = [option for option in options if option not in ("ro", "rw")]
    if unknown:
        raise NotSupported(
            f"invalid volume specification: {quoted(bind)}: option {quoted(unknown[0])} is not supported"
        )
    if len(set(options)) > 1:
        raise InvalidRequest(f"invalid volume specification: {quoted(bind)}: ro and rw contradict each other")
    return Volume(source=source, destination=clean_path(destination), read_only="ro" in options)


def clean_path(path: str) -> str:
    """``path`` without ".", "..", doubled and trailing slashes, taken as text, as docker does with mount points."""
    return "/" + posixpath.normpath(path).lstrip("/") if path.startswith("/") else path


def check(request: CreateRequest) -> CreateRequest:
    """``request`` if it can be carried out as far as it can be told without looking at the host's files.

    Raises:
        InvalidRequest: with a message that names the field and the value.
    """
    check_sizes(request)
    _check_strings(request)
    _check_annotations(request)
    _check_paths(request)
    _check_limits(request)
    _check_identity(request)
    _check_log(request.log)
    _check_world(request)
    restart_policy.check(request.restart, request.restart_retries, request.auto_remove)
    check_timeout(request.timeout_seconds)
    signal_number(request.stop_signal)
    return request


def check_timeout(seconds: float | None) -> None:
    """Of a container or an exec. Raises InvalidRequest."""
    if seconds is not None and not 0 < seconds <= _TIMEOUT_MAX:
        raise InvalidRequest(f"invalid timeout: {quoted(f'{seconds:g}')} is not a number of seconds above 0")


def _check_strings(request: CreateRequest) -> None:
    if not request.command:
        raise InvalidRequest("no command specified")
    if not request.command[0]:
        raise InvalidRequest("invalid command: its first word is empty")
    fields = {
        "rootfs": (request.rootfs,),
        "command": request.command,
        "environment": request.env,
        "working directory": (request.working_dir,),
        "user": (request.user,),
        "volume": [path for volume in request.volumes for path in (volume.source, volume.destination)],
        "tmpfs": [*request.tmpfs, *request.tmpfs.values()],
        "label": [*request.labels, *request.labels.values()],
        "annotation": [*request.annotations, *request.annotations.values()],
    }
    for what, values in fields.items():
        for value in values:
            _check_string(what, value)


def _check_annotations(request: CreateRequest) -> None:
    for name in request.annotations:
        if not name:
            raise InvalidRequest("invalid annotation: its name is empty")
        if name.startswith(ANNOTATION_PREFIX):  # the runtime takes orders from these
            raise InvalidRequest(
                f"invalid annotation: {quoted(name)}: names with {ANNOTATION_PREFIX!r} are Wherry's own"
            )


def _check_string(what: str, value: str) -> None:
    if "\0" in value:
        raise InvalidRequest(f"invalid {what}: {quoted(value)} contains a NUL byte")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"invalid {what}: {quoted(value)} is not valid UTF-8") from None


def _check_paths(request: CreateRequest) -> None:
    if not request.rootfs.startswith("/"):
        raise InvalidRequest(f"invalid rootfs: {quoted(request.rootfs)} is not an absolute path")
    if request.working_dir and not request.working_dir.startswith("/"):
        raise InvalidRequest(
            f"the working directory {quoted(request.working_dir)} is invalid, it needs to be an absolute path"
        )
    for volume in request.volumes:
        if not volume.source.startswith("/"):
            raise InvalidRequest(f"invalid volume: host path {quoted(volume.source)} is not absolute")
    for options in request.tmpfs.values():
        _check_tmpfs_options(options)
    seen: set[str] = set()
    for destination in [*(volume.destination for volume in request.volumes), *request.tmpfs]:
        _check_mount_point(destination, seen)


def _check_mount_point(destination: str, seen: set[str]) -> None:
    if not destination.startswith("/"):
        raise InvalidRequest(f"invalid mount path: {quoted(destination)} must be absolute")
    cleaned = clean_path(destination)
    if cleaned == "/":
        raise InvalidRequest("invalid mount path: the destination cannot be '/'")
    if cleaned in _KERNEL_MOUNTS:
        raise InvalidRequest(f"invalid mount path: {quoted(cleaned)} would take the place of the container's own")
    if cleaned in seen:
        raise InvalidRequest(f"duplicate mount point: {quoted(cleaned)}")
    seen.add(cleaned)


def _check_tmpfs_options(options: str) -> None:
    for option in options.split(",") if options else ():
        name, equals, value = option.partition("=")
        if not equals and name in _TMPFS_FLAGS:
            continue
        pattern = _TMPFS_VALUES.get(name)
        if pattern is None or not equals:
            raise InvalidRequest(f"invalid tmpfs option {quoted(option)}")
        if not pattern.fullmatch(value):
            raise InvalidRequest(f"invalid tmpfs option {quoted(option)}: bad value for {name}")


def _check_limits(request: CreateRequest) -> None:
    for what, limit in (("soft", request.soft_bytes), ("hard", request.hard_bytes)):
        if limit is not None and not 0 < limit <= _COUNTER_MAX:
            raise InvalidRequest(f"invalid {what} memory limit: {limit} bytes is not between 1 and {_COUNTER_MAX}")
    if request.soft_bytes is not None and request.hard_bytes is not None and request.soft_bytes > request.hard_bytes:
        raise InvalidRequest(
            f"invalid memory limits: the soft limit ({request.soft_bytes} bytes) is above the hard limit "
            f"({request.hard_bytes} bytes)"
        )
    _check_soft_action(request)
    _check_group_memory(request)
    if request.pids_limit is not None and not 0 < request.pids_limit <= _PIDS_MAX:
        raise InvalidRequest(f"invalid pids limit: {request.pids_limit} is not between 1 and {_PIDS_MAX}")
    if request.cpus is not None:
        _check_cpus(request.cpus)
    _check_scheduling(request)
    if request.io_weight is not None and not 10 <= request.io_weight <= 1000:
        raise InvalidRequest(f"range of blkio weight is from 10 to 1000, not {request.io_weight}")


def _check_soft_action(request: CreateRequest) -> None:
    if request.soft_action not in {"", *SoftAction}:
        words = ", ".join(SoftAction)
        raise InvalidRequest(f"invalid soft action: {quoted(request.soft_action)} is not one of {words}")
    if request.soft_action not in {"", SoftAction.NONE} and request.soft_bytes is None:
        raise InvalidRequest(f"invalid soft action: {request.soft_action} needs a soft limit")


def _check_group_memory(request: CreateRequest) -> None:
    """Docker's rules (daemon/daemon_unix.go, verifyPlatformContainerResources), in its words."""
    memory, reservation, swap = request.memory_bytes, request.memory_reservation_bytes, request.memory_swap_bytes
    for what, size in (("memory limit", memory), ("memory reservation", reservation)):
        if size is not None and not _LEAST_MEMORY <= size <= _COUNTER_MAX:
            raise InvalidRequest(f"invalid {what}: {size} bytes: the minimum is 6MB ({_LEAST_MEMORY} bytes)")
    if memory is not None and reservation is not None and memory < reservation:
        raise InvalidRequest(
            f"minimum memory limit can not be less than memory reservation limit ({memory} and {reservation} bytes)"
        )
    if swap is None:
        return
    if memory is None:
        raise InvalidRequest("you should always set the memory limit when using the memoryswap limit")
    if swap != -1 and not memory <= swap <= _COUNTER_MAX:
        raise InvalidRequest(f"minimum memoryswap limit should be larger than memory limit ({swap} and {memory} bytes)")


def _check_cpus(cpus: float) -> None:
    available = os.cpu_count() or 1
    if not 0.01 <= cpus <= available:
        raise InvalidRequest(
            f"range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available, not {cpus:g}"
        )


def _check_scheduling(request: CreateRequest) -> None:
    if not -20 <= request.nice <= 19:
        raise InvalidRequest(f"invalid nice value: {request.nice} is not between -20 and 19")
    shares = request.cpu_shares
    if shares is not None and not 2 <= shares <= 262144:
        raise InvalidRequest(f"invalid CPU shares: {shares} is not between 2 and 262144")
    if shares is not None and request.nice:
        raise InvalidRequest("nice and CPU shares both say how much CPU the container gets beside others: give one")
    if request.cpuset_cpus:
        try:
            parse_cpu_list(request.cpuset_cpus)
        except ValueError:
            raise InvalidRequest(
                f"invalid list of CPUs: {quoted(request.cpuset_cpus)} is not a list such as 0-3,7"
            ) from None
    if request.sched_policy and not _POLICY.fullmatch(request.sched_policy):
        raise InvalidRequest(
            f"invalid scheduling policy: {quoted(request.sched_policy)} is not other, batch, idle, or fifo:N or rr:N "
            "with N from 1 to 99"
        )
    if request.sched_policy == "idle" and (request.nice or shares is not None):
        raise InvalidRequest("scheduling policy idle has the least weight there is: nice and CPU shares contradict it")


def _check_identity(request: CreateRequest) -> None:
    for what, value in (("hostname", request.hostname), ("domainname", request.domainname)):
        if value and not _HOST_NAME.fullmatch(value):
            raise InvalidRequest(f"invalid {what}: {quoted(value)}: only [a-zA-Z0-9_.-] are allowed")
        if len(value) > _HOST_NAME_MAX:
            raise InvalidRequest(f"invalid {what}: {quoted(value)} has more than {_HOST_NAME_MAX} characters")
    if request.user and (not request.user.isprintable() or " " in request.user):
        raise InvalidRequest(f"invalid user: {quoted(request.user)}")
    if request.network not in ("none", "host"):
        raise InvalidRequest(f"invalid network: {quoted(request.network)}: only none and host exist")
    userns.check(request.userns, request.user, request.network)


def _check_world(request: CreateRequest) -> None:
    process_limits.check(request.ulimits, request.oom_score_adj)
    if request.shm_bytes is not None and not 0 < request.shm_bytes <= _COUNTER_MAX:
        raise InvalidRequest(f"invalid size of /dev/shm: {request.shm_bytes} bytes is not between 1 and {_COUNTER_MAX}")
    if len(request.group_add) > _GROUPS_MAX:
        raise InvalidRequest(f"too many groups: there are {len(request.group_add)}, and the most is {_GROUPS_MAX}")
    for group in request.group_add:
        if not group or not group.isprintable() or set(group) & {" ", ":"}:
            raise InvalidRequest(f"invalid group: {quoted(group)}")
    name_service.check(request.extra_hosts, request.dns, request.dns_search, request.dns_options)
    own_network = request.network != "host"
    privileges.check(request.cap_add, own_network)
    sysctls.check(request.sysctls.items(), ("ipc", "network") if own_network else ("ipc",))


def _check_log(log: LogOptions) -> None:
    if log.mode not in MODES:
        raise InvalidRequest(f"invalid log mode {quoted(log.mode)}: it is one of {', '.join(MODES)}")
    if not BUFFER_MIN <= log.buffer_bytes <= BUFFER_MAX:
        raise InvalidRequest(
            f"invalid log buffer size: {log.buffer_bytes} bytes is not between {BUFFER_MIN} and {BUFFER_MAX}"
        )
    if log.max_bytes and not FILE_MIN <= log.max_bytes <= _COUNTER_MAX:
        raise InvalidRequest(
            f"invalid log size: {log.max_bytes} bytes is neither 0 (no limit) nor between {FILE_MIN} and {_COUNTER_MAX}"
        )
    if not 1 <= log.max_files <= _LOG_FILES_MAX:
        raise InvalidRequest(f"invalid number of log files: {log.max_files} is not between 1 and {_LOG_FILES_MAX}")
