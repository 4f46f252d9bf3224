"""Shares of one CPU by nice value: what the scheduler really gives. Also run in guests, on control groups version 2."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry.experiments import cpu_windows, theory
from wherry.experiments.lab import Lab
from wherry.experiments.model import Settings
from wherry.weights import weight_of_nice

pytestmark = pytest.mark.root

NICES = (0, 5, 10, 15)
POINTS = 3.0
"""Of percent of the CPU, which the published claim allows for."""
PIN = "0"
SECOND = 1_000_000_000


def shares_come_to_be(lab: Lab, nices: dict[str, int]) -> None:
    """Over as much time as the machine needs to give them enough of a CPU to be compared."""
    predicted = theory.shares({name: weight_of_nice(nice) for name, nice in nices.items()})
    found: dict[str, float] = {}

    def are_as_predicted() -> bool:
        before = lab.sample(nices)
        wait_until(lambda: sum(lab.sample(nices).cpu_ns.values()) - sum(before.cpu_ns.values()) > 2 * SECOND)
        found.update(theory.shares(lab.sample(nices).since(before)))
        return all(abs(found[name] - predicted[name]) <= POINTS for name in nices)

    try:
        wait_until(are_as_predicted)
    except AssertionError:
        raise AssertionError(f"{found}, where {predicted} was predicted") from None


def test_nice_values_of_containers_are_worth_their_weights(supervisor: Supervisor, rootfs: Path) -> None:
    """On one CPU, whatever else runs there; and a new nice value is felt."""
    settings = Settings(rootfs=str(rootfs), cpu=int(PIN))
    nices = {f"nice{nice}": nice for nice in NICES}
    with Lab(supervisor.client, settings, "shares", lambda _spent, _what: None) as lab:
        for name, nice in nices.items():
            lab.start(name, cpu_windows.FOREVER, nice=nice, cpuset_cpus=PIN)
        shares_come_to_be(lab, nices)
        supervisor.client.update(lab.name("nice15"), nice=0)
        shares_come_to_be(lab, nices | {"nice15": 0})
    assert supervisor.ps() == []


def test_on_one_cpu_nice_15_has_to_wait_for_nice_0(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 30: both burn a second of CPU time. When the first is done the second has nearly all of it to do, for which
    it needs as much time at least, however fast the machine is. Each says itself when it is done: the supervisor may
    be late to hear of it.
    """
    client = supervisor.client
    command = ["/bin/sh", "-c", "/cpu_hog 1 && cat /proc/uptime"]
    done: dict[str, float] = {}
    for name, nice in (("a", 0), ("b", 15)):
        client.start(name, str(rootfs), command, nice=nice, cpuset_cpus=PIN)
    for name in ("a", "b"):
        assert client.wait(name) == 0
        said = b"".join(data for _, data in client.logs(name)).decode()
        done[name] = float(said.split()[-2])
        (used,) = re.findall(r"done, \d+ rounds of 100000 steps, (\d+\.\d+) s of CPU time", said)
        assert float(used) >= 1
    assert done["b"] - done["a"] >= 0.8
