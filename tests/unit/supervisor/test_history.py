"""Case 27: a history in which one owner's items push out its own and not the others'."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wherry.supervisor.history import History


def test_one_that_storms_pushes_out_its_own() -> None:
    """Case 27."""
    history: History[str] = History(capacity=100, share=10)
    history.add("quiet", "quiet 0")
    for number in range(100_000):
        history.add("storm", f"storm {number}")
    history.add("quiet", "quiet 1")
    items = history.items()
    assert len(items) == 100
    assert items[0] == "quiet 0"
    assert items[-2:] == ["storm 99999", "quiet 1"]


def test_without_a_storm_the_oldest_goes() -> None:
    history: History[int] = History(capacity=4, share=2)
    for number in range(6):
        history.add(f"owner{number % 3}", number)
    assert history.items() == [2, 3, 4, 5]
    assert history.after(0) == (2, 2)
    assert history.after(5) == (5, 5)
    assert history.after(6) is None


class Model:
    """The same, written down without any thought of what it costs."""

    def __init__(self, capacity: int, share: int) -> None:
        self.capacity, self.share = capacity, share
        self.kept: list[tuple[int, str]] = []

    def add(self, owner: str, number: int) -> None:
        if len(self.kept) == self.capacity:
            owners = [each for _, each in self.kept]
            most = max(map(owners.count, owners))
            if most <= self.share:
                del self.kept[0]
            else:
                self.kept_of_one_with(most)
        self.kept.append((number, owner))

    def kept_of_one_with(self, most: int) -> None:
        """Any owner that has the most may be chosen: which, the test takes from the history."""
        owners = [each for _, each in self.kept]
        self.candidates = {
            next(number for number, each in self.kept if each == owner)
            for owner in owners
            if owners.count(owner) == most
        }


@given(st.lists(st.sampled_from("aaaabcdef"), max_size=200), st.integers(1, 12), st.integers(1, 6))
def test_against_a_model(owners: list[str], capacity: int, share: int) -> None:
    history: History[int] = History(capacity, share)
    model = Model(capacity, share)
    for number, owner in enumerate(owners):
        model.candidates = set()
        model.add(owner, number)
        history.add(owner, number)
        if model.candidates:
            (gone,) = {each for each, _ in model.kept} - set(history.items())
            assert gone in model.candidates
            model.kept = [each for each in model.kept if each[0] != gone]
        assert history.items() == [each for each, _ in model.kept]
        assert history.next == number + 1
