"""One guest for each kernel, booted when the first test wants it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from tests.vm import kernels
from tests.vm.guest import Guest

collect_ignore = ["inside"]  # those run in the guests


@pytest.fixture(scope="session")
def boot() -> Iterator[Callable[[str], Guest]]:
    """A function that returns the guest of a kernel of ``kernels.NAMES``."""
    guests: dict[str, Guest] = {}
    with contextlib.ExitStack() as stack:

        def guest_of(name: str) -> Guest:
            if name not in guests:
                module, _ = kernels.build_module(name)
                # Races need virtual CPUs that run at the same time; 6.12 does not always survive that (see Guest).
                guests[name] = stack.enter_context(Guest(name, module, parallel=name != "6.12-amd64"))
            return guests[name]

        yield guest_of
