"""The import budget of the command line, by the modules it loads and not by a clock.

A bare interpreter takes 11 ms, re 6 more, argparse 2 on top, socket and json as much: engine ps would take twice what
docker ps takes. What is not in the list below needs a reason and a measurement.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.unit.fake_supervisor import FakeSupervisor, empty, entry, exited, frame, reply, started, streaming

OURS = {
    "wherry",
    "wherry.cli",
    "wherry.cli.main",
    "wherry.cli.parser",
    "wherry.cli.terminal",
    "wherry.client",
    "wherry.defaults",
    "wherry.errors",
    "wherry.client.http1",
    "wherry.client.client",
    "wherry.client.transport",
    "wherry.client.arguments",
    "wherry.client.config",
    "wherry.client.disk",
    "wherry.client.jsontext",
    "wherry.client.queries",
    "wherry.client.replies",
    "wherry.client.stream",
}
BUILT_IN = {"__future__", "_json", "_socket", "errno"}
START = {"wherry.cli.starting", "wherry.cli.placement", "wherry.cli.values"}
LIFECYCLE = {"wherry.cli.lifecycle", "wherry.cli.names", "wherry.cli.values"}
PS = {"wherry.cli.listing", "wherry.cli.filters", "wherry.cli.times"}

LOADED = {
    "ps": PS,
    "--socket {socket} ps -a --running": PS,
    "ps -q": PS,
    "start alpha /r /bin/true --soft-mib 3": START,
    "run --rm alpha /r /bin/true": START | {"wherry.cli.interrupts"},
    "stop alpha": LIFECYCLE,
    "rm -f alpha": LIFECYCLE,
    "logs -f alpha": {"wherry.cli.logs", "wherry.cli.names", "wherry.cli.times", "wherry.cli.values"},
}

# Runs in a fresh interpreter: what is there before is not ours to keep small.
PROGRAM = """
import sys
before = set(sys.modules)
from wherry.cli.main import main
code = main(sys.argv[1:])
sys.stderr.write(" ".join(sorted(set(sys.modules) - before)))
sys.exit(code)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeSupervisor]:
    with FakeSupervisor(tmp_path / "s") as supervisor:
        supervisor.on("GET", "/containers/json", reply([entry("alpha", SoftLimit=1)]))
        supervisor.on("POST", "/containers/alpha/stop", empty())
        supervisor.on("DELETE", "/containers/alpha", empty())
        supervisor.on("GET", "/containers/alpha/logs", streaming([frame(1, b"x")]))
        yield supervisor


@pytest.mark.parametrize("line", LOADED)
def test_a_command_loads_nothing_but_its_list(fake: FakeSupervisor, line: str) -> None:
    quick = reply({"Id": "a", "Name": "alpha", "Pid": 1}, 201)
    fake.on("POST", "/wherry/run", streaming([started(), exited()]) if line.startswith("run") else quick)
    command = [sys.executable, "-c", PROGRAM, *line.format(socket=fake.path).split()]
    environment = {**os.environ, "ENGINE_SOCKET": str(fake.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert len(fake.requests) == 1
    assert set(done.stderr.split()) - BUILT_IN == OURS | LOADED[line]


def test_a_library_user_does_not_load_the_command_line() -> None:
    code = "import sys, wherry; wherry.Client; import json; print(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not any(f"{name}.".startswith("wherry.cli.") for name in json.loads(found.stdout))
