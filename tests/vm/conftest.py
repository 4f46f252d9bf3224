"""The guests that the selected tests need, at work from the first of these tests on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.vm.jobs import Guests

# Those in inside/ run in the guests, those of debug/ for `make test-kmod-debug` only.
collect_ignore = ["inside", "debug"]


@pytest.fixture(scope="session")
def guests(request: pytest.FixtureRequest) -> Iterator[Guests]:
    """Tests name their job by a parameter ``job``."""
    parameters = (getattr(item, "callspec", None) for item in request.session.items)
    jobs = [each.params["job"] for each in parameters if each is not None and "job" in each.params]
    guests = Guests(jobs)
    try:
        yield guests
    finally:
        guests.close()
