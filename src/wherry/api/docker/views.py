"""Records as Docker's JSON, each with what Wherry knows beyond it in an extra object "Wherry"."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import msgspec

from wherry.api.docker import durations
from wherry.api.docker.networks import network_id
from wherry.api.docker.rootfs_images import image_id
from wherry.logs import Log, LogOptions, rfc3339_nano
from wherry.runtime.presets import SHM_BYTES
from wherry.supervisor.containers.record import MEMORY_REASONS, End, Reason, Record, State
from wherry.supervisor.containers.request import CreateRequest

LISTED_COMMAND = 4096
"""Characters of a command that a list shows. docker's clients show twenty of them; all of it is in inspect."""
_EXIT_UNKNOWN = 125
"""For a container that could not be started, and for an end that nobody saw; ``engine run`` says the same."""


class MemoryDeathView(msgspec.Struct, rename="pascal"):
    """``MemoryDeath``; ``milliseconds_to_death`` counts from the crossing, null when that is not known; ``detail`` is
    "" unless it was no plain crossing.
    """

    enforcer: str
    pid: int
    comm: str
    rss: int
    limit: int
    peak: int
    detail: str
    crossed: str
    milliseconds_to_death: float | None


class WherryView(msgspec.Struct, rename="pascal"):
    """What the record has, unchanged; sizes in bytes, null when unset, times RFC 3339 or ""."""

    name: str
    state: State
    being_killed: bool
    reason: Reason
    exit_code: int | None
    signal: int | None
    error: str
    pid: int
    created: str
    started: str
    finished: str
    soft_limit: int | None
    hard_limit: int | None
    nice: int
    sched_policy: str
    soft_action: str
    timeout: int | None
    merge_streams: bool
    rootfs: str
    command: tuple[str, ...]
    log_path: str
    log_error: str
    peak_memory: int | None
    peak_pids: int | None
    peak_rss: int | None
    enforcer: str
    backstop: int | None
    not_counted: tuple[str, ...]
    oom_children: int
    memory_death: MemoryDeathView | None


class LogView(msgspec.Struct, rename="pascal"):
    """A container's log: its options, why it cannot be written now ("" when it can), and its buffer's counters.

    Sizes in bytes. The counters are those of ``BufferStats``, ``full_seconds`` being its ``full_ns``.
    """

    mode: str
    max_size: int
    max_files: int
    error: str
    buffer_size: int
    bytes_in: int
    bytes_out: int
    bytes_lost: int
    bytes_held: int
    high_water: int
    times_full: int
    full_seconds: float


class MountView(msgspec.Struct, rename="pascal"):
    type: str
    source: str
    destination: str
    mode: str
    rw: bool = msgspec.field(name="RW")
    propagation: str = "rprivate"


class Summary(msgspec.Struct, rename="pascal"):
    """One entry of GET /containers/json."""

    id: str
    names: tuple[str]
    image: str
    image_id: str = msgspec.field(name="ImageID")
    command: str
    created: int
    ports: tuple[()]
    labels: dict[str, str]
    state: State
    status: str
    host_config: dict[str, str]
    network_settings: dict[str, Any]
    mounts: list[MountView]
    wherry: WherryView


def status_code(record: Record | End) -> int:
    """The exit code as shells and docker count it: 128 + signal for a container that a signal ended."""
    if record.exit_code is not None:
        return record.exit_code
    if record.signal is not None:
        return 128 + record.signal
    return _EXIT_UNKNOWN if record.reason in (Reason.START_FAILED, Reason.LOST) else 0


def ending(end: End, *, in_full: bool) -> dict[str, Any]:
    """What ``wait`` answers; ``in_full`` with what Wherry knows beyond docker's two fields."""
    answer: dict[str, Any] = {
        "StatusCode": status_code(end),
        "Error": {"Message": end.error} if end.error else None,
    }
    if in_full:
        answer["Wherry"] = {
            "Id": end.id,
            "Name": end.name,
            "Reason": end.reason,
            "ExitCode": end.exit_code,
            "Signal": end.signal,
            "Error": end.error,
            "Started": _time(end.started_ns, ""),
            "Finished": _time(end.finished_ns, ""),
        }
    return answer


def listed(command: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a command, as far as a list shows them; "..." is the end of one that goes on."""
    room = LISTED_COMMAND
    for number, word in enumerate(command):
        room -= len(word) + (number > 0)
        if room < 0:
            kept = word[: max(len(word) + room - 3, 0)] + "..."
            return (*command[:number], kept)
    return command


def wherry(record: Record, log: Log, command: tuple[str, ...]) -> WherryView:
    request = record.request
    return WherryView(
        name=record.name,
        state=record.state,
        being_killed=record.being_killed,
        reason=record.reason,
        exit_code=record.exit_code,
        signal=record.signal,
        error=record.error,
        pid=record.pid,
        created=_time(record.created_ns, ""),
        started=_time(record.started_ns, ""),
        finished=_time(record.finished_ns, ""),
        soft_limit=request.soft_bytes,
        hard_limit=request.hard_bytes,
        nice=request.nice,
        sched_policy=request.sched_policy or "other",
        soft_action=request.soft_action or "none",
        timeout=None if request.timeout_seconds is None else round(request.timeout_seconds * 1e9),
        merge_streams=request.merge_streams,
        rootfs=request.rootfs,
        command=command,
        log_path=record.log_path,
        log_error=log.trouble,
        peak_memory=record.peak_memory_bytes,
        peak_pids=record.peak_pids,
        peak_rss=record.peak_rss_bytes,
        enforcer=record.enforcer,
        backstop=record.backstop_bytes,
        not_counted=record.not_counted,
        oom_children=record.oom_children,
        memory_death=_memory_death(record),
    )


def _memory_death(record: Record) -> MemoryDeathView | None:
    death = record.memory_death
    if death is None:
        return None
    return MemoryDeathView(
        enforcer=death.enforcer,
        pid=death.pid,
        comm=death.comm,
        rss=death.rss_bytes,
        limit=death.limit_bytes,
        peak=death.peak_bytes,
        detail=death.detail,
        crossed=_time(death.crossed_ns, ""),
        milliseconds_to_death=None if death.death_ns is None else death.death_ns / 1e6,
    )


def summary(record: Record, log: Log) -> Summary:
    request = record.request
    command = listed(request.command)
    return Summary(
        id=record.id,
        names=("/" + record.name,),
        image=request.rootfs,
        image_id=image_id(request.rootfs),
        command=" ".join(command),
        created=record.created_ns // 1_000_000_000,
        ports=(),
        labels=request.labels,
        state=record.state,
        status=_status(record) + (f" (log: {log.trouble})" if log.trouble else ""),
        host_config={"NetworkMode": request.network},
        network_settings={"Networks": {request.network: _endpoint(request.network)}},
        mounts=_mounts(request),
        wherry=wherry(record, log, command),
    )


def details(record: Record, log: Log) -> dict[str, Any]:
    """GET /containers/X/json."""
    request = record.request
    return {
        "Id": record.id,
        "Name": "/" + record.name,
        "Created": rfc3339_nano(record.created_ns),
        "Path": request.command[0],
        "Args": request.command[1:],
        "State": _state(record),
        "Image": image_id(request.rootfs),
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": record.log_path,
        "RestartCount": record.restart_count,
        "Driver": "none" if request.rw_rootfs else "overlayfs",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": _host_config(request),
        "GraphDriver": {"Name": "none" if request.rw_rootfs else "overlayfs", "Data": {}},
        "Mounts": _mounts(request),
        "Config": _config(record),
        "NetworkSettings": {**_NO_ADDRESSES, "Networks": {request.network: _endpoint(request.network)}},
        "Wherry": {**msgspec.to_builtins(wherry(record, log, request.command)), "Log": log_view(log)},
    }


def log_view(log: Log) -> LogView:
    stats = log.measure()
    return LogView(
        mode=log.options.mode,
        max_size=log.options.max_bytes,
        max_files=log.options.max_files,
        error=log.trouble,
        buffer_size=stats.budget_bytes or log.options.buffer_bytes,
        bytes_in=stats.bytes_in,
        bytes_out=stats.bytes_out,
        bytes_lost=stats.lost_bytes,
        bytes_held=stats.held_bytes,
        high_water=stats.high_water_bytes,
        times_full=stats.times_full,
        full_seconds=stats.full_ns / 1e9,
    )


def _log_config(log: LogOptions) -> dict[str, object]:
    config = {
        "mode": log.mode,
        "max-buffer-size": str(log.buffer_bytes),
        "max-size": str(log.max_bytes or -1),
        "max-file": str(log.max_files),
    }
    return {"Type": "local", "Config": config}


def _state(record: Record) -> dict[str, Any]:
    return {
        "Status": record.state,
        "Running": record.is_active,
        "Paused": record.state is State.PAUSED,
        "Restarting": record.state is State.RESTARTING,
        "OOMKilled": record.reason in MEMORY_REASONS,
        "Dead": False,
        "Pid": record.pid,
        "ExitCode": status_code(record),
        "Error": record.error,
        "StartedAt": _time(record.started_ns, durations.ZERO),
        "FinishedAt": _time(record.finished_ns, durations.ZERO),
    }


def _config(record: Record) -> dict[str, Any]:
    request = record.request
    return {
        "Hostname": request.hostname or record.name,
        "Domainname": request.domainname,
        "User": request.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": request.stdin,
        "StdinOnce": request.stdin_once,
        "Env": request.env,
        "Cmd": request.command[len(request.entrypoint) :],
        "Image": request.rootfs,
        "Volumes": None,
        "WorkingDir": request.working_dir,
        "Entrypoint": request.entrypoint or None,
        "OnBuild": None,
        "Labels": request.labels,
        "StopSignal": request.stop_signal,
        **({} if request.stop_seconds is None else {"StopTimeout": round(request.stop_seconds)}),
    }


def _host_config(request: CreateRequest) -> dict[str, Any]:
    return {
        "Annotations": request.annotations,
        "AutoRemove": request.auto_remove,
        "BlkioWeight": request.io_weight or 0,
        "SecurityOpt": ["no-new-privileges", *([f"seccomp={request.seccomp}"] if request.seccomp else [])],
        "Binds": [f"{v.source}:{v.destination}{':ro' if v.read_only else ''}" for v in request.volumes] or None,
        "CapAdd": request.cap_add or None,
        "CapDrop": request.cap_drop or None,
        "CgroupnsMode": "private",
        "CpuShares": request.cpu_shares or 0,
        "CpusetCpus": request.cpuset_cpus,
        "Dns": request.dns,
        "DnsOptions": request.dns_options,
        "DnsSearch": request.dns_search,
        "ExtraHosts": request.extra_hosts or None,
        "GroupAdd": request.group_add or None,
        "Init": request.init,
        "IpcMode": "private",
        "LogConfig": _log_config(request.log),
        "Memory": request.memory_bytes or 0,
        "MemoryReservation": request.memory_reservation_bytes or 0,
        "MemorySwap": request.memory_swap_bytes or 2 * (request.memory_bytes or 0),
        "NanoCpus": round((request.cpus or 0) * 1e9),
        "NetworkMode": request.network,
        "OomScoreAdj": request.oom_score_adj,
        "PidsLimit": request.pids_limit,
        "PortBindings": {},
        "Privileged": False,
        "ReadonlyRootfs": request.read_only,
        "RestartPolicy": {"Name": request.restart, "MaximumRetryCount": request.restart_retries},
        "ShmSize": request.shm_bytes or SHM_BYTES,
        "Sysctls": request.sysctls or None,
        "Tmpfs": request.tmpfs,
        "Ulimits": [{"Name": each.name, "Soft": each.soft, "Hard": each.hard} for each in request.ulimits] or None,
        "UsernsMode": request.userns,
    }


def _mounts(request: CreateRequest) -> list[MountView]:
    return [
        MountView(
            type="bind",
            source=volume.source,
            destination=volume.destination,
            mode="ro" if volume.read_only else "",
            rw=not volume.read_only,
        )
        for volume in request.volumes
    ]


def _status(record: Record) -> str:
    if record.state is State.CREATED:
        return "Created"
    if record.is_live:
        more = " (Paused)" if record.state is State.PAUSED else " (being killed)" if record.being_killed else ""
        return f"Up {_since(record.started_ns)}{more}"
    what = "Restarting" if record.state is State.RESTARTING else "Exited"
    return f"{what} ({status_code(record)}) {_since(record.finished_ns)} ago"


def _since(ns: int) -> str:
    return durations.human_duration((time.time_ns() - ns) / 1e9)


def _time(ns: int, never: str) -> str:
    return rfc3339_nano(ns) if ns else never


@cache
def _endpoint(network: str) -> msgspec.Raw:
    return msgspec.Raw(
        msgspec.json.encode(
            {
                "IPAMConfig": None,
                "Links": None,
                "Aliases": None,
                "MacAddress": "",
                "DriverOpts": None,
                "NetworkID": network_id(network),
                "EndpointID": "",
                "Gateway": "",
                "IPAddress": "",
                "IPPrefixLen": 0,
                "IPv6Gateway": "",
                "GlobalIPv6Address": "",
                "GlobalIPv6PrefixLen": 0,
                "DNSNames": None,
            }
        )
    )


_NO_ADDRESSES = {
    "Bridge": "",
    "SandboxID": "",
    "SandboxKey": "",
    "HairpinMode": False,
    "Ports": {},
    "EndpointID": "",
    "Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "LinkLocalIPv6Address": "",
    "LinkLocalIPv6PrefixLen": 0,
    "MacAddress": "",
    "SecondaryIPAddresses": None,
    "SecondaryIPv6Addresses": None,
}
"""docker's settings of its default network, in which nobody is here; the last versions of the API have them still."""
