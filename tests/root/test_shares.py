"""Shares of one CPU by nice value: what the scheduler really gives. Also run in guests, on control groups version 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Supervisor

from wherry.experiments import runner, theory
from wherry.experiments.hogs import first_at, share_spreads
from wherry.experiments.model import Settings
from wherry.experiments.nice import Nice
from wherry.weights import weight_of_nice

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NICES = (0, 5, 10, 15)
POINTS = 3.0
"""Of percent of the CPU, which the published claim allows for."""


def test_nice_values_of_containers_are_worth_their_weights(supervisor: Supervisor, rootfs: Path) -> None:
    """On one CPU, whatever else runs there; and a new nice value is felt within a second."""
    settings = Settings(rootfs=str(rootfs), nices=NICES, seconds=4, repeat=2)
    experiment = Nice()
    runner.check([experiment], settings)
    result = runner.run(supervisor.client, experiment, settings)
    assert result.error == ""
    nices: dict[str, int] = result.data["nices"]
    predicted = theory.shares({name: weight_of_nice(nice) for name, nice in nices.items()})
    for name, (median, _, _) in share_spreads(result.data["windows"]).items():
        assert median == pytest.approx(predicted[name], abs=POINTS), result.data["windows"]
    change = result.data["update"]
    nices[change["who"]] = change["nice"]
    target = theory.shares({name: weight_of_nice(nice) for name, nice in nices.items()})[change["who"]]
    took = first_at(result.data["timeline"], change["who"], target, 2 * POINTS, change["at"])
    assert took is not None
    assert took <= 1
    assert supervisor.ps() == []
