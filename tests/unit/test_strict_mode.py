"""WHERRY_STRICT=1 turns a skip into a failure, whichever way the test was skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
MARKERS = """
[pytest]
markers =
    root: r
    docker: d
    browser: b
    host_variant: h
"""


SKIPS = {
    "in_the_test": "def test(): pytest.skip('no such tool')",
    "by_a_marker": "@pytest.mark.skipif(True, reason='no such tool')\ndef test(): pass",
    "whole_module": "pytest.skip('no such tool', allow_module_level=True)",
    "by_an_import": "pytest.importorskip('no_such_tool')",
    "in_a_fixture": "@pytest.fixture\ndef tool(): pytest.skip('no such tool')\ndef test(tool): pass",
}


def run_pytest(folder: Path, sources: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest with the project's conftest on a ``test_NAME.py`` for each of ``sources``."""
    (folder / "conftest.py").write_bytes(CONFTEST.read_bytes())
    (folder / "pytest.ini").write_text(MARKERS)
    for name, source in sources.items():
        (folder / f"test_{name}.py").write_text(f"import pytest\n{source}\n")
    command = [sys.executable, "-m", "pytest", "--rootdir", str(folder), "--tb=short", "-rA", str(folder)]
    command += ["--continue-on-collection-errors", "-p", "no:hypothesispytest"]  # whose import takes a second
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_a_skip_is_no_failure_by_default(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, SKIPS, WHERRY_STRICT="0")
    assert f"{len(SKIPS)} skipped" in result.stdout.splitlines()[-1]


def test_every_skip_fails_in_strict_mode(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, SKIPS, WHERRY_STRICT="1")
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    lines = result.stdout.splitlines()
    assert "skipped" not in lines[-1]
    assert "passed" not in lines[-1]
    for name in SKIPS:
        assert any(line.startswith(("FAILED", "ERROR")) and f"test_{name}.py" in line for line in lines), name
    assert sum(line.startswith("WHERRY_STRICT forbids to skip: ") for line in lines) == len(SKIPS)


def test_expected_failures_and_host_variants_stay_what_they_are(tmp_path: Path) -> None:
    sources = {
        "expected": "@pytest.mark.xfail\ndef test(): raise ValueError",
        "variant": "@pytest.mark.host_variant\ndef test(): pytest.skip('cgroup v1 only')",
    }
    result = run_pytest(tmp_path, sources, WHERRY_STRICT="1")
    assert result.returncode == 0
    assert "1 skipped, 1 xfailed" in result.stdout.splitlines()[-1]


def test_the_needs_skip_what_they_are_not_met_for(tmp_path: Path) -> None:
    sources = {
        "root": "import os\nos.geteuid = lambda: 1000\n@pytest.mark.root\ndef test(): raise AssertionError",
        "docker": "@pytest.mark.docker\ndef test(): raise AssertionError",
        "browser": "@pytest.mark.browser\ndef test(): raise AssertionError",
    }
    result = run_pytest(tmp_path, sources, WHERRY_STRICT="0", PATH=str(tmp_path))
    assert "needs root" in result.stdout
    assert "needs a docker client on PATH" in result.stdout
    assert "needs chromium and chromedriver on PATH" in result.stdout
    assert "3 skipped" in result.stdout.splitlines()[-1]
