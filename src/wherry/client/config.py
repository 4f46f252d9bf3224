"""Keyword options of ``Client.run`` and ``Client.start`` as Docker's container configuration."""

from __future__ import annotations

import os

from wherry import errors
from wherry.client import arguments
from wherry.client.arguments import MAX_MIB, MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Literal, TypedDict

    StrPath = str | os.PathLike[str]
    Size = int | str
    """Bytes, or text as docker takes it: "64m", "1.5g"."""
    Setting = str | int | os.PathLike[str]

    class Changes(TypedDict, total=False):
        """Keyword options of ``Client.update``."""

        soft_mib: int | None
        hard_mib: int | None
        nice: int | None
        cpus: float | None
        cpu_shares: int | None
        cpuset_cpus: str | None
        io_weight: int | None
        pids_limit: int | None

    class Options(TypedDict, total=False):
        """Keyword options of ``Client.run`` and ``Client.start``; ``container_config`` says what they mean."""

        soft_mib: int | None
        hard_mib: int | None
        soft_action: Literal["none", "reclaim", "throttle"] | None
        memory: Size | None
        memory_reservation: Size | None
        memory_swap: Size | None
        nice: int
        env: Mapping[str, Setting] | Sequence[str]
        working_dir: StrPath
        user: str
        hostname: str
        domainname: str
        rm: bool
        read_only: bool
        rw_rootfs: bool
        init: bool
        volumes: Sequence[StrPath]
        tmpfs: Mapping[str, str] | None
        network: Literal["none", "host"]
        pids_limit: int | None
        cpus: float | None
        cpu_shares: int | None
        cpuset_cpus: str
        sched_policy: str
        io_weight: int | None
        security_opt: Sequence[str]
        labels: Mapping[str, str] | None
        stop_signal: str | int
        stop_seconds: int | None
        log_mode: Literal["blocking", "non-blocking"] | None
        log_buffer_bytes: Size | None
        log_max_bytes: Size | None
        log_max_files: int | None
        merge_streams: bool


__all__ = ["MAX_MIB", "absolute", "container_config", "update_config"]


def config_of(function: str, rootfs: Any, command: Any, options: Mapping[str, Any]) -> dict[str, object]:
    """``container_config`` of the keyword ``options`` that ``function`` was called with, checked."""
    known: Iterable[str] = container_config.__kwdefaults__ or ()
    return container_config(rootfs, command, **arguments.checked(function, options, known))


def changes_of(function: str, options: Mapping[str, Any]) -> dict[str, object]:
    """``update_config``, as ``config_of``."""
    return update_config(**arguments.checked(function, options, update_config.__kwdefaults__ or ()))


def container_config(  # noqa: PLR0913 (docker's create has as many)
    rootfs: StrPath,
    command: Sequence[StrPath],
    *,
    soft_mib: int | None = None,
    hard_mib: int | None = None,
    soft_action: str | None = None,
    memory: int | None = None,
    memory_reservation: int | None = None,
    memory_swap: int | None = None,
    nice: int = 0,
    env: Mapping[str, Setting] | Sequence[str] = (),
    working_dir: str = "",
    user: str = "",
    hostname: str = "",
    domainname: str = "",
    rm: bool = False,
    read_only: bool = False,
    rw_rootfs: bool = False,
    init: bool = False,
    volumes: Sequence[StrPath] = (),
    tmpfs: Mapping[str, str] | None = None,
    network: str = "none",
    pids_limit: int | None = None,
    cpus: float | None = None,
    cpu_shares: int | None = None,
    cpuset_cpus: str = "",
    sched_policy: str = "",
    io_weight: int | None = None,
    security_opt: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    stop_signal: str = "",
    stop_seconds: int | None = None,
    log_mode: str | None = None,
    log_buffer_bytes: int | None = None,
    log_max_bytes: int | None = None,
    log_max_files: int | None = None,
    merge_streams: bool = False,
) -> dict[str, object]:
    """The body of ``POST /wherry/run``: Docker's container configuration with our ``Wherry`` object.

    ``rootfs`` is a directory or tar archive and ``volumes`` are "HOST:CONTAINER[:ro]"; relative host paths count from
    the caller's working directory. ``soft_mib`` and ``hard_mib`` are memory limits in MiB;
    ``soft_action`` says what happens at the soft one beside an event: "none" (the default), "reclaim" (the kernel is
    asked to take back what is above it) or "throttle" (whoever allocates above it is slowed down); ``memory``,
    ``memory_reservation`` and ``memory_swap`` are docker's, in bytes or as text ("64m"), and set the control group;
    ``env`` is a mapping to strings, whole numbers or paths, or "K=V" strings; ``tmpfs`` maps paths to mount options
    ("size=1m"); ``rm`` removes the container when it ends; ``rw_rootfs`` runs on the directory itself, without a layer
    of its own; ``init`` puts a small init before the command.

    ``pids_limit`` None is the supervisor's default (2048), -1 no limit.
    ``nice`` (-20 to 19) is the container's against others, ``cpu_shares`` (2 to 262144, 1024 is nice 0) another scale
    of the same; ``cpus`` counts CPUs (0.5 is half of one); ``cpuset_cpus`` lists them ("0-3,7"); ``sched_policy`` is
    other, batch, idle, fifo:N or rr:N; ``io_weight`` is 10 to 1000.

    ``security_opt`` is docker's: "seccomp=FILE", a profile in JSON that is read here, or "seccomp=unconfined".

    ``log_mode`` says what gives way when the log's buffer, of ``log_buffer_bytes``, is full: the container, which waits
    ("blocking", the default), or the oldest bytes ("non-blocking"). A log file is rotated at ``log_max_bytes`` (0:
    never), and ``log_max_files`` are kept. Order is kept within stdout and within stderr; with ``merge_streams`` both
    are one pipe, so that it is kept between them too, and all output is stdout.

    Raises InvalidRequest, with the argument's name, for what could not be sent as meant; everything else is checked by
    the supervisor. ``config_of`` checks the types of all options before.
    """
    _check_limits(soft_mib, hard_mib)
    host = {
        "AutoRemove": rm,
        "ReadonlyRootfs": read_only,
        "Init": init,
        "Binds": [_bind(volume) for volume in arguments.words("volumes", volumes)],
        "Tmpfs": dict(tmpfs or {}),
        "NetworkMode": network,
        "Memory": memory,
        "MemoryReservation": memory_reservation,
        "MemorySwap": memory_swap,
        "PidsLimit": pids_limit,
        "NanoCpus": None if cpus is None else _nano_cpus(cpus),
        "CpuShares": cpu_shares,
        "CpusetCpus": cpuset_cpus,
        "BlkioWeight": io_weight,
        "SecurityOpt": [_security_option(option) for option in arguments.words("security_opt", security_opt)],
        "LogConfig": _log_config(log_mode, log_buffer_bytes, log_max_bytes, log_max_files),
    }
    config = {
        "Cmd": arguments.command("command", command),
        "Env": arguments.env("env", env),
        "WorkingDir": working_dir,
        "User": user,
        "Hostname": hostname,
        "Domainname": domainname,
        "Labels": dict(labels or {}),
        "StopSignal": stop_signal,
        "StopTimeout": stop_seconds,
    }
    ours = {
        "Rootfs": absolute(arguments.sendable("rootfs", arguments.path("rootfs", rootfs)), "root file system"),
        "RwRootfs": rw_rootfs,
        "SoftLimit": _bytes(soft_mib),
        "HardLimit": _bytes(hard_mib),
        "SoftAction": soft_action,
        "Nice": nice,
        "SchedPolicy": sched_policy,
        "MergeStreams": merge_streams,
    }
    return {**_given(config), "HostConfig": _given(host), "Wherry": _given(ours)}


def update_config(
    *,
    soft_mib: int | None = None,
    hard_mib: int | None = None,
    nice: int | None = None,
    cpus: float | None = None,
    cpu_shares: int | None = None,
    cpuset_cpus: str | None = None,
    io_weight: int | None = None,
    pids_limit: int | None = None,
) -> dict[str, object]:
    """The body of ``POST /containers/X/update``; None leaves things as they are. Raises InvalidRequest."""
    _check_limits(soft_mib, hard_mib)
    ours = {"SoftLimit": _bytes(soft_mib), "HardLimit": _bytes(hard_mib), "Nice": nice}
    ours = {name: value for name, value in ours.items() if value is not None}
    resources: dict[str, object] = {
        # 0 would mean nothing at all to docker's API.
        "NanoCpus": None if cpus is None else _nano_cpus(cpus) if cpus else -1,
        "CpuShares": cpu_shares,
        "CpusetCpus": cpuset_cpus,
        "BlkioWeight": io_weight,
        "PidsLimit": pids_limit,
        "Wherry": ours or None,
    }
    given = {name: value for name, value in resources.items() if value is not None}
    if not given:
        raise errors.InvalidRequest("nothing to update: no option is given")
    return given


def _log_config(
    mode: str | None, buffer_bytes: int | None, max_bytes: int | None, max_files: int | None
) -> dict[str, object]:
    options = {"mode": mode, "max-buffer-size": buffer_bytes, "max-size": max_bytes, "max-file": max_files}
    given = {name: str(value) for name, value in options.items() if value is not None}
    return {"Type": "local", "Config": given} if given else {}


def _given(fields: dict[str, Any]) -> dict[str, object]:
    """Without what was not asked for; 0 stays, because a zero may be a wrong value that the supervisor must see."""
    return {
        key: value
        for key, value in fields.items()
        if value is not None and value is not False and value not in ("", [], {})
    }


def _check_limits(soft: int | None, hard: int | None) -> None:
    if soft is not None and hard is not None and soft > hard:
        text = f"soft limit {soft} MiB is above hard limit {hard} MiB"
        raise errors.InvalidRequest(text, "soft_mib", soft)


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib * MIB


def _nano_cpus(cpus: float) -> int:
    return round(arguments.number("cpus", cpus, 1e-9, 1e9, arguments.SOME_CPUS) * 1_000_000_000)


def _security_option(option: str) -> str:
    """A seccomp profile is sent as text: the supervisor does not read files for its clients."""
    name, _, value = option.partition("=")
    if name != "seccomp" or value in ("", "unconfined", "builtin", "default") or value.startswith("{"):
        return option
    try:
        with open(value, encoding="utf-8") as file:
            return f"seccomp={file.read()}"
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise errors.InvalidRequest(f"seccomp profile {value!r}: {reason}") from None


def absolute(path: StrPath, what: str) -> str:
    """``path`` from the caller's working directory on; ".." stays, because it may follow a symbolic link."""
    path = os.fspath(path)
    if not path:
        raise errors.InvalidRequest(f"{what}: the path is empty")
    if path.startswith("/"):
        return path
    try:
        return os.path.join(os.getcwd(), path)
    except FileNotFoundError:
        raise errors.InvalidRequest(
            f"{what} {path!r} is relative, and the working directory no longer exists"
        ) from None


def _bind(volume: str) -> str:
    parts = volume.split(":")
    well_formed = len(parts) == 2 or (len(parts) == 3 and parts[2] in {"ro", "rw"})
    if not well_formed or not parts[0] or not parts[1].startswith("/"):
        text = f"volume {volume!r} is not HOST:CONTAINER or HOST:CONTAINER:ro, CONTAINER absolute"
        raise errors.InvalidRequest(text, "volumes", volume)
    return ":".join([absolute(parts[0], "volume"), *parts[1:]])
