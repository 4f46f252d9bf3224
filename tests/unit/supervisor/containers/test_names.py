"""Names for containers that were given none."""

from __future__ import annotations

from wherry.supervisor.containers.names import generate_name


def test_made_up_names_are_free_ones() -> None:
    taken: set[str] = set()
    for _ in range(5000):  # more than there are plain ones
        name = generate_name(taken)
        assert name not in taken
        taken.add(name)
