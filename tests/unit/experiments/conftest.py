"""The report of the samples, drawn once: that takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import reportsamples

from wherry.experiments import report


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    made = tmp_path_factory.mktemp("report")
    assert report.write([reportsamples.result()], str(made)) == str(made / "report.html")
    return made
