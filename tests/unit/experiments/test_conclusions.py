"""What experiments conclude from fixed data, whole or in part: no sentence that the numbers do not bear."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from wherry.experiments import cpu_windows, disturbance, hostload
from wherry.experiments.catalogue import EXPERIMENTS
from wherry.experiments.machine import online_cpus
from wherry.experiments.model import BadSettingsError, Conclusion, Settings
from wherry.experiments.theory import shares
from wherry.weights import weight_of_nice

BY_WEIGHT = {name: each / 100 for name, each in shares({"a": weight_of_nice(0), "b": weight_of_nice(15)}).items()}


def steps(first: int, last: int, a: float) -> list[dict[str, Any]]:
    """Time line entries of half a second from ``first`` to ``last`` halves, a having the part ``a`` of the CPU."""
    return [{"from": n / 2, "at": (n + 1) / 2, "cpus": {"a": a, "b": 1 - a}} for n in range(first, last)]


def nice(**changes: Any) -> dict[str, Any]:
    data = {
        "nices": {"a": 0, "b": 15},
        "seconds": 2.0,
        "windows": [BY_WEIGHT, BY_WEIGHT],
        "timeline": steps(0, 8, BY_WEIGHT["a"]),
        "work": {"a": 966.0, "b": 34.0},
    }
    return data | changes


def quota(throttled: int) -> dict[str, Any]:
    counters = {"periods": 40, "throttled_periods": throttled, "throttled_ns": throttled * 50_000_000}
    return {"seconds": 2.0, "runs": {"0.5": {"windows": [{"hog": 0.5}, {"hog": 0.52}], **counters}}}


def fairness(*windows: dict[str, float]) -> dict[str, Any]:
    return {"seconds": 2.0, "runs": {"2": {"windows": list(windows)}}}


def multicore(slow: float) -> dict[str, Any]:
    nices = {"nice0": 0, "nice15": 15}
    run = {"where": "one CPU", "cpus": 1, "nices": nices, "seconds": {"nice0": 3.1, "nice15": slow}}
    return {"cpus": 2, "nices": [0, 15], "alone": 3.0, "rounds": 100, "runs": [run]}


def autogroup(b: float) -> dict[str, Any]:
    windows = [{"nice0": 1 - b, "nice15": b}]
    equal = {"weights": {"nice0": 1.0, "nice15": 1.0}, "windows": windows}
    return {"seconds": 2.0, "autogroup": True, "own group": "/", "arrangements": {"no container, two sessions": equal}}


def concluded(name: str, data: dict[str, Any]) -> Conclusion:
    """From the data as a report has them: through JSON."""
    return EXPERIMENTS[name].conclude(json.loads(json.dumps(data)))


def test_shares_by_weight_are_explained() -> None:
    found = concluded("nice", nice())
    assert found.findings[0].startswith(
        "The weights explain the shares: the greatest difference from the prediction is 0.0"
    )
    assert found.findings[1] == "Nice 0 got 28.4 times the CPU of nice 15; the weights say 28.4."
    assert len(found.findings) == 2


def test_shares_that_differ_are_not_explained() -> None:
    found = concluded("nice", nice(windows=[{"a": 0.6, "b": 0.4}]))
    assert found.findings[0].startswith("The weights do not explain all of it")
    row = found.tables[0].rows[1]
    assert row[found.tables[0].columns.index("ERROR POINTS")] == pytest.approx(40 - 3.396, abs=0.01)


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        (0.5, "its share was within 6 points of 50.0 %, as predicted, after 0.25 s."),
        (BY_WEIGHT["a"], "its share did not come to stay within 6 points of 50.0 %."),
    ],
)
def test_a_change_is_said_to_have_worked_only_when_it_has(after: float, sentence: str) -> None:
    change = {"who": "b", "nice": 0, "was": 15, "at": 4.0}
    found = concluded("nice", nice(update=change, timeline=steps(0, 8, BY_WEIGHT["a"]) + steps(8, 14, after)))
    assert found.findings[-1] == f"After `update --nice 0` on b (was 15) {sentence}"
    assert [mark.x for plot in found.plots for mark in plot.marks] == [4.0]


def test_one_that_got_nothing_is_no_division_by_zero() -> None:
    found = concluded("nice", nice(windows=[{"a": 0.0, "b": 0.0}], work={"a": None, "b": None}))
    (finding,) = found.findings
    assert "nconclusive" in finding
    assert "100 % of the CPU time went to other processes" in finding


def test_the_quota_says_how_often_it_stopped_the_container() -> None:
    found = concluded("quota", quota(20))
    assert "--cpus 0.5: stopped in 20 of 40 periods, 50 ms at a time on average" in found.findings[1]
    assert "never stopped in 4 s" in concluded("quota", quota(0)).findings[1]


def test_fairness_of_equal_and_unequal_shares() -> None:
    assert concluded("fairness", fairness({"a": 0.5, "b": 0.5})).findings[0].endswith("with an index of 1.0000.")
    assert concluded("fairness", fairness({"a": 1.0, "b": 0.0})).findings[0].endswith("with an index of 0.5000.")


def test_a_window_in_which_nobody_got_anything_has_no_fairness() -> None:
    (finding,) = concluded("fairness", fairness({"a": 0.0, "b": 0.0})).findings
    assert finding.startswith("2 containers: inconclusive. ")


def test_completion_times_and_the_weights_they_hide() -> None:
    found = concluded("nice-multicore", multicore(6.2))
    assert (
        "took 2.00 times as long as nice 0 (predicted: 1.93), where the weights differ by a factor of 28.4"
        in found.findings[0]
    )
    assert "cannot end in a greater ratio than 2" in found.findings[1]


def test_autogroup_agrees_only_within_three_points() -> None:
    assert concluded("autogroup", autogroup(0.49)).findings[0].endswith("nice 15 got 49.0 % of the CPU, as predicted.")
    assert concluded("autogroup", autogroup(0.2)).findings[0].endswith("where 50.0 % were predicted.")


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("data", [{"began": 1.0}, {"seconds": 1.0, "nices": {"a": 0}, "windows": [], "timeline": []}])
def test_an_early_interruption_concludes_nothing(name: str, data: dict[str, Any]) -> None:
    found = concluded(name, data)
    assert (found.tables, found.plots, found.findings) == ([], [], [])
    assert found.noise


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("nice", nice()),
        ("quota", quota(3)),
        ("fairness", fairness({"a": 0.5, "b": 0.5})),
        ("nice-multicore", multicore(6.0)),
        ("autogroup", autogroup(0.5)),
    ],
)
def test_tables_and_plots_are_whole(name: str, data: dict[str, Any]) -> None:
    found = concluded(name, data)
    for table in found.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert table.bar in table.columns
    for plot in found.plots:
        assert plot.name.startswith(name.removeprefix("nice-") if name != "nice-multicore" else name)
        assert all((plot.title, plot.x_label, plot.y_label, plot.alt))
        assert all(len(series.x) == len(series.y) for series in plot.series)


@pytest.mark.parametrize(("count", "text"), [(1, "no repeat, so no interval"), (3, "3 windows of 2 s")])
def test_repeats_are_stated(count: int, text: str) -> None:
    assert text in cpu_windows.repeats([None] * count, 2.0)


def test_two_values_that_are_the_same_are_nothing_to_compare() -> None:
    with pytest.raises(BadSettingsError, match="--nices 5,5: this experiment compares two different values"):
        EXPERIMENTS["nice-multicore"].check(Settings(rootfs="/", nices=(5, 5)))


@pytest.mark.parametrize("name", ["nice", "nice-multicore"])
def test_too_few_nice_values_are_refused(name: str) -> None:
    with pytest.raises(BadSettingsError, match="--nices"):
        EXPERIMENTS[name].check(Settings(rootfs="/", nices=(0,)))


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "start"])  # which has no windows
def test_a_longer_window_takes_longer(name: str) -> None:
    short, long = (EXPERIMENTS[name].duration(Settings(rootfs="/", seconds=each)) for each in (1, 10))
    assert 0 < short < long


STAT = """cpu  900 0 300 5000 60 10 20 30 400 0
cpu0 100 20 300 4000 50 1 2 7 90 0
cpu1 800 0 0 1000 10 9 18 23 310 0
intr 1
"""


def test_a_cpu_is_busy_when_it_is_not_idle() -> None:
    assert hostload.busy_seconds(0, STAT) == pytest.approx((100 + 20 + 300 + 1 + 2 + 7) / os.sysconf("SC_CLK_TCK"))
    assert hostload.busy_seconds(2, STAT) is None
    assert hostload.busy_seconds(min(online_cpus())) is not None


WITH_WINDOWS: dict[str, Callable[[], dict[str, Any]]] = {
    "nice": nice,
    "fairness": lambda: fairness({"a": 0.5, "b": 0.5}),
    "quota": lambda: quota(1),
    "autogroup": lambda: autogroup(0.5),
}
"""Of each experiment with windows, data that it concludes from."""


def parts(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Where the windows are."""
    return list((data.get("runs") or data.get("arrangements") or {"": data}).values())


@pytest.mark.parametrize("name", WITH_WINDOWS)
@pytest.mark.parametrize("others", [[0.01, None], [0.029], []])
def test_an_undisturbed_window_is_conclusive(name: str, others: list[float | None]) -> None:
    data = WITH_WINDOWS[name]()
    for part in parts(data):
        part["others"] = others
    found = concluded(name, data)
    assert found.findings
    assert not any("nconclusive" in sentence for sentence in (*found.findings, *found.noise))


@pytest.mark.parametrize("name", WITH_WINDOWS)
def test_a_window_in_which_others_ran_is_inconclusive(name: str) -> None:
    """Case 9."""
    data = WITH_WINDOWS[name]()
    for part in parts(data):
        part["others"] = [0.0, 0.25]
    finding, *more = concluded(name, data).findings
    assert "nconclusive. Other processes used up to 25 % of the CPU that the containers ran on." in finding
    assert not any("as predicted" in each or "explain" in each or "Jain" in each for each in more)


@pytest.mark.parametrize("name", WITH_WINDOWS)
def test_more_cpu_time_than_there_is_is_inconclusive(name: str) -> None:
    """Case 9."""
    data = WITH_WINDOWS[name]()
    for part in parts(data):
        part["windows"] = [dict.fromkeys(window, 1.1) for window in part["windows"]]
    assert "nconclusive. The containers had " in concluded(name, data).findings[0]


def test_only_the_disturbed_part_is_inconclusive() -> None:
    """Case 9."""
    data = quota(20)
    data["runs"] |= {"0.75": {**data["runs"]["0.5"], "windows": [{"hog": 0.75}], "others": [0.5]}}
    findings = concluded("quota", data).findings
    assert findings[0] == "The greatest difference from what was asked is +0.010 CPUs, under --cpus 0.5."
    assert [each for each in findings if "0.75" in each] == [
        "--cpus 0.75: inconclusive. Other processes used up to 50 % of the CPU that the containers ran on."
    ]


def test_more_than_the_quota_lets_through_is_inconclusive() -> None:
    """Case 9: a window of two seconds has parts of a period of 0.1 s at both ends, which is 10 % of 0.5 and no more."""
    data = quota(20)
    data["runs"]["0.5"]["windows"] = [{"hog": 0.56}]
    assert not any("inconclusive" in each for each in concluded("quota", data).findings)
    data["runs"]["0.5"]["windows"] = [{"hog": 0.62}]
    assert "--cpus 0.5: inconclusive. The container had 0.620 CPUs" in concluded("quota", data).findings[0]


def test_a_change_beside_others_is_inconclusive() -> None:
    """Case 9."""
    change = {"who": "b", "nice": 0, "was": 15, "at": 4.0, "others": 0.5}
    found = concluded("nice", nice(update=change, timeline=steps(0, 14, 0.5)))
    assert found.findings[0].startswith("The weights explain the shares")
    assert "on b (was 15): inconclusive. Other processes used up to 50 %" in found.findings[-1]


SPEEDS: dict[str, tuple[dict[str, Any], str]] = {
    "others": ({"others": 0.2}, "Other processes used up to 20 % of the CPU that the containers ran on."),
    "others on all": ({"others": 0.2, "cpus": 2}, "Other processes used up to 20 % of the machine's CPU time."),
    "unequal": ({"cpu": {"nice0": 3.0, "nice15": 5.1}}, "Equal work took 3.00 to 5.10 s of CPU time"),
    "slower": ({"cpu": {"nice0": 4.0, "nice15": 4.0}}, "The work took 4.00 s of CPU time, where 3.00 s were"),
    "too soon": ({"seconds": {"nice0": 2.1, "nice15": 4.0}}, "One was done in 2.10 s with work that takes 3.00 s"),
    "the wrong one": ({"seconds": {"nice0": 6.0, "nice15": 3.1}}, "Nice 15 was done in 0.52 of the time of nice 0"),
    "too late": ({"seconds": {"nice0": 3.0, "nice15": 7.0}}, "Nice 15 took 2.33 times as long as nice 0 on one CPU"),
}


@pytest.mark.parametrize(("fields", "why"), SPEEDS.values(), ids=SPEEDS)
def test_completion_times_that_cannot_be_are_inconclusive(fields: dict[str, Any], why: str) -> None:
    """Case 9: "predicted 1.00, measured 1.71"."""
    data = multicore(6.0)
    sound, disturbed = data["runs"][0], {**data["runs"][0], "where": "elsewhere", **fields}
    data["runs"] = [sound, disturbed]
    findings = concluded("nice-multicore", data).findings
    assert findings[0].startswith("On one CPU nice 15 took 1.94 times as long as nice 0")
    assert [each for each in findings if "elsewhere" in each] == [findings[-1]]
    assert findings[-1].startswith(f"On elsewhere: inconclusive. {why}")


def test_what_was_measured_again_is_said() -> None:
    """Case 9."""
    assert concluded("nice", nice(again=["A.", "B."])).noise[-1] == (
        "Measured again 2 times after a disturbance. The last: B."
    )


class FakeLab:
    """As much of a Lab as measuring again needs."""

    def doing(self, _what: str) -> None:
        pass


@pytest.mark.parametrize(("bad", "taken", "again"), [(0, 1, 0), (2, 3, 2), (9, 4, 3)])
def test_what_was_disturbed_is_measured_again_a_bounded_number_of_times(bad: int, taken: int, again: int) -> None:
    """Case 9."""
    data: dict[str, Any] = {}
    numbers = count(1)
    repeats = disturbance.Repeats(FakeLab(), data, 3)  # type: ignore[arg-type]
    found = repeats.take(lambda: next(numbers), lambda number: "disturbed" if number <= bad else None)
    assert (found, len(data.get("again", []))) == (taken, again)


def test_others_are_seen_while_something_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 9: 3 of 4 seconds of two CPUs were busy, 2 of them with what is measured."""
    busy, now = {0: 10.0, 1: 20.0}, [100.0]
    monkeypatch.setattr(hostload, "busy_seconds", busy.get)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch, unknown = disturbance.Watch([0, 1]), disturbance.Watch([7])
    busy |= {0: 12.0, 1: 21.0}
    now[0] = 102.0
    assert watch.others(2.0) == pytest.approx(0.25)
    assert watch.others(5.0) == 0
    assert unknown.others(0) is None


def test_a_busy_machine_is_seen_before_a_run() -> None:
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=burn)
    thread.start()
    try:
        cpus = online_cpus()
        assert hostload.busy_share(cpus, 1.0) > 0.3 / len(cpus)
    finally:
        stop.set()
        thread.join()
    assert hostload.busy_share(cpus, 0.05) >= 0
