"""Options of docker's ``run``: what a container finds by them, and what ``inspect`` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.root.harness import Supervisor, Word
from tests.waiting import wait_until

pytestmark = pytest.mark.root


def shell(supervisor: Supervisor, rootfs: Path, script: str, *options: Word) -> list[str]:
    """Standard output of ``sh -c script``, in lines."""
    done = supervisor.engine("run", "--rm", *options, "c", rootfs, "/bin/sh", "-c", script)
    return done.stdout.splitlines()


def refused(supervisor: Supervisor, rootfs: Path, *options: Word, code: int = 125) -> str:
    """What a start with these options says; nothing is left of it."""
    before = (supervisor.ps(), sorted((supervisor.state_dir / "containers").iterdir()))
    done = supervisor.engine("start", *options, "c", rootfs, "/bin/true", check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert supervisor.ps() == before[0]
    return done.stderr


def inspected(supervisor: Supervisor, name: str = "c") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(supervisor.engine("inspect", name).stdout)[0]
    return found


def test_labels_variables_and_the_id_by_files(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "v").write_text("A=1\nB=two words\n")
    (tmp_path / "l").write_text("app=web\n")
    files = ("--env-file", tmp_path / "v", "--label-file", tmp_path / "l", "--cidfile", tmp_path / "id")
    done = supervisor.engine("run", *files, "-e", "A=2", "-l", "tier=1", "c", rootfs, "/bin/sh", "-c", 'echo "$A $B"')
    assert done.stdout == "2 two words\n"
    shown = inspected(supervisor)
    assert (shown["Config"]["Labels"], shown["Id"]) == ({"app": "web", "tier": "1"}, (tmp_path / "id").read_text())
    assert supervisor.engine("prune", "--containers", "--label", "app=web", "--force").returncode == 0
    assert supervisor.ps() == []
    assert "--cidfile" in refused(supervisor, rootfs, "--cidfile", tmp_path / "id")


def test_the_stop_signal_and_its_time(supervisor: Supervisor, rootfs: Path) -> None:
    script = "trap 'echo got USR1; exit 3' USR1; echo ready; while :; do sleep 0.01; done"
    options = ("--stop-signal", "USR1", "--stop-timeout", "60", "--domainname", "example")
    supervisor.engine("start", *options, "c", rootfs, "/bin/sh", "-c", script)
    wait_until(lambda: supervisor.engine("logs", "c").stdout == "ready\n")
    config = inspected(supervisor)["Config"]
    assert (config["StopSignal"], config["StopTimeout"], config["Domainname"]) == ("USR1", 60, "example")
    supervisor.engine("stop", "c")
    assert supervisor.engine("logs", "c").stdout == "ready\ngot USR1\n"
    assert (supervisor.ps()[0]["exit_code"], supervisor.ps()[0]["reason"]) == (3, "stopped")
    supervisor.engine("rm", "c")
    assert "invalid signal: 'WISH'" in refused(supervisor, rootfs, "--stop-signal", "WISH")
    assert "'1.5' is not a whole number of seconds" in refused(supervisor, rootfs, "--stop-timeout", "1.5")


def test_the_entry_point(supervisor: Supervisor, rootfs: Path) -> None:
    done = supervisor.engine("run", "--entrypoint", "/bin/echo", "c", rootfs, "a", "b")
    assert done.stdout == "a b\n"
    shown = inspected(supervisor)
    assert (shown["Path"], shown["Args"]) == ("/bin/echo", ["a", "b"])
    assert (shown["Config"]["Entrypoint"], shown["Config"]["Cmd"]) == (["/bin/echo"], ["a", "b"])
    assert supervisor.engine("start", "c").returncode == 0  # as it was made
    supervisor.client.wait("c")
    assert supervisor.engine("logs", "c").stdout == "a b\n" * 2
    supervisor.engine("rm", "c")
    alone = supervisor.client.run(None, rootfs, [], entrypoint=["/bin/echo", "-n", "x"])
    assert alone.stdout == b"x"
    supervisor.client.rm(supervisor.ps()[0]["name"])
    assert "/nosuch" in refused(supervisor, rootfs, "--entrypoint", "/nosuch", code=127)


def test_memory_limits_as_sizes(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.engine("start", "--soft-limit", "8m", "--hard-limit", "0.5g", "c", rootfs, "/bin/sleep", "1000")
    ours = inspected(supervisor)["Wherry"]
    assert (ours["SoftLimit"], ours["HardLimit"]) == (8 << 20, 1 << 29)
    supervisor.engine("update", "--hard-limit", "16m", "c")
    assert inspected(supervisor)["Wherry"]["HardLimit"] == 16 << 20
    for wrong in (("--soft-limit", "0"), ("--hard-mib", "2", "--hard-limit", "2m"), ("--hard-limit", "lots")):
        assert supervisor.engine("start", *wrong, "d", rootfs, "/bin/true", check=False).returncode == 125
    both = supervisor.engine("update", "--hard-limit", "2m", "--hard-mib", "2", "c", check=False)
    assert "say the same: give one" in both.stderr
    assert inspected(supervisor)["Wherry"]["HardLimit"] == 16 << 20
