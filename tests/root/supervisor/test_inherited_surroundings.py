"""A supervisor that is started with what a script, nohup or a careless parent leaves it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.root.harness import Supervisor, Traces

pytestmark = pytest.mark.root

IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD)


@contextmanager
def odd_surroundings() -> Iterator[None]:
    """What this process starts meanwhile ignores signals, also those of its children's ends, and has a closed umask."""
    mask = os.umask(0o077)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in IGNORED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.umask(mask)


def test_containers_do_not_notice(tmp_path: Path, rootfs: Path, leftovers: Traces) -> None:
    """Case 32: with SIGCHLD ignored nobody was told how a container ended."""
    supervisor = Supervisor(tmp_path, rootfs, leftovers)
    with ExitStack() as stack:
        with odd_surroundings():
            stack.enter_context(supervisor.serving())
        script = "umask; stat -c %a /; (exit 3); echo $?; grep SigIgn /proc/self/status; exit 7"
        result = supervisor.client.run("c", str(rootfs), ["/bin/sh", "-c", script])
        assert (result.exit_code, result.reason) == (7, "exited")
        assert result.stdout.decode().split() == ["0022", "755", "3", "SigIgn:", "0000000000000000"]
