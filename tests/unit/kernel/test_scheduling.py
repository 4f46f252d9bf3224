"""Lists of CPUs, and nice values from outside."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.kernel import scheduling


@given(st.frozensets(st.integers(0, 8191), min_size=1))
def test_lists_of_cpus_there_and_back(cpus: frozenset[int]) -> None:
    assert scheduling.parse_cpu_list(scheduling.format_cpu_list(cpus)) == cpus


def test_the_kernels_form_of_lists() -> None:
    assert scheduling.parse_cpu_list("0-2,7,5") == {0, 1, 2, 5, 7}
    assert scheduling.format_cpu_list({7, 0, 2, 1}) == "0-2,7"
    assert scheduling.format_cpu_list(()) == ""


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0,,1", "8192", "0-8192", "00000", "1 ", "\u0661"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        scheduling.parse_cpu_list(text)


def test_a_list_is_no_longer_than_the_kernel_takes() -> None:
    """Case 24: 140 KB of ranges took ten seconds."""
    most = scheduling._LIST_MAX
    wide = ",".join(["0-8191"] * (most // 7))
    assert scheduling.parse_cpu_list(wide) == frozenset(range(8192))
    with pytest.raises(ValueError, match=r"of at most 49252 characters$") as raised:
        scheduling.parse_cpu_list(",".join(["0-8191"] * 20_000))
    assert len(str(raised.value)) < 200


def test_every_thread_gets_the_value_and_gone_ones_are_passed_over() -> None:
    stop, ready, ids = threading.Event(), threading.Barrier(4), list[int]()

    def wait() -> None:
        ids.append(threading.get_native_id())
        ready.wait()
        stop.wait()

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    try:
        gone = 2**22 + 1  # above any pid
        scheduling.set_nice(lambda: [gone, *ids], 7)
        assert [os.getpriority(os.PRIO_PROCESS, each) for each in ids] == [7, 7, 7]
        assert os.getpriority(os.PRIO_PROCESS, 0) != 7
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_threads_that_appear_meanwhile_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {1: 0, 2: 0}
    monkeypatch.setattr(os, "getpriority", lambda _which, who: values[who])
    monkeypatch.setattr(os, "setpriority", lambda _which, who, value: values.update({who: value}))
    lists = iter([[1], [1, 2], [1, 2]])
    scheduling.set_nice(lambda: next(lists), 5)
    assert values == {1: 5, 2: 5}


def test_a_thread_that_keeps_changing_its_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    monkeypatch.setattr(os, "getpriority", lambda _which, _who: 19)
    monkeypatch.setattr(os, "setpriority", lambda _which, who, _value: passes.append(who))
    scheduling.set_nice(lambda: [1], 5)
    assert 2 <= len(passes) <= 20
