"""Handlers about the supervisor itself."""

from __future__ import annotations

import os
import platform
import time
from functools import cache
from typing import Any

from aiohttp import web

from wherry.api.docker.platforms import architecture
from wherry.api.handlers import disk
from wherry.api.handlers.images import known
from wherry.api.http.replies import API_VERSION
from wherry.api.http.router import Call
from wherry.api.http.versions import OLDEST, shown
from wherry.logs import rfc3339_nano
from wherry.supervisor.containers.record import EngineInfo


async def ping(call: Call) -> web.StreamResponse:
    return call.replies.ping()


async def version(call: Call) -> web.StreamResponse:
    info = call.engine.info()
    basics = {
        "ApiVersion": API_VERSION,
        "MinAPIVersion": shown(OLDEST),
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": info.kernel,
        "BuildTime": "",
    }
    component = {"Name": "Engine", "Version": info.version, "Details": {**basics, "Experimental": "false"}}
    python = {"Name": "python", "Version": platform.python_version(), "Details": {}}
    return call.replies.json(
        {
            "Platform": {"Name": "Wherry"},
            "Version": info.version,
            **basics,
            "Experimental": False,
            "Components": [component, python],
        }
    )


async def info(call: Call) -> web.StreamResponse:
    about = call.engine.info()
    images = len(known(call.engine))
    ours = {**_wherry(about), "Disk": disk.brief(call.engine.disk())}
    return call.replies.json(
        {**_counts(about), "Images": images, **_host(about), **_abilities(about), **_by_version(call), "Wherry": ours}
    )


def _counts(about: EngineInfo) -> dict[str, Any]:
    stopped = about.containers_created + about.containers_restarting + about.containers_exited
    return {
        "Containers": about.containers_running + about.containers_paused + stopped,
        "ContainersRunning": about.containers_running,
        "ContainersPaused": about.containers_paused,
        "ContainersStopped": stopped,
    }


def _host(about: EngineInfo) -> dict[str, Any]:
    return {
        "ID": about.hostname,
        "Name": about.hostname,
        "NCPU": about.cpus,
        "MemTotal": about.memory_bytes,
        "KernelVersion": about.kernel,
        "OperatingSystem": _operating_system(),
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": os.uname().machine,
        "SystemTime": rfc3339_nano(time.time_ns()),
        "DockerRootDir": about.state_dir,
        "ServerVersion": about.version,
    }


def _abilities(about: EngineInfo) -> dict[str, Any]:
    return {
        "Driver": "overlayfs",
        "DriverStatus": [],
        "Plugins": {"Volume": [], "Network": ["none", "host"], "Authorization": None, "Log": []},
        "LoggingDriver": "",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": str(about.cgroup_version),
        "MemoryLimit": True,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "PidsLimit": True,
        "SwapLimit": False,
        "CPUSet": True,
        "OomKillDisable": False,
        "IPv4Forwarding": False,
        "BridgeNfIptables": False,
        "BridgeNfIp6tables": False,
        "Debug": False,
        "ExperimentalBuild": False,
        "LiveRestoreEnabled": True,
        "DefaultRuntime": "wherry",
        "Runtimes": {"wherry": {"path": ""}},
        "InitBinary": "",
        "ContainerdCommit": {"ID": "", "Expected": ""},
        "RuncCommit": {"ID": "", "Expected": ""},
        "InitCommit": {"ID": "", "Expected": ""},
        "Swarm": {"LocalNodeState": "inactive", "NodeID": "", "NodeAddr": "", "ControlAvailable": False, "Error": ""},
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=no-new-privileges"],
        "Labels": [],
        "IndexServerAddress": "",
        "RegistryConfig": None,
        "Warnings": None,
    }


def _by_version(call: Call) -> dict[str, Any]:
    """What came to docker's answer, or went from it, with a version."""
    if call.version < (1, 42):
        return {"KernelMemory": False}
    return {"CDISpecDirs": []} if call.version >= (1, 44) else {}


def _wherry(about: EngineInfo) -> dict[str, Any]:
    return {
        "Version": about.version,
        "StateDir": about.state_dir,
        "Rootfs": about.rootfs,
        "Socket": about.socket,
        "Pid": about.pid,
        "ShimPid": about.shim_pid,
        "CgroupVersion": about.cgroup_version,
        "CgroupParent": about.cgroup_parent,
        "Enforcer": about.enforcer,
        "EnforcersRefused": about.enforcers_refused,
        "EnforcerDropped": about.enforcer_dropped,
        "Backstop": about.has_backstop,
        "NotCounted": about.not_counted,
        "EnforcerDrift": about.drift_bytes,
        "EnforcerDriftOf": about.drift_of,
        "ContainersRunning": about.containers_running,
        "ContainersPaused": about.containers_paused,
        "ContainersRestarting": about.containers_restarting,
        "ContainersCreated": about.containers_created,
        "ContainersExited": about.containers_exited,
        "Spares": about.spares,
        "LongestTurnMs": about.longest_turn_ms,
        "LongestTurnCpuMs": about.longest_turn_cpu_ms,
        "SlowTurns": about.slow_turns,
    }


@cache
def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
