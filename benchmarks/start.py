"""Start latency: from the request to the booked exit of /bin/true, ours through the API against peers in the same run.

    .venv/bin/python benchmarks/start.py [--rounds N] [--idle-rounds N]

fork+exec   vfork, execve, wait4 of the same static binary: the floor
wherry      Client.run with default isolation (one HTTP request over the UNIX socket)
userns      the same with a range of ids of its own (--userns auto), by another supervisor: each prepares its own kind
crun, runc  `run` of a bundle with runc's default configuration, a memory cgroup, no terminal, the directory as its root
bwrap       --unshare-all, read-only bind of the same directory: fewer steps, no cgroup, no overlay

Three tables. *One at a time*: the contestants take turns, 50 ms apart, so that nobody pays for another's cleaning up.
*In a row*: blocks of starts without a pause, where each contestant pays for its own work in the background as well;
ours is preparing the next container, which a burst outruns. *After idleness*: 1.2 s before each start; on cgroup
version 1 the first joining of a group then waits for an RCU grace period, which prepared containers have behind them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measure import machine, table, take_turns
from supervised import supervisor
from wherry import Client

ROOTFS = Path(__file__).resolve().parent.parent / "build" / "rootfs"
USERNS = ("--userns", "auto", "--userns-range", "2000000:2000000:6553600")
HYBRID = Path("/sys/fs/cgroup/unified")


def bare() -> None:
    pid = os.posix_spawn(ROOTFS / "bin/true", ["true"], {})
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("true failed")


class Wherry:
    def __init__(self, client: Client) -> None:
        self.client = client

    def __call__(self) -> None:
        result = self.client.run(None, str(ROOTFS), ["/bin/true"], rm=True)
        if result.exit_code:
            raise RuntimeError(f"true ended with {result}")


class Bundle:
    """``runtime run`` of a bundle; every call has a name of its own."""

    def __init__(self, runtime: str, directory: Path) -> None:
        self.runtime = runtime
        self.directory = directory
        self.calls = 0
        directory.mkdir()
        subprocess.run(["runc", "spec", "--bundle", directory], check=True)
        config = json.loads((directory / "config.json").read_text())
        config["process"] |= {"terminal": False, "args": ["/bin/true"]}
        config["root"] = {"path": str(ROOTFS), "readonly": True}
        config["linux"]["cgroupsPath"] = f"/wherry-bench-{os.getpid()}-{runtime}"
        config["linux"]["resources"]["memory"] = {"limit": 1 << 30}
        (directory / "config.json").write_text(json.dumps(config))

    def __call__(self) -> None:
        self.calls += 1
        root = ["--root", str(self.directory / "state")]
        run([self.runtime, *root, "run", "--bundle", str(self.directory), f"bench-{os.getpid()}-{self.calls}"])


def bwrap() -> None:
    run(["bwrap", "--unshare-all", "--ro-bind", str(ROOTFS), "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"])


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def contestants(client: Client, mapping: Client, directory: Path) -> dict[str, Callable[[], None]]:
    found: dict[str, Callable[[], None]] = {"fork+exec": bare, "wherry": Wherry(client), "userns": Wherry(mapping)}
    for runtime in ("crun", "runc"):
        if shutil.which(runtime):
            found[runtime] = Bundle(runtime, directory / runtime)
    if shutil.which("bwrap"):
        found["bwrap"] = bwrap
    return found


def hide_hybrid_hierarchy() -> None:
    """crun 1.8 refuses every command on a hybrid host; without the version 2 mount it runs (in a mount namespace of
    our own).
    """
    if not HYBRID.is_mount() or "WHERRY_BENCH_HIDDEN" in os.environ:
        return
    script = f'umount {HYBRID} && WHERRY_BENCH_HIDDEN=1 exec "$0" "$@"'
    command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, sys.executable, *sys.argv]
    os.execvp(command[0], command)


def main() -> None:
    parser = argparse.ArgumentParser(description="Start latency against peers.")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--idle-rounds", type=int, default=12)
    options = parser.parse_args()
    hide_hybrid_hierarchy()
    print(machine())
    with (
        tempfile.TemporaryDirectory(prefix="wherry-bench-") as directory,
        supervisor(ROOTFS) as client,
        supervisor(ROOTFS, *USERNS) as mapping,
    ):
        found = contestants(client, mapping, Path(directory))
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
