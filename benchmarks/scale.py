"""What a supervisor with many containers alive takes to list them, to say what they use, to be replaced and to stop.

    python benchmarks/scale.py [CONTAINERS]

Containers are /bin/sleep with a soft and a hard limit. The floor of ``stats`` is what reading the same files takes.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measure import machine
from supervised import ENGINE, wait_for
from wherry import Client
from wherry.kernel import cgroups
from wherry.supervisor.containers.usage import measure

ROOTFS = Path(__file__).parents[1] / "build/rootfs"
ROUNDS = 5


class Supervised:
    """A supervisor that can be killed and started again."""

    def __init__(self, directory: str) -> None:
        self.socket = f"{directory}/engine.sock"
        self._log = Path(directory, "supervisor.log")
        self._command = [str(ENGINE), "supervisor", str(ROOTFS), "--socket", self.socket]
        self._command += ["--state-dir", f"{directory}/state"]
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stderr=output)
        self.client = wait_for(Client(self.socket), self._process, self._log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.client.close()

    def replace(self) -> None:
        self.kill()
        self.start()

    def reload(self) -> None:
        """Until the new program has answered; that it is another one is seen by its log."""
        served = self._log.read_text().count(" serving on ")
        self._process.send_signal(signal.SIGHUP)
        while self._log.read_text().count(" serving on ") == served:
            time.sleep(0.01)
        self.client.ps()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self.client.close()


def _start(supervised: Supervised, count: int) -> None:
    def start(number: int) -> None:
        with Client(supervised.socket) as client:
            client.start(f"c{number}", str(ROOTFS), ["/bin/sleep", "100000"], soft_mib=32, hard_mib=64)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(count)))


def _report(what: str, run: Callable[[], object], rounds: int = ROUNDS) -> None:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    print(f"{what:48} {statistics.median(times) * 1e3:8.0f} {min(times) * 1e3:8.0f}", flush=True)


def _groups(client: Client) -> list[cgroups.Group]:
    """Of the running containers, by what /proc says of their first processes."""
    layout = cgroups.detect()
    found = []
    for container in client.ps(running=True):
        line = Path(f"/proc/{container.pid}/cgroup").read_text().splitlines()[0]
        found.append(cgroups.Group(layout, line.split(":", 2)[2].lstrip("/").removesuffix("/c")))
    return found


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{count} containers; {machine()}")
    print(f"{'':48} {'median':>8} {'min':>8}")
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as directory:
        supervised = Supervised(directory)
        try:
            _report("start all, four clients", lambda: _start(supervised, count), 1)
            groups = _groups(supervised.client)
            names = [container.name for container in supervised.client.ps(running=True)]
            _report("list", supervised.client.ps)
            _report("stats: reading the control files alone", lambda: [measure(group) for group in groups])
            _report("stats: one request for all", supervised.client.stats_of)
            _report("stats: a request for each", lambda: [supervised.client.stats(name) for name in names])
            command = [str(ENGINE), "stats", "--no-stream", "--socket", supervised.socket]
            _report(
                "engine stats --no-stream (1,000 ms of it asleep)",
                lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL),
            )
            _report("kill the supervisor, start it, first answer", supervised.replace)
            _report("reload, first answer", supervised.reload)
        finally:
            _report("stop all (SIGTERM of the supervisor)", supervised.stop, 1)


if __name__ == "__main__":
    os.environ.pop("ENGINE_SOCKET", None)
    main()
