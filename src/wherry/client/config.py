"""Keyword options of ``Client.run``, ``start`` and ``update`` as Docker's container configuration: one table.

``soft_limit`` and ``hard_limit`` are memory limits in bytes or as text ("64m"), ``soft_mib`` and ``hard_mib`` the same
in MiB; ``soft_action`` says what happens at the soft one beside an
event: "none" (the default), "reclaim" (the kernel is asked to take back what is above it) or "throttle" (whoever
allocates above it is slowed down); ``memory``, ``memory_reservation`` and ``memory_swap`` are docker's, in bytes or as
text ("64m"), and set the control group; ``env`` is a mapping to strings, whole numbers or paths, or "K=V" strings;
``entrypoint`` is a program, or a list of it and its first arguments, that the command's words come after; ``volumes``
are "HOST:CONTAINER[:ro]", where a relative host path counts from the caller's working directory; ``tmpfs``
maps paths to mount options ("size=1m"); ``rm`` removes the container when it ends; ``rw_rootfs`` runs on the directory
itself, without a layer of its own; ``init`` puts a small init before the command.

``pids_limit`` None is the supervisor's default (2048), -1 no limit. ``nice`` (-20 to 19) is the container's against
others, ``cpu_shares`` (2 to 262144, 1024 is nice 0) another scale of the same; ``cpus`` counts CPUs (0.5 is half of
one); ``cpuset_cpus`` lists them ("0-3,7"); ``sched_policy`` is other, batch, idle, fifo:N or rr:N; ``io_weight`` is 10
to 1000.

``ulimits`` maps docker's names to a limit, or to a soft and a hard one ({"nofile": (1024, 4096)}, -1 for none);
``shm_size`` is that of /dev/shm; ``oom_score_adj`` is -1000 to 1000; ``group_add`` are names or numbers of groups;
``extra_hosts`` are lines of /etc/hosts, a mapping of names to addresses or "NAME:IP" strings; ``dns``, ``dns_search``
and ``dns_options`` those of /etc/resolv.conf; ``cap_add`` and ``cap_drop`` are names such as "NET_RAW"; ``sysctls``
maps kernel parameters of the container's namespaces to values.

``userns`` is "host", "auto", "keep-id" or "UID:GID:SIZE"; None is the supervisor's default.

``security_opt`` is docker's: "seccomp=FILE", a profile in JSON that is read here, or "seccomp=unconfined".

``log_mode`` says what gives way when the log's buffer, of ``log_buffer_bytes``, is full: the container, which waits
("blocking", the default), or the oldest bytes ("non-blocking"). A log file is rotated at ``log_max_bytes`` (0: never),
and ``log_max_files`` are kept. Order is kept within stdout and within stderr; with ``merge_streams`` both are one pipe,
so that it is kept between them too, and all output is stdout. ``stdin`` gives the container a standard input that
stays open for whoever attaches (``Client.attach``); without it, it is /dev/null.

None leaves an option out. A value that could not be sent as meant raises InvalidRequest with the option's name;
everything else is checked by the supervisor.
"""

from __future__ import annotations

import os

from wherry import errors
from wherry.client import arguments
from wherry.client.arguments import MAX_MIB, flag, path, size, swap, text, texts, whole, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Literal, TypedDict

    from wherry.client.arguments import Check

    StrPath = str | os.PathLike[str]
    Size = int | str
    """Bytes, or text as docker takes it: "64m", "1.5g"."""
    Setting = str | int | os.PathLike[str]

    class Changes(TypedDict, total=False):
        """Keyword options of ``Client.update``."""

        soft_mib: int | None
        hard_mib: int | None
        soft_limit: Size | None
        hard_limit: Size | None
        nice: int | None
        cpus: float | None
        cpu_shares: int | None
        cpuset_cpus: str | None
        io_weight: int | None
        pids_limit: int | None
        restart: str | None

    class ExecOptions(TypedDict, total=False):
        """Keyword options of ``Client.exec`` and ``Client.start_exec``."""

        env: Mapping[str, Setting] | Sequence[str] | None
        working_dir: StrPath | None
        user: str | None
        privileged: bool
        timeout: float | None

    class Options(TypedDict, total=False):
        """Keyword options of ``Client.run`` and ``Client.start``."""

        soft_mib: int | None
        hard_mib: int | None
        soft_limit: Size | None
        hard_limit: Size | None
        soft_action: Literal["none", "reclaim", "throttle"] | None
        memory: Size | None
        memory_reservation: Size | None
        memory_swap: Size | None
        nice: int | None
        env: Mapping[str, Setting] | Sequence[str] | None
        entrypoint: StrPath | Sequence[StrPath] | None
        working_dir: StrPath | None
        user: str | None
        hostname: str | None
        domainname: str | None
        rm: bool | None
        read_only: bool | None
        rw_rootfs: bool | None
        init: bool | None
        volumes: Sequence[StrPath] | None
        tmpfs: Mapping[str, str] | None
        network: Literal["none", "host"] | None
        userns: str | None
        pids_limit: int | None
        cpus: float | None
        cpu_shares: int | None
        cpuset_cpus: str | None
        sched_policy: str | None
        io_weight: int | None
        ulimits: Mapping[str, int | tuple[int, int]] | None
        oom_score_adj: int | None
        shm_size: Size | None
        group_add: Sequence[str | int] | None
        extra_hosts: Mapping[str, str] | Sequence[str] | None
        dns: Sequence[str] | None
        dns_search: Sequence[str] | None
        dns_options: Sequence[str] | None
        cap_add: Sequence[str] | None
        cap_drop: Sequence[str] | None
        sysctls: Mapping[str, Setting] | None
        security_opt: Sequence[str] | None
        labels: Mapping[str, str] | None
        restart: str | None
        timeout: float | None
        stop_signal: str | int | None
        stop_seconds: int | None
        log_mode: Literal["blocking", "non-blocking"] | None
        log_buffer_bytes: Size | None
        log_max_bytes: Size | None
        log_max_files: int | None
        merge_streams: bool | None
        stdin: bool | None


__all__ = ["MAX_MIB", "absolute", "changes_of", "config_of"]

_DOCKER = ""
_HOST = "HostConfig"
_LOG = "LogConfig"
_OURS = "Wherry"


def _from_mib(argument: str, value: Any) -> int:
    return arguments.mib(argument, value) * arguments.MIB


def _from_zero(argument: str, value: Any) -> int:
    return whole(argument, value, 0)


def _directory(argument: str, value: Any) -> str:
    return text(argument, path(argument, value))


def _entrypoint(argument: str, value: Any) -> list[str]:
    return arguments.command(argument, [value] if isinstance(value, (str, os.PathLike)) else value)


def _nice(argument: str, value: Any) -> int:
    return whole(argument, value, -20, 19)


def _stop_seconds(argument: str, value: Any) -> int:
    return whole(argument, value, -1, what="a whole number of seconds, or -1")


def _nano_cpus(argument: str, value: Any) -> int:
    # 1e9 CPUs is far above any machine and far below what a JSON integer holds.
    return round(arguments.number(argument, value, 1e-9, 1e9, arguments.SOME_CPUS) * 1_000_000_000)


def _changed_cpus(argument: str, value: Any) -> int:
    """0 takes the limit away, and would mean nothing at all to docker's API."""
    return -1 if value == 0 and not isinstance(value, bool) else _nano_cpus(argument, value)


def _ulimits(argument: str, value: Any) -> list[dict[str, Any]]:
    if not hasattr(value, "items"):
        arguments.refuse(argument, value, 'a mapping such as {"nofile": (1024, 4096)}')
    found = []
    for name, given in value.items():
        pair = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, given)
        soft, hard = (whole(f"{argument}[{name!r}]", each, what="a whole number, or two: soft, hard") for each in pair)
        found.append({"Name": text(f"{argument} key", name), "Soft": soft, "Hard": hard})
    return found


def _oom_score_adj(argument: str, value: Any) -> int:
    return whole(argument, value, -1000, 1000)


def _groups(argument: str, value: Any) -> list[str]:
    given = arguments.sequence(argument, value, "names or numbers")
    return words(argument, [str(each) if type(each) is int else each for each in given])


def _extra_hosts(argument: str, value: Any) -> list[str]:
    if hasattr(value, "items"):
        return [f"{name}:{address}" for name, address in texts(argument, value).items()]
    return words(argument, value)


def _sysctls(argument: str, value: Any) -> dict[str, str]:
    if not hasattr(value, "items"):
        arguments.refuse(argument, value, 'a mapping such as {"net.ipv4.ip_forward": 1}')
    return dict(setting.split("=", 1) for setting in arguments.env(argument, value))


def _volumes(argument: str, value: Any) -> list[str]:
    return [_bind(volume) for volume in words(argument, value)]


def _security_options(argument: str, value: Any) -> list[str]:
    return [_security_option(option) for option in words(argument, value)]


OPTIONS: dict[str, tuple[str, str, Check]] = {
    "soft_mib": (_OURS, "SoftLimit", _from_mib),
    "hard_mib": (_OURS, "HardLimit", _from_mib),
    "soft_limit": (_OURS, "SoftLimit", size),
    "hard_limit": (_OURS, "HardLimit", size),
    "soft_action": (_OURS, "SoftAction", text),
    "memory": (_HOST, "Memory", size),
    "memory_reservation": (_HOST, "MemoryReservation", size),
    "memory_swap": (_HOST, "MemorySwap", swap),
    "nice": (_OURS, "Nice", _nice),
    "env": (_DOCKER, "Env", arguments.env),
    "entrypoint": (_DOCKER, "Entrypoint", _entrypoint),
    "working_dir": (_DOCKER, "WorkingDir", _directory),
    "user": (_DOCKER, "User", text),
    "hostname": (_DOCKER, "Hostname", text),
    "domainname": (_DOCKER, "Domainname", text),
    "rm": (_HOST, "AutoRemove", flag),
    "read_only": (_HOST, "ReadonlyRootfs", flag),
    "rw_rootfs": (_OURS, "RwRootfs", flag),
    "init": (_HOST, "Init", flag),
    "volumes": (_HOST, "Binds", _volumes),
    "tmpfs": (_HOST, "Tmpfs", texts),
    "network": (_HOST, "NetworkMode", text),
    "userns": (_HOST, "UsernsMode", text),
    "pids_limit": (_HOST, "PidsLimit", whole),
    "cpus": (_HOST, "NanoCpus", _nano_cpus),
    "cpu_shares": (_HOST, "CpuShares", _from_zero),
    "cpuset_cpus": (_HOST, "CpusetCpus", text),
    "sched_policy": (_OURS, "SchedPolicy", text),
    "io_weight": (_HOST, "BlkioWeight", _from_zero),
    "ulimits": (_HOST, "Ulimits", _ulimits),
    "oom_score_adj": (_HOST, "OomScoreAdj", _oom_score_adj),
    "shm_size": (_HOST, "ShmSize", size),
    "group_add": (_HOST, "GroupAdd", _groups),
    "extra_hosts": (_HOST, "ExtraHosts", _extra_hosts),
    "dns": (_HOST, "Dns", words),
    "dns_search": (_HOST, "DnsSearch", words),
    "dns_options": (_HOST, "DnsOptions", words),
    "cap_add": (_HOST, "CapAdd", words),
    "cap_drop": (_HOST, "CapDrop", words),
    "sysctls": (_HOST, "Sysctls", _sysctls),
    "security_opt": (_HOST, "SecurityOpt", _security_options),
    "labels": (_DOCKER, "Labels", texts),
    "restart": (_HOST, "RestartPolicy", arguments.restart),
    "timeout": (_OURS, "Timeout", arguments.nanoseconds),
    "stop_signal": (_DOCKER, "StopSignal", arguments.signal),
    "stop_seconds": (_DOCKER, "StopTimeout", _stop_seconds),
    "log_mode": (_LOG, "mode", text),
    "log_buffer_bytes": (_LOG, "max-buffer-size", size),
    "log_max_bytes": (_LOG, "max-size", size),
    "log_max_files": (_LOG, "max-file", _from_zero),
    "merge_streams": (_OURS, "MergeStreams", flag),
    "stdin": (_DOCKER, "OpenStdin", flag),
}
"""Of each keyword: the object of the request that it stands in, its key there, and what checks a value and returns it
as it is sent. Ranges that the host decides are the supervisor's.
"""

CHANGES: dict[str, tuple[str, str, Check]] = {
    **{
        name: OPTIONS[name]
        for name in (
            *("soft_mib", "hard_mib", "soft_limit", "hard_limit"),
            *("nice", "cpu_shares", "cpuset_cpus", "io_weight", "pids_limit", "restart"),
        )
    },
    "cpus": (_HOST, "NanoCpus", _changed_cpus),
}
"""Of ``update``; what stands in HostConfig above is beside Wherry there."""


def config_of(function: str, rootfs: Any, command: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of ``POST /wherry/run``: Docker's container configuration with our ``Wherry`` object, from the keyword
    ``options`` that ``function`` was called with.

    ``rootfs`` is a directory or tar archive; a relative path counts from the caller's working directory. Raises
    InvalidRequest, and TypeError for an unknown keyword.
    """
    parts = _parts(function, options, OPTIONS)
    host, ours, log = parts[_HOST], parts[_OURS], parts[_LOG]
    if log:
        host["LogConfig"] = {"Type": "local", "Config": {name: str(value) for name, value in log.items()}}
    ours["Rootfs"] = absolute(arguments.sendable("rootfs", path("rootfs", rootfs)), "root file system")
    read = arguments.words if "Entrypoint" in parts[_DOCKER] else arguments.command
    body: dict[str, Any] = {"Cmd": read("command", command), **parts[_DOCKER], "Wherry": ours}
    if host:
        body["HostConfig"] = host
    return body


def changes_of(function: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of ``POST /containers/X/update``, as ``config_of``."""
    parts = _parts(function, options, CHANGES)
    body: dict[str, Any] = parts[_HOST]
    if parts[_OURS]:
        body["Wherry"] = parts[_OURS]
    if not body:
        raise errors.InvalidRequest("nothing to update: no option is given")
    return body


def _parts(
    function: str, options: Mapping[str, Any], table: Mapping[str, tuple[str, str, Check]]
) -> dict[str, dict[str, Any]]:
    """Each object of the request, without what was not asked for. 0 stays, because a zero may be a wrong value that
    the supervisor must see.
    """
    arguments.keywords(function, options, table)
    parts: dict[str, dict[str, Any]] = {_DOCKER: {}, _HOST: {}, _LOG: {}, _OURS: {}}
    for name, given in options.items():
        if given is None:
            continue
        place, key, check = table[name]
        value = check(name, given)
        if value is not False and value not in ("", [], {}):
            if key in parts[place]:
                other = next(each for each in options if table[each][:2] == (place, key))
                raise errors.InvalidRequest(f"{other} and {name} say the same: give one", name, given)
            parts[place][key] = value
    soft, hard = parts[_OURS].get("SoftLimit"), parts[_OURS].get("HardLimit")
    if soft is not None and hard is not None and soft > hard:
        name = "soft_mib" if options.get("soft_mib") is not None else "soft_limit"
        text = f"soft limit {_shown(soft)} is above hard limit {_shown(hard)}"
        raise errors.InvalidRequest(text, name, options[name])
    return parts


def _shown(limit: int) -> str:
    return f"{limit} bytes" if limit % arguments.MIB else f"{limit // arguments.MIB} MiB"


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
