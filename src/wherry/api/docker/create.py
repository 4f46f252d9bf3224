"""Docker's container configuration, as ``POST /containers/create`` sends it, turned into a CreateRequest.

What Wherry adds stands in one extra object "Wherry". A field that is not understood is refused by name unless its value
asks for nothing: null, false, 0, "", [], {}, or Docker's default where that is what happens here anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from wherry import defaults
from wherry.api.docker import security_options
from wherry.api.http.versions import NEWEST, Version
from wherry.errors import InvalidRequest, NotFound, NotSupported, quoted
from wherry.logs import LogOptions
from wherry.supervisor.containers import privileges
from wherry.supervisor.containers.process_limits import Ulimit
from wherry.supervisor.containers.request import CreateRequest, check, clean_path, parse_bind, parse_env, parse_size

Words = str | list[str] | None
"""Docker's strslice: one string stands for a list of one."""


class WherryConfig(msgspec.Struct, rename="pascal", kw_only=True):
    rootfs: str | None = None
    rw_rootfs: bool | None = None
    soft_limit: int | None = None
    hard_limit: int | None = None
    soft_action: str | None = None
    nice: int | None = None
    sched_policy: str | None = None
    merge_streams: bool | None = None
    timeout: int | None = None
    """Nanoseconds."""


class LogConfig(msgspec.Struct, rename="pascal", kw_only=True):
    type: str | None = None
    config: dict[str, str] | None = None


class UlimitConfig(msgspec.Struct, rename="pascal", kw_only=True):
    name: str
    soft: int
    hard: int


class RestartConfig(msgspec.Struct, rename="pascal", kw_only=True):
    name: str | None = None
    maximum_retry_count: int | None = None


class HostConfig(msgspec.Struct, rename="pascal", kw_only=True):
    auto_remove: bool | None = None
    readonly_rootfs: bool | None = None
    binds: list[str] | None = None
    tmpfs: dict[str, str] | None = None
    network_mode: str | None = None
    userns_mode: str | None = None
    pids_limit: int | None = None
    nano_cpus: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    blkio_weight: int | None = None
    security_opt: list[str] | None = None
    memory: int | None = None
    memory_reservation: int | None = None
    memory_swap: int | None = None
    init: bool | None = None
    ulimits: list[UlimitConfig] | None = None
    oom_score_adj: int | None = None
    shm_size: int | None = None
    group_add: list[str] | None = None
    extra_hosts: list[str] | None = None
    dns: list[str] | None = None
    dns_search: list[str] | None = None
    dns_options: list[str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    sysctls: dict[str, str] | None = None
    log_config: LogConfig | None = None
    restart_policy: RestartConfig | None = None
    annotations: dict[str, str] | None = None


class ContainerConfig(msgspec.Struct, rename="pascal", kw_only=True):
    hostname: str | None = None
    domainname: str | None = None
    user: str | None = None
    env: list[str] | None = None
    cmd: Words = None
    entrypoint: Words = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    stop_timeout: int | None = None
    open_stdin: bool | None = None
    stdin_once: bool | None = None
    image: str | None = None
    host_config: HostConfig | None = None
    wherry: WherryConfig | None = None


def create_request(
    body: Any, pids_limit: int | None = defaults.PIDS_LIMIT, version: Version = NEWEST, userns: str = "host"
) -> CreateRequest:
    """The request that a decoded JSON body stands for, checked. ``pids_limit`` and ``userns`` are for one that does not
    name any.

    Raises:
        InvalidRequest: a value of the wrong type or out of range.
        NotSupported: a field that asks for something Wherry does not do.
        NotFound: an image; there is no store of images.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("invalid container config: expected a JSON object")
    refused = list(_refused_fields(body, version))
    if refused:
        raise NotSupported("not supported: " + ", ".join(refused[:10]) + (" ..." if len(refused) > 10 else ""))
    try:
        config = msgspec.convert(body, ContainerConfig)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"invalid container config: {error}") from None
    host = config.host_config or HostConfig()
    if host.pids_limit is None:
        host.pids_limit = pids_limit
    host.userns_mode = host.userns_mode or userns
    return check(_translate(config, host, config.wherry or WherryConfig()))


def _translate(config: ContainerConfig, host: HostConfig, ours: WherryConfig) -> CreateRequest:
    stop_timeout = config.stop_timeout
    return CreateRequest(
        rootfs=_rootfs(config, ours),
        command=(*_words(config.entrypoint), *_words(config.cmd)),
        entrypoint=tuple(_words(config.entrypoint)),
        rw_rootfs=bool(ours.rw_rootfs),
        env=parse_env(config.env or ()),
        working_dir=config.working_dir or "",
        user=config.user or "",
        hostname=config.hostname or "",
        domainname=config.domainname or "",
        read_only=bool(host.readonly_rootfs),
        init=bool(host.init),
        auto_remove=bool(host.auto_remove),
        volumes=tuple(parse_bind(bind) for bind in host.binds or ()),
        tmpfs=_tmpfs(host),
        network=_network(host.network_mode or "default"),
        userns=host.userns_mode or "host",
        pids_limit=None if host.pids_limit in (None, 0, -1) else host.pids_limit,
        cpus=host.nano_cpus / 1e9 if host.nano_cpus else None,
        soft_bytes=ours.soft_limit,
        hard_bytes=ours.hard_limit,
        soft_action=ours.soft_action or "",
        memory_bytes=host.memory or None,
        memory_reservation_bytes=host.memory_reservation or None,
        memory_swap_bytes=host.memory_swap or None,
        nice=ours.nice or 0,
        cpu_shares=host.cpu_shares or None,
        cpuset_cpus=host.cpuset_cpus or "",
        sched_policy=ours.sched_policy or "",
        io_weight=host.blkio_weight or None,
        seccomp=security_options.seccomp_profile(host.security_opt or ()),
        **_world(host),
        timeout_seconds=None if ours.timeout is None else ours.timeout / 1e9,
        **restart_fields(host.restart_policy or RestartConfig()),
        stop_signal=config.stop_signal or "SIGTERM",
        stop_seconds=None if stop_timeout is None else max(float(stop_timeout), -1.0),
        labels=config.labels or {},
        annotations=host.annotations or {},
        log=log_options(host.log_config or LogConfig()),
        merge_streams=bool(ours.merge_streams),
        stdin=bool(config.open_stdin),
        stdin_once=bool(config.open_stdin and config.stdin_once),
    )


def _world(host: HostConfig) -> dict[str, Any]:
    return {
        "ulimits": tuple(Ulimit(name=each.name, soft=each.soft, hard=each.hard) for each in host.ulimits or ()),
        "oom_score_adj": host.oom_score_adj or 0,
        "shm_bytes": host.shm_size or None,
        "group_add": tuple(host.group_add or ()),
        "extra_hosts": tuple(host.extra_hosts or ()),
        "dns": tuple(host.dns or ()),
        "dns_search": tuple(host.dns_search or ()),
        "dns_options": tuple(host.dns_options or ()),
        "cap_add": privileges.normalised(host.cap_add or ()),
        "cap_drop": privileges.normalised(host.cap_drop or ()),
        "sysctls": host.sysctls or {},
    }


def restart_fields(config: RestartConfig) -> dict[str, Any]:
    """Of a CreateRequest."""
    return {"restart": config.name or "no", "restart_retries": config.maximum_retry_count or 0}


def log_options(config: LogConfig) -> LogOptions:
    """Docker's options of its drivers json-file and local, which are the ones that keep a log on this machine."""
    if config.type not in (None, "", "json-file", "local"):
        raise NotSupported(f"HostConfig.LogConfig.Type {quoted(config.type)} is not supported: logs are files here")
    given = dict(config.config or {})
    options: dict[str, Any] = {}
    if "mode" in given:
        options["mode"] = given.pop("mode")
    for name, field in (("max-buffer-size", "buffer_bytes"), ("max-size", "max_bytes")):
        if name in given:
            options[field] = parse_size(given.pop(name), f"log option {name}")
    if "max-file" in given:
        options["max_files"] = _count(given.pop("max-file"), "log option max-file")
    for name in given:
        raise NotSupported(f"log option {quoted(name)} is not supported")
    return LogOptions(**options)


def _count(text: str, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InvalidRequest(f"invalid {what}: {quoted(text)} is not a whole number")
    return int(text)


def _words(value: Words) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def _rootfs(config: ContainerConfig, ours: WherryConfig) -> str:
    if not ours.rootfs:
        if config.image:
            raise NotFound(f"No such image: {quoted(config.image)} (there are no images here: give Wherry.Rootfs)")
        raise InvalidRequest("no root file system: Wherry.Rootfs is missing")
    if config.image and config.image != ours.rootfs:
        raise InvalidRequest(f"Image ({quoted(config.image)}) and Wherry.Rootfs ({quoted(ours.rootfs)}) contradict")
    return ours.rootfs


def _tmpfs(host: HostConfig) -> dict[str, str]:
    mounts: dict[str, str] = {}
    for path, options in (host.tmpfs or {}).items():
        cleaned = clean_path(path)
        if cleaned in mounts:
            raise InvalidRequest(f"duplicate mount point: {quoted(cleaned)}")
        mounts[cleaned] = options
    return mounts


def _network(mode: str) -> str:
    if mode not in ("default", "none", "host"):
        raise NotSupported(f"HostConfig.NetworkMode {quoted(mode)} is not supported: only none and host exist")
    return "host" if mode == "host" else "none"


def _names(model: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(model.__struct_encode_fields__)


_NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {})
_KNOWN = {"": _names(ContainerConfig), "HostConfig.": _names(HostConfig), "Wherry.": _names(WherryConfig)}


def ignored(version: Version) -> frozenset[str]:
    """Fields of docker's resources that a version of its API has taken out, whatever they say."""
    return frozenset({"KernelMemory"} if version >= (1, 42) else ())


def _refused_fields(body: dict[str, Any], version: Version) -> Iterator[str]:
    out = {f"HostConfig.{name}" for name in ignored(version)}
    for prefix in ("", "HostConfig.", "Wherry."):
        part = body.get(prefix[:-1]) if prefix else body
        if not isinstance(part, dict):
            continue
        for name, value in part.items():
            if (
                name not in _KNOWN[prefix]
                and prefix + name not in out
                and not asks_for_nothing(prefix + name, value, body)
            ):
                yield shown_field(prefix + name)


def shown_field(name: str) -> str:
    """A field's name as it may stand in an error: it is the client's, and may be anything."""
    return name if name.replace(".", "").isalnum() and name.isascii() and len(name) < 80 else quoted(name)


def asks_for_nothing(field: str, value: Any, body: dict[str, Any]) -> bool:
    """Whether the value of a field that is not known ("HostConfig.Isolation") changes nothing."""
    if field in ("HostConfig.MaskedPaths", "HostConfig.ReadonlyPaths"):
        return value is None  # an empty list takes the default protection of /proc and /sys away
    if any(value is nothing or (value == nothing and type(value) is type(nothing)) for nothing in _NOTHING):
        return True
    if field == "NetworkingConfig":
        return _is_plain_network(value, body)
    neutral = _NEUTRAL.get(field)
    return neutral is not None and neutral(value)


def _is_plain_network(value: Any, body: dict[str, Any]) -> bool:
    """``docker create`` names the network of NetworkMode again, with an endpoint of nothing but empty settings."""
    host = body.get("HostConfig")
    mode = host.get("NetworkMode") if isinstance(host, dict) else None
    if not isinstance(value, dict) or set(value) - {"EndpointsConfig"}:
        return False
    endpoints = value.get("EndpointsConfig")
    if not isinstance(endpoints, dict) or any(name not in (mode or "default", "default") for name in endpoints):
        return endpoints is None
    return all(_is_hollow(endpoint) for endpoint in endpoints.values())


def _is_hollow(value: Any, depth: int = 4) -> bool:
    """Of an EndpointSettings, which has no more than one object in it."""
    if not isinstance(value, dict):
        return not value
    return depth > 0 and all(_is_hollow(inner, depth - 1) for inner in value.values())


def _equals(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(value == one and type(value) is type(one) for one in values)


def _is_no_healthcheck(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("Test") in (None, [], ["NONE"])
        and not any(setting for name, setting in value.items() if name != "Test")
    )


_NEUTRAL: dict[str, Callable[[Any], bool]] = {
    "AttachStdin": _equals(True),  # the client's business: an attach of its own would follow
    "AttachStdout": _equals(True),
    "AttachStderr": _equals(True),
    "Healthcheck": _is_no_healthcheck,
    "HostConfig.CgroupnsMode": _equals("private"),
    "HostConfig.ConsoleSize": lambda value: isinstance(value, list),  # the client's window; there is no terminal
    "HostConfig.IpcMode": _equals("private"),
    "HostConfig.Isolation": _equals("default"),
    "HostConfig.MemorySwappiness": _equals(-1),
}
