"""The machine as an experiment found it."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from wherry import __version__

if TYPE_CHECKING:
    from wherry.client import Client
    from wherry.experiments.model import Data

_CPU_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


def describe(client: Client) -> Data:
    """Names of facts and what they are; "unknown" where this host does not tell."""
    info = client.info()
    ours = info.get("Wherry", {})
    return {
        "kernel": info.get("KernelVersion", "unknown"),
        "architecture": info.get("Architecture", "unknown"),
        "processor": _processor(),
        "CPUs online": _read("/sys/devices/system/cpu/online") or "unknown",
        "timer interrupts per second (HZ)": _hz(info.get("KernelVersion", "")),
        "autogroup": {"1": "on", "0": "off"}.get(_read("/proc/sys/kernel/sched_autogroup_enabled"), "not built in"),
        "preemption": _read("/sys/kernel/debug/sched/preempt") or "unknown",
        "scheduler features": _read("/sys/kernel/debug/sched/features") or "unknown",
        "control groups": f"version {info.get('CgroupVersion', 'unknown')}",
        "memory": f"{info.get('MemTotal', 0) / 2**30:.1f} GiB",
        "load average at start": " ".join(f"{each:.2f}" for each in os.getloadavg()),
        "memory enforcer": ours.get("Enforcer") or "none",
        "wherry": __version__,
    }


def online_cpus() -> list[int]:
    """The numbers of the CPUs that run."""
    found: list[int] = []
    for first, last in _CPU_RANGE.findall(_read("/sys/devices/system/cpu/online") or f"0-{(os.cpu_count() or 1) - 1}"):
        found.extend(range(int(first), int(last or first) + 1))
    return found


def autogroup_is_on() -> bool:
    return _read("/proc/sys/kernel/sched_autogroup_enabled") == "1"


def own_cpu_group() -> str:
    """The control group of this process as far as CPU time goes: "/" is the root, where autogroups are."""
    text = _read("/proc/self/cgroup")
    paths = {
        key: path for _, keys, path in (line.split(":", 2) for line in text.splitlines()) for key in keys.split(",")
    }
    return paths.get("cpu", paths.get("", "/"))


def _processor() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return match[1] if match else "unknown"


def _hz(release: str) -> str:
    for path in ("/proc/config.gz", f"/boot/config-{release}"):
        try:
            raw = Path(path).read_bytes()
        except OSError:
            continue
        text = (gzip.decompress(raw) if path.endswith(".gz") else raw).decode("utf-8", "replace")
        if match := re.search(r"^CONFIG_HZ=([0-9]+)$", text, re.MULTILINE):
            return match[1]
    return "unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
