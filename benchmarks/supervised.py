"""A supervisor of the benchmark's own: state and socket in a temporary directory, stopped at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from wherry import Client, Unavailable

ENGINE = Path(sys.executable).with_name("engine")


@contextlib.contextmanager
def supervisor(rootfs: Path, *options: str) -> Iterator[Client]:
    """Yields a client; raises RuntimeError with the supervisor's log when it does not come up within 60 seconds."""
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as directory:
        socket = f"{directory}/engine.sock"
        log = Path(directory, "supervisor.log")
        command = [
            str(ENGINE),
            "supervisor",
            str(rootfs),
            "--socket",
            socket,
            "--state-dir",
            f"{directory}/state",
            *options,
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stderr=output, env={**os.environ, "ENGINE_SOCKET": socket})
        try:
            yield wait_for(Client(socket), process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def wait_for(client: Client, process: subprocess.Popen[bytes], log: Path) -> Client:
    """The client, once its supervisor answers. Raises RuntimeError with the log."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(Unavailable):
            client.ping()
            return client
        time.sleep(0.02)
    raise RuntimeError(f"the supervisor does not answer:\n{log.read_text()}")
