"""Keyword options of ``Client.run`` and ``Client.start`` as Docker's container configuration."""

from __future__ import annotations

import os

from wherry import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Literal, TypedDict

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
        memory: int | None
        memory_reservation: int | None
        memory_swap: int | None
        nice: int
        env: Mapping[str, str] | Sequence[str]
        working_dir: str
        user: str
        hostname: str
        domainname: str
        rm: bool
        read_only: bool
        rw_rootfs: bool
        init: bool
        volumes: Sequence[str]
        tmpfs: Mapping[str, str] | None
        network: Literal["none", "host"]
        pids_limit: int | None
        cpus: float | None
        cpu_shares: int | None
        cpuset_cpus: str
        sched_policy: str
        io_weight: int | None
        labels: Mapping[str, str] | None
        stop_signal: str
        stop_seconds: int | None
        log_mode: Literal["blocking", "non-blocking"] | None
        log_buffer_bytes: int | None
        log_max_bytes: int | None
        log_max_files: int | None
        merge_streams: bool


MIB = 1 << 20
MAX_MIB = (1 << 63) // MIB - 1
"""Largest limit that fits the kernel's signed 64-bit byte counts."""


def container_config(  # noqa: PLR0913 (docker's create has as many)
    rootfs: str,
    command: Sequence[str],
    *,
    soft_mib: int | None = None,
    hard_mib: int | None = None,
    memory: int | None = None,
    memory_reservation: int | None = None,
    memory_swap: int | None = None,
    nice: int = 0,
    env: Mapping[str, str] | Sequence[str] = (),
    working_dir: str = "",
    user: str = "",
    hostname: str = "",
    domainname: str = "",
    rm: bool = False,
    read_only: bool = False,
    rw_rootfs: bool = False,
    init: bool = False,
    volumes: Sequence[str] = (),
    tmpfs: Mapping[str, str] | None = None,
    network: str = "none",
    pids_limit: int | None = None,
    cpus: float | None = None,
    cpu_shares: int | None = None,
    cpuset_cpus: str = "",
    sched_policy: str = "",
    io_weight: int | None = None,
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
    the caller's working directory. ``soft_mib`` and ``hard_mib`` are memory limits in MiB; ``memory``,
    ``memory_reservation`` and ``memory_swap`` are docker's, in bytes, and set the control group;
    ``env`` is a mapping or "K=V" strings; ``tmpfs`` maps paths to mount options ("size=1m"); ``rm`` removes the
    container when it ends; ``rw_rootfs`` runs on the directory itself, without a layer of its own; ``init`` puts a
    small init before the command.

    ``nice`` (-20 to 19) is the container's against others, ``cpu_shares`` (2 to 262144, 1024 is nice 0) another scale
    of the same; ``cpus`` counts CPUs (0.5 is half of one); ``cpuset_cpus`` lists them ("0-3,7"); ``sched_policy`` is
    other, batch, idle, fifo:N or rr:N; ``io_weight`` is 10 to 1000.

    ``log_mode`` says what gives way when the log's buffer, of ``log_buffer_bytes``, is full: the container, which waits
    ("blocking", the default), or the oldest bytes ("non-blocking"). A log file is rotated at ``log_max_bytes`` (0:
    never), and ``log_max_files`` are kept. Order is kept within stdout and within stderr; with ``merge_streams`` both
    are one pipe, so that it is kept between them too, and all output is stdout.

    Raises InvalidRequest for what could not be sent as meant; everything else is checked by the supervisor.
    """
    _check_limits(soft_mib, hard_mib)
    host = {
        "AutoRemove": rm,
        "ReadonlyRootfs": read_only,
        "Init": init,
        "Binds": [_bind(volume) for volume in _words("volumes", volumes)],
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
        "LogConfig": _log_config(log_mode, log_buffer_bytes, log_max_bytes, log_max_files),
    }
    config = {
        "Cmd": _words("command", command),
        "Env": _environment(env),
        "WorkingDir": working_dir,
        "User": user,
        "Hostname": hostname,
        "Domainname": domainname,
        "Labels": dict(labels or {}),
        "StopSignal": stop_signal,
        "StopTimeout": stop_seconds,
    }
    ours = {
        "Rootfs": absolute(rootfs, "root file system"),
        "RwRootfs": rw_rootfs,
        "SoftLimit": _bytes(soft_mib),
        "HardLimit": _bytes(hard_mib),
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
        raise errors.InvalidRequest("nothing to update")
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
    for what, value in (("soft", soft), ("hard", hard)):
        if value is not None and not 1 <= value <= MAX_MIB:
            raise errors.InvalidRequest(f"{what} limit {value} MiB is not between 1 and {MAX_MIB}")
    if soft is not None and hard is not None and soft > hard:
        raise errors.InvalidRequest(f"soft limit {soft} MiB is above hard limit {hard} MiB")


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib * MIB


def _words(what: str, words: Sequence[str]) -> list[str]:
    if isinstance(words, str):
        raise errors.InvalidRequest(f"{what} is one string; a list of strings is expected")
    return [os.fspath(word) for word in words]


def _environment(env: Mapping[str, str] | Sequence[str]) -> list[str]:
    # Not isinstance(env, Mapping): collections.abc is cheap, but a dict is what has keys.
    if hasattr(env, "items"):
        return [f"{name}={value}" for name, value in env.items()]
    return _words("env", env)


def _nano_cpus(cpus: float) -> int:
    # A comparison that NaN fails; 1e9 CPUs is far above any machine and far below what a JSON integer holds.
    if not 1e-9 <= cpus <= 1e9:
        raise errors.InvalidRequest(f"cpus {cpus!r} is not a number of CPUs above 0")
    return round(cpus * 1_000_000_000)


def absolute(path: str, what: str) -> str:
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
        raise errors.InvalidRequest(f"volume {volume!r} is not HOST:CONTAINER or HOST:CONTAINER:ro, CONTAINER absolute")
    return ":".join([absolute(parts[0], "volume"), *parts[1:]])
