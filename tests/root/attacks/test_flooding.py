"""Attacks by amount: what a container can have its supervisor tell, and keep on its disk; and what it is not told."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from tests.attacks.programs import kept
from tests.root.harness import Supervisor
from tests.root.patched import Weaken

pytestmark = pytest.mark.root
MIB = 1 << 20


def told_at_once(supervisor: Supervisor, rootfs: Path, most: int) -> int:
    """Soft limits and their ends that one container makes us tell before some are added up; at most ``most``."""
    with contextlib.closing(supervisor.client.events()) as events:
        volume = [f"{kept('load')}:/load:ro"]
        command = ["/load", "memory", "16"]
        supervisor.client.start("storm", str(rootfs), command, volumes=volume, soft_mib=4, hard_mib=256)
        told = 0
        for event in events:
            told += event.kind in ("soft-limit", "soft-limit-cleared")
            if told == most or "suppressed" in event.attributes:
                break
    supervisor.client.rm("storm", force=True)
    return told


NO_QUOTA = "from wherry.supervisor import events\nevents.BURST = 10**6"


@pytest.mark.attack("event-flood")
@pytest.mark.parametrize("is_blocked", [True, False])
def test_a_container_does_not_push_out_what_others_tell(weaken: Weaken, rootfs: Path, is_blocked: bool) -> None:
    with weaken("" if is_blocked else NO_QUOTA) as supervisor:
        assert (told_at_once(supervisor, rootfs, 60) < 60) == is_blocked


@pytest.mark.attack("log-flood")
@pytest.mark.parametrize("size", ["1m", "0"])
def test_a_log_takes_no_more_than_it_may(supervisor: Supervisor, rootfs: Path, size: str) -> None:
    """Without a limit, which only who starts the container can take away, all of it is kept."""
    command = ["/bin/dd", "if=/dev/zero", f"bs={MIB}", "count=24", "status=none"]
    supervisor.engine("start", "--log-max-size", size, "--log-max-files", "2", "c", rootfs, *command)
    assert supervisor.client.wait("c") == 0
    logs = supervisor.state_dir / "logs"
    kept_bytes = sum((logs / name).stat().st_size for name in os.listdir(logs))
    assert (kept_bytes <= 3 * MIB) == (size == "1m"), kept_bytes
    assert kept_bytes <= 25 * MIB


WILDCARD = """
import fnmatch, os
from wherry.supervisor.containers import spec_of
exactly = spec_of._environment
def expanded(asked, *rest):
    names = [name for name in os.environ for each in asked if fnmatch.fnmatch(name, each.partition('=')[0])]
    return exactly(tuple(f"{name}={os.environ[name]}" for name in names), *rest)
spec_of._environment = expanded
"""


@pytest.mark.attack("environment-wildcard")
@pytest.mark.parametrize("is_blocked", [True, False])
def test_a_pattern_in_an_environment_is_no_pattern(weaken: Weaken, rootfs: Path, is_blocked: bool) -> None:
    """The supervisor has variables that no container has asked for by their names."""
    with weaken("" if is_blocked else WILDCARD) as supervisor:
        shown = supervisor.engine("run", "-e", "*", "-e", "ENGINE_S*=", "c", rootfs, "/usr/bin/env").stdout
    assert ("ENGINE_SOCKET=" in shown) != is_blocked, shown
