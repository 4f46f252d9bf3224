"""Exec latency: /bin/true in a container that runs, ours through the API against peers in the same run.

    .venv/bin/python benchmarks/exec.py [--rounds N] [--idle-rounds N]

fork+exec   vfork, execve, wait4 of the same static binary: the floor
wherry      Client.exec, by one HTTP request, to the booked exit code
engine      the same by the command line, with its interpreter
crun, runc  `exec` into a container of runc's default configuration, with a memory cgroup, no terminal

Tables as in start.py: contestants take turns 50 ms apart; in a row; after 1.2 s of idleness, when on cgroup version 1
the first joining of a group waits for an RCU grace period.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from measure import machine, table, take_turns
from start import ROOTFS, Bundle, bare, hide_hybrid_hierarchy, run
from supervised import ENGINE, supervisor
from wherry import Client


class Wherry:
    def __init__(self, client: Client) -> None:
        self.client = client
        client.start("bench", str(ROOTFS), ["/bin/sleep", "100000"])

    def __call__(self) -> None:
        result = self.client.exec("bench", ["/bin/true"])
        if result.exit_code:
            raise RuntimeError(f"true ended with {result}")


class Runtime(Bundle):
    """A container of ``runtime``, which is deleted by ``close``."""

    def __init__(self, runtime: str, directory: Path) -> None:
        super().__init__(runtime, directory)
        config = directory / "config.json"
        config.write_text(config.read_text().replace('["/bin/true"]', '["/bin/sleep", "100000"]'))
        self.root = [runtime, "--root", str(directory / "state")]
        self.name = f"bench-{os.getpid()}-{runtime}"
        run([*self.root, "run", "--detach", "--bundle", str(directory), self.name])

    def __call__(self) -> None:
        run([*self.root, "exec", self.name, "/bin/true"])

    def close(self) -> None:
        subprocess.run([*self.root, "delete", "--force", self.name], check=False, stdin=subprocess.DEVNULL)


def contestants(client: Client, directory: Path, undo: contextlib.ExitStack) -> dict[str, Callable[[], None]]:
    engine = [str(ENGINE), "--socket", client.socket, "exec", "bench", "/bin/true"]
    found: dict[str, Callable[[], None]] = {"fork+exec": bare, "wherry": Wherry(client), "engine": lambda: run(engine)}
    for runtime in ("crun", "runc"):
        if shutil.which(runtime):
            made = Runtime(runtime, directory / runtime)
            undo.callback(made.close)
            found[runtime] = made
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Exec latency against peers.")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--idle-rounds", type=int, default=12)
    options = parser.parse_args()
    hide_hybrid_hierarchy()
    print(machine())
    with (
        tempfile.TemporaryDirectory(prefix="wherry-bench-") as directory,
        supervisor(ROOTFS) as client,
        contextlib.ExitStack() as undo,
    ):
        found = contestants(client, Path(directory), undo)
        reference = "crun" if "crun" in found else "fork+exec"
        for title, rounds, pause in (
            ("one at a time", options.rounds, 0.05),
            ("in a row", options.rounds, 0.0),
            ("after 1.2 s of idleness", options.idle_rounds, 1.2),
        ):
            if rounds:
                print(table(title, take_turns(found, rounds, pause), reference), flush=True)


if __name__ == "__main__":
    main()
