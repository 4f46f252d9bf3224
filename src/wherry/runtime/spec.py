"""The OCI runtime specification's configuration (config.json), as far as Wherry carries it out.

Source: opencontainers/runtime-spec v1.2, config.md and config-linux.md; field names on the wire are the
specification's. A container is described by nothing else: the supervisor makes a Spec from a request, wherry-oci will
read one from a bundle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import msgspec.inspect

from wherry.errors import InvalidRequest, NotSupported


class _Model(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    pass


class User(_Model, frozen=True, kw_only=True):
    """Numeric ids as inside the container."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


class Capabilities(_Model, frozen=True, kw_only=True):
    """Names such as CAP_CHOWN, one list a set (capabilities(7))."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


RLIM_INFINITY = 2**64 - 1


class Rlimit(_Model, frozen=True, kw_only=True):
    """``type`` is RLIMIT_NOFILE and so on; setrlimit(2). RLIM_INFINITY is no limit."""

    type: str
    soft: int
    hard: int


class Scheduler(_Model, frozen=True, kw_only=True):
    """``policy`` is SCHED_OTHER, SCHED_BATCH, SCHED_IDLE, SCHED_FIFO or SCHED_RR (sched(7)); ``priority`` belongs to
    the last two, ``nice`` to the first two.
    """

    policy: str = "SCHED_OTHER"
    nice: int = 0
    priority: int = 0


class Process(_Model, frozen=True, kw_only=True):
    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: User = User()
    capabilities: Capabilities = Capabilities()
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = True
    oom_score_adj: int | None = None
    scheduler: Scheduler = Scheduler()


class Root(_Model, frozen=True, kw_only=True):
    path: str
    readonly: bool = False


class Mount(_Model, frozen=True, kw_only=True):
    """``options`` as of mount(8); for a bind mount ``source`` is a host path. ``idmap`` and ``ridmap`` show its files
    with the ids of the container's user namespace as those on disk.
    """

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()


class Namespace(_Model, frozen=True, kw_only=True):
    """``type``: pid, network, mount, ipc, uts, user or cgroup; ``path`` joins an existing one."""

    type: str
    path: str = ""


class Memory(_Model, frozen=True, kw_only=True):
    """Bytes; ``swap`` is memory and swap together, -1 for any amount."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None


class Cpu(_Model, frozen=True, kw_only=True):
    """``quota`` and ``period`` in microseconds; ``cpus`` is a list such as 0-3,7; ``idle`` 1 gives the group the time
    that nobody else wants.
    """

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    cpus: str = ""
    idle: int | None = None


class BlockIO(_Model, frozen=True, kw_only=True):
    """``weight`` is 10 to 1000."""

    weight: int | None = None


class Pids(_Model, frozen=True, kw_only=True):
    limit: int


class Resources(_Model, frozen=True, kw_only=True):
    """``unified`` names files of version 2 and what is written to them in place of what the others say."""

    memory: Memory = Memory()
    cpu: Cpu = Cpu()
    pids: Pids | None = None
    block_io: BlockIO = msgspec.field(default=BlockIO(), name="blockIO")
    unified: dict[str, str] = {}


class SeccompArgument(_Model, frozen=True, kw_only=True):
    """``op`` is SCMP_CMP_EQ and so on; for SCMP_CMP_MASKED_EQ ``value`` is the mask and ``value_two`` what is left."""

    index: int
    value: int
    op: str
    value_two: int = 0


class SeccompRule(_Model, frozen=True, kw_only=True):
    """``action`` (SCMP_ACT_ALLOW and so on) for system calls by name whose arguments are all so."""

    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SeccompArgument, ...] = ()


class Seccomp(_Model, frozen=True, kw_only=True):
    """config-linux.md, "Seccomp"."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SeccompRule, ...] = ()


class IdMapping(_Model, frozen=True, kw_only=True):
    """``size`` ids from ``container_id`` on are the host's from ``host_id`` on."""

    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int


class Linux(_Model, frozen=True, kw_only=True):
    """The mappings are those of a new user namespace."""

    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    resources: Resources = Resources()
    cgroups_path: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    seccomp: Seccomp | None = None
    sysctl: dict[str, str] = {}


class Spec(_Model, frozen=True, kw_only=True):
    process: Process
    root: Root
    linux: Linux
    oci_version: str = "1.2.0"
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    annotations: dict[str, str] = {}


ANNOTATION_PREFIX = "io.wherry."
ANNOTATION_SOFT_LIMIT = "io.wherry.memory.soft"
ANNOTATION_HARD_LIMIT = "io.wherry.memory.hard"
"""Bytes that the memory enforcer watches; the specification's memory limits are the control group's."""
ANNOTATION_INIT = "io.wherry.init"
ANNOTATION_STDIN = "io.wherry.stdin"
"""The OCI specification leaves stdin to the runtime: "true" is a pipe, that is handed over as ``stdin``; without it
/dev/null."""
"""``true``: a reaping init is pid 1 and the command its child (docker run --init)."""
ANNOTATION_NAME_FILE = "io.wherry.name-file."
"""Followed by a path of ``namefiles.PATHS``; the value is what the container finds in that file."""
ANNOTATION_ROOT_ITSELF = "io.wherry.root-itself"
"""``true``: the root is a directory of the user's, in which nothing is made that nobody has asked for."""

_encoder = msgspec.json.Encoder()
_MOST = 4 << 20


def decode(text: bytes) -> Spec:
    """A config.json. What it asks for and we do not know is refused, unless it is empty, zero or false: that changes
    nothing, and engines write it.

    Raises NotSupported naming the field, InvalidRequest naming it and what is wrong with it.
    """
    if len(text) > _MOST:
        raise InvalidRequest(f"config.json has {len(text)} bytes, the most is {_MOST}")
    try:
        content = msgspec.json.decode(text)
        spec = msgspec.convert(content, Spec)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"config.json: {error}") from None
    for field in _unknown(content, msgspec.inspect.type_info(Spec), ""):
        raise NotSupported(f"config.json: {field} is not supported yet")
    return spec


def _unknown(value: Any, kind: msgspec.inspect.Type, path: str) -> Iterator[str]:
    """The fields that are no part of the models and not empty; ``value`` has passed as a ``kind``."""
    match kind:
        case msgspec.inspect.StructType(fields=fields) if isinstance(value, dict):
            known = {field.encode_name: field.type for field in fields}
            for name, content in value.items():
                here = f"{path}.{name}" if path else name
                if name in known:
                    yield from _unknown(content, known[name], here)
                elif content:
                    yield here
        case msgspec.inspect.VarTupleType(item_type=item) if isinstance(value, list):
            for number, content in enumerate(value):
                yield from _unknown(content, item, f"{path}[{number}]")
        case msgspec.inspect.UnionType(types=types):
            for each in types:
                yield from _unknown(value, each, path)


def encode(spec: Spec) -> bytes:
    return _encoder.encode(spec)
