"""The guests that the selected tests need: at work from the beginning, beside the tests of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.vm import kernels
from tests.vm.jobs import Guests

# Those in inside/ run in the guests, those of debug/ for `make test-kmod-debug` only.
collect_ignore = ["inside", "debug"]
_GUESTS = pytest.StashKey[Guests]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests name their job by a parameter ``job``, what they want built by ``kernel``."""
    items = [item for item in session.items if "guests" in getattr(item, "fixturenames", ())]
    if not kernels.can_be_booted():
        items = [item for item in items if item.get_closest_marker("vm") is None]  # they are skipped
    if items and not session.config.option.collectonly:
        parameters: list[dict[str, Any]] = [item.callspec.params for item in items if isinstance(item, pytest.Function)]
        jobs, builds = (
            list(dict.fromkeys(each[name] for each in parameters if name in each)) for name in ("job", "kernel")
        )
        session.config.stash[_GUESTS] = guests = Guests(jobs, builds)
        session.config.add_cleanup(guests.close)


@pytest.fixture(scope="session")
def guests(request: pytest.FixtureRequest) -> Iterator[Guests]:
    """Those that run already; their tests come last."""
    running = request.config.stash[_GUESTS]
    yield running
    running.close()
