"""The command line: `engine ps` against `docker ps`, both asking the same supervisor, with 20 containers.

.venv/bin/python benchmarks/cli.py [--rounds N]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from measure import machine, table, take_turns
from supervised import ENGINE, supervisor

ROOTFS = Path(__file__).resolve().parent.parent / "build" / "rootfs"


def command(*words: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="engine ps against docker ps.")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    docker = shutil.which("docker", path=f"{Path('build/tools').resolve()}:/usr/local/bin:/usr/bin:/bin")
    if docker is None:
        sys.exit("there is no docker client here: make setup-test gets one")
    print(machine())
    with supervisor(ROOTFS) as client:
        for number in range(20):
            client.start(f"bench{number}", str(ROOTFS), ["/bin/sleep", "1000"])
        contestants = {
            "docker ps": command(docker, "-H", f"unix://{client.socket}", "ps", "-a"),
            "engine ps": command(str(ENGINE), "ps", "--socket", client.socket),
        }
        print(table("20 running containers", take_turns(contestants, options.rounds), "docker ps"))


if __name__ == "__main__":
    main()
