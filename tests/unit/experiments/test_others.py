"""What cpu-vs-io, memory and start conclude from fixed data."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.experiments.cpu_vs_io import CpuVsIo
from wherry.experiments.memory import Memory
from wherry.experiments.start import Start

MIB = 1 << 20


def run_of(what: str, woke: list[float], cpu: float | None, seconds: float = 2.0) -> dict[str, Any]:
    return {"what": what, "seconds": seconds, "cpu": cpu, "woke": woke, "wrote": [0.5] * len(woke)}


LATE = [float(number) for number in range(1, 101)]
CPU_VS_IO: dict[str, Any] = {
    "alone": 2.0,
    "runs": [
        run_of("io_pulse alone", [each / 1000 for each in LATE], None),
        run_of("cpu_hog alone", [], 2.0),
        run_of("together", LATE, 3.0),
        run_of("together, cpu_hog at nice 15", [each / 10 for each in LATE], 4.0),
    ],
}


def test_wake_ups_and_completion_times() -> None:
    concluded = CpuVsIo().conclude(CPU_VS_IO)
    (table,) = concluded.tables
    assert table.rows[0] == ("io_pulse alone", None, 50.0, 0.051, 0.096, 0.1, 0.1, 0.5)
    assert table.rows[1] == ("cpu_hog alone", 2.0, None, None, None, None, None, None)
    assert table.rows[2] == ("together", 3.0, 50.0, 51.0, 96.0, 100.0, 100.0, 0.5)
    assert "Together, io_pulse woke up 51.000 ms late in the median and 100.000 ms" in concluded.findings[0]
    assert concluded.findings[-1] == "cpu_hog took 1.50 times as long beside io_pulse as alone."
    distribution, times = concluded.plots
    assert [series.label for series in distribution.series] == [
        "io_pulse alone",
        "together",
        "together, cpu_hog at nice 15",
    ]
    assert distribution.series[0].y[-1] == 100
    assert distribution.log_x
    assert times.series[1].y == [2.0, 3.0, 4.0]


DISTURBED: dict[str, tuple[str, dict[str, Any], str]] = {
    "others": ("cpu_hog alone", {"others": 0.05}, "Other processes used up to 5 % of the CPU"),
    "others beside the disk": ("together", {"others": 0.5}, "Other processes used up to 50 % of the CPU"),
    "a slow CPU": ("together", {"used": 2.8}, "The work took 2.80 s of CPU time, where 2.00 s were measured out"),
    "a fast CPU": ("cpu_hog alone", {"used": 1.4}, "The work took 1.40 s of CPU time, where 2.00 s were"),
}


@pytest.mark.parametrize(("what", "fields", "why"), DISTURBED.values(), ids=DISTURBED)
def test_a_disturbed_run_is_inconclusive(what: str, fields: dict[str, Any], why: str) -> None:
    """Case 9."""
    runs = [{**run, **(fields if run["what"] == what else {})} for run in CPU_VS_IO["runs"]]
    findings = CpuVsIo().conclude({**CPU_VS_IO, "runs": runs}).findings
    assert findings[0].startswith(f"{what[0].upper()}{what[1:]}: inconclusive. {why}")
    assert not any("times as long beside io_pulse" in each for each in findings)


def test_the_disk_s_own_threads_are_no_disturbance() -> None:
    runs = [{**run, "others": 0.1 if run["woke"] else 0.0} for run in CPU_VS_IO["runs"]]
    assert not any("nconclusive" in each for each in CpuVsIo().conclude({**CPU_VS_IO, "runs": runs}).findings)


def test_work_that_is_done_sooner_beside_another_is_inconclusive() -> None:
    """Case 9: "cpu_hog took 0.71 times as long beside io_pulse as alone"."""
    runs = [run_of("cpu_hog alone", [], 2.8), run_of("together", LATE, 2.0)]
    (finding,) = CpuVsIo().conclude({"alone": 2.0, "runs": runs}).findings
    assert finding.startswith("Completion times: inconclusive. The work was done in 0.71 of the time beside io_pulse")


def test_a_sleep_that_was_on_time_has_a_place_on_a_logarithm() -> None:
    concluded = CpuVsIo().conclude({"alone": 1.0, "runs": [run_of("io_pulse alone", [0.0, 1.0], None)]})
    assert concluded.plots[0].series[0].x == [0.001, 1.0]
    assert concluded.findings == []


def memory_run(enforcer: str, over: int, delay: float | None, **fields: Any) -> dict[str, Any]:
    death = {"Rss": 64 * MIB + over, "MillisecondsToDeath": delay}
    soft = {"at": 1.0, "bytes": 32 * MIB}
    samples = [(0.5, 16 * MIB), (1.0, 32 * MIB)]
    run = {"enforcer": enforcer, "samples": samples, "soft": soft, "death": death, "died": 2.0, "reason": "hard_limit"}
    return {**run, **fields}


def test_enforcers_side_by_side() -> None:
    data = {
        "soft": 32 * MIB,
        "hard": 64 * MIB,
        "refused": {"kmod": "no module"},
        "runs": [memory_run("bpf", 0, 5.0), memory_run("bpf", 4096, 9.0), memory_run("cgroup", -4096, None, soft=None)],
    }
    concluded = Memory().conclude(data)
    (table,) = concluded.tables
    assert table.rows == [
        ("bpf", 2, 32.0, 2.0, 4.0, 7.0, 9.0, "hard limit"),
        ("cgroup", 1, None, -4.0, -4.0, None, None, "hard limit"),
    ]
    assert concluded.findings == [
        (
            "bpf: at the kill the container held at most 4 KiB more than its hard limit and it was gone within 9.0 ms "
            "of crossing it; booked as hard limit, 2 of 2 times."
        ),
        "bpf: the soft event came before the end in 2 of 2 runs.",
        (
            "cgroup: at the kill the container held at most 0 KiB more than its hard limit; booked as hard limit, "
            "1 of 1 times."
        ),
    ]
    assert "kmod was not measured: no module" in concluded.noise
    (plot,) = concluded.plots
    labels = [mark.label for mark in plot.marks]
    assert labels == ["soft limit", "hard limit", "bpf: soft event", "bpf: end", "cgroup: end"]


def test_a_limit_that_was_reached_beside_others_is_inconclusive() -> None:
    """Case 9."""
    runs = [memory_run("bpf", 0, 5.0, others=0.02), memory_run("cgroup", 0, 5.0, others=0.6)]
    findings = Memory().conclude({"soft": 32 * MIB, "hard": 64 * MIB, "refused": {}, "runs": runs}).findings
    assert findings[0].startswith("bpf: at the kill the container held")
    assert findings[-1] == "cgroup: inconclusive. Other processes used up to 60 % of the machine's CPU time."
    assert len(findings) == 3


def test_a_container_that_was_not_killed_is_not_in_the_table() -> None:
    data = {"soft": 1, "hard": 2, "refused": {}, "runs": [memory_run("bpf", 0, 1.0, death=None)]}
    concluded = Memory().conclude(data)
    assert (concluded.tables, concluded.findings) == ([], [])
    assert concluded.noise == ["No container came to its end: nothing was measured."]


START: dict[str, Any] = {
    "floor": [0.4, 0.5, 0.6],
    "runs": {
        "0": {"started": [3.0, 4.0, 5.0, 6.0], "ended": [9.0, 10.0, 10.0, 11.0]},
        "100": {"started": [4.0, 5.0, 6.0, 7.0], "ended": [12.0, 15.0, 15.0, 16.0]},
        "200": {"started": [], "ended": []},
    },
}


def test_starts_against_the_floor() -> None:
    concluded = Start().conclude(START)
    assert concluded.tables[0].rows == [
        (0, 4.5, 10.0, 10.0, 11.0, 20.0),
        (100, 5.5, 15.0, 15.0, 16.0, 30.0),
    ]
    assert concluded.findings == [
        "With 100 containers alive a short one took 1.50 times as long as with 0 (15.0 and 10.0 ms in the median).",
        "The host's `true` without a container takes 0.50 ms; with 0 alive, one in a container takes 20.0 times that.",
    ]
    assert [series.role for series in concluded.plots[0].series] == ["measured", "measured", "predicted"]


def test_starts_beside_others_are_inconclusive() -> None:
    """Case 9."""
    runs = {count: {**each, "others": 0.4 if count == "100" else 0.0} for count, each in START["runs"].items()}
    assert Start().conclude({**START, "runs": runs}).findings == [
        "Inconclusive. Other processes used up to 40 % of the machine's CPU time."
    ]


def test_without_a_floor_nothing_is_said_of_it() -> None:
    concluded = Start().conclude({**START, "floor": []})
    assert concluded.tables[0].rows[0][-1] is None
    assert len(concluded.findings) == 1
    assert len(concluded.plots[0].series) == 2


@pytest.mark.parametrize(
    ("experiment", "data"),
    [
        (CpuVsIo(), {"alone": 1.0, "runs": []}),
        (Memory(), {"runs": [], "refused": {}, "soft": 1, "hard": 2}),
        (Start(), {"floor": [], "runs": {"0": {"started": [], "ended": []}}}),
    ],
)
def test_an_early_interruption_concludes_nothing(experiment: Any, data: dict[str, Any]) -> None:
    concluded = experiment.conclude(data)
    assert (concluded.tables, concluded.plots, concluded.findings) == ([], [], [])
    assert concluded.noise
