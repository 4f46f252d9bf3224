"""What the scheduler promises, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from wherry.experiments import theory
from wherry.experiments.lab import Sample
from wherry.weights import weight_of_nice


def test_shares_of_the_example_in_the_issue() -> None:
    found = theory.shares({str(nice): weight_of_nice(nice) for nice in (0, 5, 10, 15)})
    assert found == pytest.approx({"0": 68.04, "5": 22.26, "10": 7.31, "15": 2.39}, abs=0.01)


def test_nobody_gets_more_than_one_cpu() -> None:
    assert theory.rates({"a": 1024, "b": 36}, 2) == {"a": 1.0, "b": 1.0}
    assert theory.rates({"a": 1024, "b": 36, "c": 36}, 2) == pytest.approx({"a": 1.0, "b": 0.5, "c": 0.5})
    assert theory.rates({"a": 3, "b": 1}, 1) == {"a": 0.75, "b": 0.25}


def test_completion_times_hide_the_weights() -> None:
    """The published "about 2x": 1024 to 36 on one CPU, and who is done leaves the CPU to the other."""
    found = theory.completion_times({"0": 1024, "15": 36}, 10.0, 1)
    assert found == pytest.approx({"0": 10 * (1 + 36 / 1024), "15": 20.0})
    assert theory.completion_times({"0": 1024, "15": 36}, 10.0, 2) == pytest.approx({"0": 10.0, "15": 10.0})
    assert theory.completion_times({"a": 1, "b": 1, "c": 1}, 1.0, 1) == pytest.approx({"a": 3.0, "b": 3.0, "c": 3.0})


@pytest.mark.parametrize(
    ("values", "index"), [([1, 1, 1, 1], 1.0), ([1, 0, 0, 0], 0.25), ([2, 1], 0.9), ([0.3], 1.0), ([1e-9, 1e-9], 1.0)]
)
def test_jains_index(values: list[float], index: float) -> None:
    assert theory.jain(values) == pytest.approx(index)


def test_jains_index_of_nothing_is_no_number() -> None:
    assert math.isnan(theory.jain([]))
    assert math.isnan(theory.jain([0, 0]))


def test_an_interval_is_least_and_greatest_around_the_median() -> None:
    assert theory.spread([3.0, 1.0, 2.0, 10.0]) == (2.5, 1.0, 10.0)
    assert theory.spread([1.5]) == (1.5, 1.5, 1.5)
    with pytest.raises(ValueError, match="no values"):
        theory.spread([])


def test_what_was_used_between_two_samples() -> None:
    earlier = Sample(10.0, {"a": 1_000_000_000, "b": 0})
    used = Sample(12.0, {"a": 2_500_000_000, "b": 500_000_000}).since(earlier)
    assert used == {"a": 0.75, "b": 0.25}
    assert theory.shares(used) == {"a": 75.0, "b": 25.0}
    assert theory.shares({"a": 0.0}) == {"a": 0.0}
