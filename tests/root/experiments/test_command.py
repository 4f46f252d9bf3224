"""``engine experiment`` from outside: a run, its end by a signal, what it refuses; nothing is left in any case."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import PACKAGES, Supervisor
from tests.waiting import wait_until

pytestmark = pytest.mark.root

NAMES = ["nice", "nice-multicore", "cpu-vs-io", "autogroup", "quota", "memory", "fairness", "start"]

ENFORCERS = {"kmod", "bpf", "cgroup"}


def experiment(supervisor: Supervisor, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return supervisor.engine("experiment", *words, check=False, timeout=2 * PATIENCE)


def wait_for_containers(supervisor: Supervisor, count: int) -> None:
    """Until so many have been seen, one after another or together."""
    seen: set[str] = set()

    def look() -> bool:
        seen.update(each.id for each in supervisor.client.ps())
        return len(seen) >= count

    wait_until(look)


def test_they_are_listed(shared: Supervisor) -> None:
    done = experiment(shared, "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(NAMES) <= {line.split()[0] for line in done.stdout.splitlines()}


def test_a_run_leaves_report_plots_and_data_and_no_container(supervisor: Supervisor, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("run", "nice", "--nices", "0,10", "--seconds", "2", "--repeat", "2", "--out", out, "--json")
    done = experiment(supervisor, *words)
    assert done.returncode == 0, done
    (result,) = json.loads(done.stdout)
    assert (result["experiment"], result["interrupted"], result["error"]) == ("nice", False, "")
    assert len(result["data"]["windows"]) == 2
    table = result["conclusion"]["tables"][0]
    measured = [row[list(table["columns"]).index("MEASURED %")] for row in table["rows"]]
    assert len(measured) == 2
    assert all(0 <= share <= 100 for share in measured)
    suffixes = {path.suffix for path in out.iterdir()}
    assert suffixes == {".html", ".json", ".png", ".svg"}
    assert supervisor.ps() == []


def test_without_json_there_is_a_table_with_bars(shared: Supervisor, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = experiment(shared, "run", "nice", "--nices", "0,10", "--seconds", "1", "--repeat", "1", "--out", out)
    assert done.returncode == 0, done
    assert "PREDICTED %" in done.stdout
    assert "#" * 20 in done.stdout
    assert str(out / "report.html") in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_it_with_the_data_so_far(supervisor: Supervisor, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    words = ("experiment", "run", "quota", "nice", "--seconds", "1", "--repeat", "1", "--out", out, "--json")
    process = supervisor.popen(*words)
    # Each quota has a container of its own: with the second the first has been measured.
    wait_for_containers(supervisor, 2)
    process.send_signal(number)
    shown, complaints = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "Traceback" in complaints) == (130, False), complaints
    (result,) = json.loads(shown)
    assert result["interrupted"]
    assert result["data"]["runs"]["0.1"]["windows"]
    assert "nterrupted" in (out / "report.html").read_text()
    assert supervisor.client.ps() == []


def test_the_others_in_short(supervisor: Supervisor, tmp_path: Path) -> None:
    words = (
        "run",
        "memory",
        "cpu-vs-io",
        "start",
        "--seconds",
        "1",
        "--repeat",
        "1",
        "--out",
        tmp_path / "out",
        "--json",
    )
    done = experiment(supervisor, *words)
    assert done.returncode == 0, done
    memory, cpu_vs_io, start = json.loads(done.stdout)
    assert {run["enforcer"]: run["reason"] for run in memory["data"]["runs"]}.get("bpf") == "hard_limit"
    assert set(memory["data"]["refused"]) | {run["enforcer"] for run in memory["data"]["runs"]} == ENFORCERS
    for run in memory["data"]["runs"]:
        assert run["soft"]["at"] < run["died"], run["enforcer"]
        assert len(run["samples"]) > 5
    woke = {run["what"]: len(run["woke"]) for run in cpu_vs_io["data"]["runs"]}
    assert [what for what, count in woke.items() if count == 0] == ["cpu_hog alone"]
    assert {count: len(each["ended"]) for count, each in start["data"]["runs"].items()}["100"] == 10
    assert supervisor.ps() == []
    assert supervisors_of_experiments() == []


def test_nothing_of_the_root_file_system_is_executed_on_the_host(
    supervisor: Supervisor, rootfs: Path, tmp_path: Path
) -> None:
    hostile, mark = tmp_path / "hostile", tmp_path / "executed-on-the-host"
    subprocess.run(["cp", "-a", rootfs, hostile], check=True)
    (hostile / "cpu_hog").rename(hostile / "real")
    (hostile / "bin/true").unlink()
    for program, real in (("cpu_hog", "/real"), ("bin/true", "/bin/busybox true")):
        (hostile / program).write_text(f'#!/bin/sh\n(echo x >{mark}) 2>/dev/null\nexec {real} "$@"\n')
        (hostile / program).chmod(0o755)
    words = ("run", "autogroup", "start", "--seconds", "1", "--repeat", "1", "--rootfs", hostile, "--json")
    done = experiment(supervisor, *words, "--out", tmp_path / "out")
    assert done.returncode == 0, done
    assert [result["error"] for result in json.loads(done.stdout)] == ["", ""]
    assert not mark.exists()


def test_an_interruption_ends_the_experiments_own_supervisors(supervisor: Supervisor, tmp_path: Path) -> None:
    words = ("experiment", "run", "memory", "--seconds", "30", "--repeat", "1", "--out", tmp_path / "out", "--json")
    process = supervisor.popen(*words)
    wait_until(lambda: any("memory_hog" in line for line in command_lines()))
    process.send_signal(signal.SIGINT)
    shown, complaints = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "Traceback" in complaints) == (130, False), complaints
    (result,) = json.loads(shown)
    assert result["interrupted"]
    assert supervisors_of_experiments() == []
    assert not any("memory_hog" in line for line in command_lines())


def test_the_death_of_the_experiments_own_supervisor_leaves_nothing(supervisor: Supervisor, tmp_path: Path) -> None:
    words = ("experiment", "run", "memory", "--seconds", "30", "--repeat", "1", "--out", tmp_path / "out", "--json")
    process = supervisor.popen(*words)
    wait_until(lambda: any("memory_hog" in line for line in command_lines()))
    (pid,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"wherry-experiment-" in path.read_bytes() and b"supervisor" in path.read_bytes()
    ]
    os.kill(pid, signal.SIGKILL)
    shown, complaints = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "Traceback" in complaints) == (1, False), complaints
    assert json.loads(shown)[0]["error"]
    assert supervisors_of_experiments() == []
    assert not any("memory_hog" in line for line in command_lines())


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def supervisors_of_experiments() -> list[str]:
    """Supervisors, shims and directories."""
    processes = [line for line in command_lines() if "wherry-experiment-" in line]
    return processes + [str(path) for path in Path(tempfile.gettempdir()).glob("wherry-experiment-*")]


def test_an_end_of_the_supervisor_keeps_the_data_too(supervisor: Supervisor, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = supervisor.popen("experiment", "run", "quota", "--seconds", "1", "--repeat", "1", "--out", out, "--json")
    wait_for_containers(supervisor, 2)
    supervisor.kill()
    shown, complaints = process.communicate(timeout=PATIENCE)
    supervisor.restart()
    assert (process.returncode, "Traceback" in complaints) == (1, False), complaints
    (result,) = json.loads(shown)
    assert result["error"]
    assert not result["interrupted"]
    assert result["data"]["runs"]["0.1"]["windows"]
    for left in supervisor.client.ps():  # nobody could remove it while there was no supervisor
        assert left.name.startswith("quota-")
        supervisor.client.rm(left.name, force=True)


BAD = {
    "unknown": (["run", "nonsense"], "nonsense"),
    "unknown names the others": (["run", "nonsense"], "nice-multicore"),
    "no name": (["run"], "nice-multicore"),
    "no such CPU": (["run", "nice", "--cpu", "4095"], "4095"),
    "no CPU": (["run", "nice", "--cpu", "x"], "--cpu"),
    "seconds": (["run", "nice", "--seconds", "0"], "--seconds"),
    "seconds without end": (["run", "nice", "--seconds", "inf"], "--seconds"),
    "seconds that are none": (["run", "nice", "--seconds", "nan"], "--seconds"),
    "repeat": (["run", "nice", "--repeat", "0"], "--repeat"),
    "nice too great": (["run", "nice", "--nices", "0,20"], "--nices"),
    "no nice": (["run", "nice", "--nices", "0,,5"], "--nices"),
    "one nice": (["run", "nice", "--nices", "0"], "--nices"),
    "nices of a good and a bad one": (["run", "quota", "nice-multicore", "--nices", "0,5,10"], "--nices"),
    "no rootfs": (["run", "nice", "--rootfs", "/nowhere/at/all"], "/nowhere/at/all"),
    "out below a file": (["run", "nice", "--out", "/etc/passwd/x"], "/etc/passwd/x"),
    "out that the kernel refuses": (["run", "nice", "--out", "/proc/x"], "/proc/x"),
}


@pytest.mark.parametrize(("words", "named"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_and_starts_nothing(
    shared: Supervisor, tmp_path: Path, words: list[str], named: str
) -> None:
    out = tmp_path / "out"
    extra = [] if "--out" in words else ["--out", str(out)]
    done = experiment(shared, *words, *extra)
    assert done.returncode in {1, 2}, done
    assert (named in done.stderr, done.stdout, "Traceback" in done.stderr) == (True, "", False), done
    assert not out.exists()
    assert shared.ps() == []


def test_a_root_file_system_without_the_workloads_is_refused(shared: Supervisor, tmp_path: Path) -> None:
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    done = experiment(shared, "run", "nice", "--rootfs", empty, "--out", out)
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("/cpu_hog", "make setup", str(empty)))
    assert (out.exists(), shared.ps()) == (False, [])


def test_without_a_supervisor_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wherry.cli", "--socket", str(tmp_path / "none"), "experiment", "run", "nice"]
    environment = os.environ | {"PYTHONPATH": PACKAGES}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "no supervisor is running" in done.stderr) == (1, True), done
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["matplotlib", "jinja2", "rich"])
def test_without_the_extra_it_says_how_to_install_it(shared: Supervisor, tmp_path: Path, package: str) -> None:
    blocker, out = tmp_path / "blocker", tmp_path / "out"
    blocker.mkdir()
    (blocker / f"{package}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{package}'\")")
    environment = os.environ | {"ENGINE_SOCKET": str(shared.socket), "PYTHONPATH": f"{blocker}:{PACKAGES}"}
    command = [sys.executable, "-m", "wherry.cli", "experiment", "run", "nice", "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False), done
    assert package in done.stderr
    assert "pip install 'wherry[experiments]'" in done.stderr
    assert (out.exists(), shared.ps()) == (False, [])
    listed = subprocess.run([*command[:4], "list"], env=environment, capture_output=True, text=True, check=False)
    assert (listed.returncode, "nice-multicore" in listed.stdout) == (0, True)
