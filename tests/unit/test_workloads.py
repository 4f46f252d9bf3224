"""The static C programs: what they do, and how they refuse bad arguments."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tests.patience import PATIENCE

SOURCES = Path(__file__).parents[2] / "workloads"
PROGRAMS = ["cpu_hog", "io_pulse", "log_lines", "log_storm", "memory_hog"]
MIB = 1024 * 1024


@pytest.fixture(scope="session")
def workloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("needs make and a C compiler")
    out = tmp_path_factory.mktemp("workloads")
    subprocess.run(["make", "--silent", "-C", SOURCES, f"OUT={out}"], check=True)
    return out


def run(
    program: Path, *arguments: str, limit: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs with an environment of just ``environment``; ``limit`` is an option of prlimit(1)."""
    prefix = [] if limit is None else ["prlimit", limit]
    # SIGXFSZ, which Python ignores, stays ignored: a write beyond the limit then fails instead of killing.
    return subprocess.run(
        [*prefix, str(program), *arguments],
        env=environment,
        restore_signals=False,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_needs_no_dynamic_loader(workloads: Path, program: str) -> None:
    image = (workloads / program).read_bytes()
    assert image[:5] == b"\x7fELF\x02", "a 64-bit ELF file"
    (offset,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    kinds = {struct.unpack_from("<I", image, offset + size * index)[0] for index in range(count)}
    pt_load, pt_interp = 1, 3
    assert pt_load in kinds
    assert pt_interp not in kinds


BAD_ARGUMENTS = {
    "a word": (["abc"], '"abc"'),
    "nothing": ([""], '""'),
    "zero": (["0"], '"0"'),
    "negative": (["-1"], '"-1"'),
    "signed": (["+1"], '"+1"'),
    "a blank before": ([" 1"], '" 1"'),
    "a unit after": (["1s"], '"1s"'),
    "a fraction": (["1.5"], '"1.5"'),
    "hexadecimal": (["0x10"], '"0x10"'),
    "past 64 bits": (["18446744073709551617"], '"18446744073709551617"'),
    "out of range": (["18446744073709551615"], '"18446744073709551615"'),
    "too many": (["1", "1", "1", "extra"], "too many arguments"),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("arguments", "named"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_bad_arguments_are_refused(workloads: Path, program: str, arguments: list[str], named: str) -> None:
    result = run(workloads / program, *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"{program}: ")
    assert named in result.stderr


def test_the_later_arguments_are_checked_by_name(workloads: Path) -> None:
    assert "sleep_ms must be a whole number from 0" in run(workloads / "io_pulse", "1", "x").stderr
    assert "max_mib must be a whole number from 1" in run(workloads / "memory_hog", "1", "0", "x").stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_names_arguments_and_ranges(workloads: Path, program: str) -> None:
    result = run(workloads / program, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: {program} [")
    assert " to " in result.stdout
    assert "default" in result.stdout


@pytest.mark.parametrize(
    ("program", "arguments"), [("cpu_hog", ["1"]), ("io_pulse", ["1", "0"]), ("log_lines", ["1"]), ("memory_hog", [])]
)
def test_output_that_cannot_be_written_ends_it(workloads: Path, program: str, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [str(workloads / program), *arguments]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE)
    assert result.returncode == 1
    assert "cannot write to stdout: No space left on device" in result.stderr


HOG_DONE = re.compile(
    r"cpu_hog: done, (\d+) rounds of 100000 steps, (\d+\.\d{3}) s of CPU time, (\d+\.\d{3}) s of wall time\n"
)


def burnt(program: Path, *arguments: str) -> tuple[str, float]:
    """What it printed, and the seconds of CPU time that the kernel says it used: getrusage(2)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run(program, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    return result.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_cpu_hog_burns_cpu_time(workloads: Path) -> None:
    """Case 30: so many seconds of CPU time, however long that takes."""
    shown, used = burnt(workloads / "cpu_hog", "2")
    progress, done = shown.splitlines(keepends=True)
    first = re.fullmatch(r"cpu_hog: second 1 of 2, (\d+) rounds\n", progress)
    total = HOG_DONE.fullmatch(done)
    assert first
    assert total
    assert 0 < int(first[1]) < int(total[1])
    # Nothing is asked of it between two rounds, however long one takes.
    assert 2 <= float(total[2]) == pytest.approx(used, abs=0.1)
    # A thread has no more CPU time than there is time; the clocks' grain is a tick of the timer.
    assert float(total[3]) > float(total[2]) - 0.05


def stopped_for_a_second(hog: subprocess.Popen[str]) -> re.Match[str]:
    """After its first second, and to its end; how it says it ended."""
    assert hog.stdout is not None
    hog.stdout.readline()
    os.kill(hog.pid, signal.SIGSTOP)
    subprocess.run(["sleep", "1"], check=True)
    os.kill(hog.pid, signal.SIGCONT)
    done = HOG_DONE.fullmatch(hog.communicate(timeout=PATIENCE)[0])
    assert done
    return done


def test_cpu_hog_can_run_for_a_wall_time(workloads: Path) -> None:
    """Case 30: stopped for half of its time, it has burnt no more than the other half."""
    for _ in range(20):
        command = [str(workloads / "cpu_hog"), "--wall", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hog:
            done = stopped_for_a_second(hog)
        assert float(done[3]) >= 2
        if float(done[2]) < 1.9:
            return  # else it was over before we came to stop it
    raise AssertionError("it goes by CPU time")


def test_cpu_hog_ends_when_its_work_is_done(workloads: Path) -> None:
    for words in (["1000", "7"], ["--wall", "1000", "7"], ["1000", "--wall", "7"]):
        done = HOG_DONE.fullmatch(run(workloads / "cpu_hog", *words).stdout)
        assert done
        assert done[1] == "7"


def test_a_line_is_out_before_the_next_is_made(workloads: Path) -> None:
    with subprocess.Popen([workloads / "memory_hog", "1", "60000"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "memory_hog: step 1, 1 MiB held\n"
        process.kill()


def test_io_pulse_adds_up_its_latencies(workloads: Path, tmp_path: Path) -> None:
    result = run(workloads / "io_pulse", "3", "1", TMPDIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    start, *pulses, done = result.stdout.splitlines()
    assert start == f"io_pulse: writing 256 KiB at a time in {tmp_path}"
    took = [float(found[1]) for line in pulses if (found := re.search(r"write and fsync (\d+\.\d+) ms", line))]
    assert len(took) == 3
    summary = re.fullmatch(r"io_pulse: done, 3 writes, total (\S+) ms, mean (\S+) ms, min (\S+) ms, max (\S+) ms", done)
    assert summary
    total, mean, least, most = map(float, summary.groups())
    assert total == pytest.approx(sum(took), abs=0.01)
    assert mean == pytest.approx(total / 3, abs=0.01)
    assert (least, most) == (min(took), max(took))


def test_io_pulse_says_how_late_it_woke_up(workloads: Path, tmp_path: Path) -> None:
    lines = run(workloads / "io_pulse", "3", "2", TMPDIR=str(tmp_path)).stdout.splitlines()
    late = [float(found[1]) for line in lines if (found := re.search(r" of 3, woke up (\d+\.\d+) ms late$", line))]
    assert len(late) == 3
    summary = re.fullmatch(r"io_pulse: woke up late by mean (\S+) ms, min (\S+) ms, max (\S+) ms", lines[-2])
    assert summary
    mean, least, most = map(float, summary.groups())
    assert mean == pytest.approx(sum(late) / 3, abs=0.01)
    assert (least, most) == (min(late), max(late))


def test_io_pulse_without_sleep_wakes_up_from_nothing(workloads: Path, tmp_path: Path) -> None:
    assert "woke" not in run(workloads / "io_pulse", "2", "0", TMPDIR=str(tmp_path)).stdout


def test_io_pulse_leaves_no_file(workloads: Path, tmp_path: Path) -> None:
    command = [str(workloads / "io_pulse"), "5", "60000"]
    environment = {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)][1].startswith("io_pulse: 1 of 5")
        assert list(tmp_path.iterdir()) == [], "unlinked while it runs, so that SIGKILL leaves nothing either"
        process.kill()


def test_io_pulse_names_the_directory_it_cannot_use(workloads: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    result = run(workloads / "io_pulse", "1", TMPDIR=str(missing))
    assert result.returncode == 1
    assert f'"{missing}": No such file or directory' in result.stderr


def test_io_pulse_reports_a_failed_write(workloads: Path, tmp_path: Path) -> None:
    result = run(workloads / "io_pulse", "1", limit="--fsize=1000", TMPDIR=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == "io_pulse: cannot write: File too large\n"


def test_memory_hog_holds_what_it_says(workloads: Path) -> None:
    # ru_maxrss counts what the process had before execve as well: pytest's own memory, were it the parent (vfork).
    script = (
        "import os, resource, sys; os.spawnv(os.P_WAIT, sys.argv[1], sys.argv[1:]); print(resource.getrusage(-1)[2])"
    )
    command: list[str | Path] = [sys.executable, "-I", "-S", "-c", script, workloads / "memory_hog", "20", "0", "50"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    *lines, peak = result.stdout.splitlines()
    held = [int(found[1]) for line in lines if (found := re.search(r", (\d+) MiB held", line))]
    assert held == [20, 40, 50]
    assert lines[-1] == "memory_hog: done, 50 MiB in 3 steps"
    assert 50 * MIB <= int(peak) * 1024 < 60 * MIB, "every page is touched, and nothing else is taken"


def test_memory_hog_says_when_no_memory_is_left(workloads: Path) -> None:
    result = run(workloads / "memory_hog", "20", "0", "200", limit=f"--as={50 * MIB}")
    assert result.returncode == 1
    assert result.stderr == "memory_hog: cannot allocate 20 MiB more at 40 MiB: Cannot allocate memory\n"


@pytest.mark.parametrize("lines_a_write", ["1", "7", "655"])
def test_log_lines_numbers_its_lines(workloads: Path, lines_a_write: str) -> None:
    lines = run(workloads / "log_lines", "1500", lines_a_write).stdout.splitlines(keepends=True)
    assert [int(line[:12]) for line in lines] == list(range(1500))
    assert {len(line) for line in lines} == {100}


def test_memory_hostile_keeps_a_word_that_comes_early(workloads: Path) -> None:
    """SIGUSR1 between two steps; one is kept, and the step after the second comes only with the next."""
    hostile = subprocess.Popen([workloads / "memory_hostile", "step", "1", "2"], stdout=subprocess.PIPE, text=True)
    try:
        assert hostile.stdout is not None
        held = []
        for _ in range(3):
            held.append(hostile.stdout.readline())
            hostile.send_signal(signal.SIGUSR1)
        assert held == [f"memory_hostile: {mib * MIB} bytes held\n" for mib in (1, 3, 5)]
    finally:
        hostile.kill()
        hostile.communicate()


@pytest.mark.parametrize("arguments", [[], ["step"], ["step", "1"], ["nothing", "1", "1"], ["flap", "1", "2"]])
def test_memory_hostile_refuses_what_it_does_not_know(workloads: Path, arguments: list[str]) -> None:
    result = run(workloads / "memory_hostile", *arguments)
    assert (result.returncode, result.stdout, result.stderr.splitlines()[0]) == (
        2,
        "",
        "usage: memory_hostile MODE A B",
    )


def test_memory_hostile_refuses_what_is_no_number(workloads: Path) -> None:
    result = run(workloads / "memory_hostile", "step", "1", "-2")
    assert (result.returncode, result.stdout) == (2, "")
    assert 'B must be a whole number from 0 to 1048576, got "-2"' in result.stderr


@pytest.mark.parametrize("mode", ["share", "vfork", "exiting"])
def test_memory_hostile_says_that_nobody_stopped_it(workloads: Path, mode: str) -> None:
    hostile = subprocess.Popen([workloads / "memory_hostile", mode, "1", "1"], stdout=subprocess.PIPE, text=True)
    try:
        assert hostile.stdout is not None
        hostile.stdout.readline()
        assert hostile.stdout.readline() == "memory_hostile: nobody stopped it\n"
    finally:
        hostile.kill()
        hostile.communicate()
