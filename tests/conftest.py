"""What tests may need, and the strict switch that forbids to do without it.

A test names its needs by markers and is skipped where they are not met. With WHERRY_STRICT=1 (set in CI, where the
set-up installs everything) such a skip is a failure, so that no test disappears unseen.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator

import pytest
from tests import surroundings
from tests.attacks import report as attacks
from tests.vm import kernels

surroundings.make_ordinary()

STRICT = os.environ.get("WHERRY_STRICT", "") not in {"", "0"}


def _has_browser() -> bool:
    return all(map(shutil.which, ("chromium", "chromedriver")))


NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "root": (lambda: os.geteuid() == 0, "needs root"),
    "vm": (kernels.can_be_booted, "needs qemu-system-x86_64, sparse and scripts/fetch-kernels.sh"),
    "browser": (_has_browser, "needs chromium and chromedriver on PATH"),
    "docker": (lambda: shutil.which("docker") is not None, "needs a docker client on PATH"),
}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, (is_met, reason) in NEEDS.items():
        if item.get_closest_marker(marker) and not is_met():
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    is_expected_failure = hasattr(report, "wasxfail")
    if not is_expected_failure and item.get_closest_marker("host_variant") is None:
        _fail_if_skipped(report)
    attacks.note(item, report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := attacks.lines():
        terminalreporter.section("attacks")
        terminalreporter.write_line("\n".join(lines))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if STRICT and report.outcome == "skipped":
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"WHERRY_STRICT forbids to skip: {why}"
