"""Commands in containers that run: what they are like, how they end, what becomes of them when others end."""

from __future__ import annotations

import operator
import os
import signal
import threading
from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry import CommandNotFound, Conflict, InvalidRequest, NotExecutable, NotFound
from wherry.kernel.capabilities import mask_of, permitted

pytestmark = pytest.mark.root

STATUS = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask|Cpus_allowed_list)' /proc/self/status"
NAMESPACES = "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done"
SELF = f"{STATUS}; ulimit -a; cat /proc/self/oom_score_adj; {NAMESPACES}; cat /proc/self/cgroup"


def lines(supervisor: Supervisor, *words: str | Path) -> list[str]:
    done = supervisor.engine("exec", *words)
    assert done.stderr == ""
    return done.stdout.splitlines()


MAPPED = "--userns 300000:300000:65536"
OPTIONS = ["", "--user 1000:1000", MAPPED, f"{MAPPED} --user 1000:1000", "--network host"]


@pytest.mark.parametrize("options", [words.split() for words in OPTIONS], ids=OPTIONS)
def test_it_is_a_process_as_the_containers_own(supervisor: Supervisor, rootfs: Path, options: list[str]) -> None:
    script = f"{SELF}; echo end; exec sleep 1000"
    supervisor.engine("start", "c", *options, rootfs, "/bin/sh", "-c", script)
    wait_until(lambda: supervisor.engine("logs", "c").stdout.endswith("end\n"))
    before = supervisor.engine("logs", "c").stdout
    assert lines(supervisor, "c", "/bin/sh", "-c", SELF) == before.splitlines()[:-1]
    assert supervisor.engine("logs", "c").stdout == before
    (pid,) = (entry["pid"] for entry in supervisor.ps())
    found = lines(supervisor, "c", "/bin/sh", "-c", "ls -l /proc/$$/fd; cat /proc/$$/environ | tr '\\0' '\\n'; pwd")
    assert [line.split(" -> ")[1].split(":")[0] for line in found if " -> " in line] == ["/dev/null", "pipe", "pipe"]
    assert "HOSTNAME=c" in found
    assert found[-1] == "/"
    assert os.path.exists(f"/proc/{pid}")


def test_exit_codes_and_streams(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.start("c", str(rootfs), ["/bin/sleep", "1000"], env={"A": "1", "B": "2"}, working_dir="/tmp")
    client = supervisor.client
    result = client.exec("c", ["/bin/sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (result.exit_code, result.reason, result.stdout, result.stderr) == (7, "exited", b"out\n", b"err\n")
    result = client.exec("c", ["/bin/sh", "-c", "kill -TERM $$"])
    assert (result.exit_code, result.reason, result.signal) == (143, "signaled", 15)
    environment = client.exec("c", ["/bin/sh", "-c", "echo $A$B$C$HOME; pwd"], env={"B": "3", "C": "4"})
    assert environment.stdout == b"134/root\n/tmp\n"
    assert client.exec("c", ["pwd"], working_dir="/usr/bin").stdout == b"/usr/bin\n"
    assert client.exec("c", ["id", "-u"], user="7").stdout == b"7\n"
    large = client.exec("c", ["/bin/sh", "-c", "head -c 5000000 /dev/zero; exit 3"])
    assert (large.exit_code, len(large.stdout)) == (3, 5_000_000)
    for words, code in ((["/nowhere"], 127), (["nothing"], 127), (["/etc"], 126), (["/bin/sh", "-c", "exit 200"], 200)):
        assert supervisor.engine("exec", "c", *words, check=False).returncode == code
    privileged = lines(supervisor, "--privileged", "c", "grep", "CapEff", "/proc/self/status")
    assert int(privileged[0].split()[1], 16) == mask_of(permitted())


def test_bad_input_is_refused_and_leaves_nothing(supervisor: Supervisor, rootfs: Path) -> None:
    client = supervisor.client
    client.start("c", str(rootfs), ["/bin/sleep", "1000"])
    client.run("ended", str(rootfs), ["/bin/true"])
    client.start("paused", str(rootfs), ["/bin/sleep", "1000"])
    client.pause("paused")
    shim = int(supervisor.info()["shim_pid"])
    assert supervisor.process is not None
    descriptors = [f"/proc/{pid}/fd" for pid in (shim, supervisor.process.pid)]
    supervisor.connections()  # all is prepared that will be
    client.close()
    children = Path(f"/proc/{shim}/task/{shim}/children")
    before = [len(os.listdir(path)) for path in descriptors], children.read_text()

    def nothing_is_left() -> bool:
        now = [len(os.listdir(path)) for path in descriptors]  # fewer when the enforcer has let go of its programs
        return all(map(operator.le, now, before[0])) and children.read_text() == before[1]

    refused = [
        ("nobody", ["/bin/true"], {}, NotFound, "nobody"),
        ("ended", ["/bin/true"], {}, Conflict, "container ended is not running"),
        ("paused", ["/bin/true"], {}, Conflict, 'paused is paused; "engine unpause paused" lets it go on'),
        ("c", ["/bin/true"], {"user": "who"}, InvalidRequest, "user 'who' is not in the rootfs's /etc/passwd"),
        ("c", ["/bin/true"], {"working_dir": "/no"}, InvalidRequest, "change directory to /no.*no such file"),
        ("c", ["/bin/true"], {"working_dir": "relative"}, InvalidRequest, "needs to be an absolute path"),
        ("c", ["/bin/true"], {"working_dir": "/proc/self/fd/1"}, InvalidRequest, "change directory"),
        ("c", ["frobnicate"], {}, CommandNotFound, "cannot execute in c: execute frobnicate"),
        ("c", ["/etc/passwd"], {}, NotExecutable, "cannot execute in c: execute /etc/passwd: permission denied"),
    ]
    for name, command, options, kind, message in refused:
        with pytest.raises(kind, match=message):
            client.exec(name, command, **options)  # type: ignore[arg-type]
    for words in ("-t c cat", "c", "--timeout 0 c true", "-e =x c true"):
        assert supervisor.engine("exec", *words.split(), check=False).returncode == 125
    client.close()
    wait_until(nothing_is_left)
    assert client.exec("c", ["/bin/echo", "fine"]).stdout == b"fine\n"


def test_it_ends_with_its_container(supervisor: Supervisor, rootfs: Path) -> None:
    client = supervisor.client
    client.start("c", str(rootfs), ["/bin/sleep", "1000"])
    results = []
    thread = threading.Thread(target=lambda: results.append(client.exec("c", ["/bin/sh", "-c", "echo up; sleep 1000"])))
    thread.start()
    detached = client.start_exec("c", ["/bin/sleep", "1000"])
    assert client.inspect_exec(detached.id)["Running"] is True
    supervisor.engine("kill", "c")
    thread.join(60)
    assert [(result.exit_code, result.stdout) for result in results] in ([(137, b"up\n")], [(137, b"")])
    wait_until(lambda: client.inspect_exec(detached.id)["ExitCode"] == 137)
    supervisor.engine("rm", "c")
    with pytest.raises(NotFound):
        client.inspect_exec(detached.id)


def test_it_survives_the_supervisor(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    client = supervisor.client
    client.start("c", str(rootfs), ["/bin/sleep", "1000"], volumes=[f"{volume}:/v"])
    waits = "while [ ! -e /v/go ]; do sleep 0.02; done"
    early = client.start_exec("c", ["/bin/sh", "-c", f"{waits}; exit 5"])
    late = client.start_exec("c", ["/bin/sh", "-c", f"{waits}; while [ ! -e /v/on ]; do sleep 0.02; done; exit 6"])
    script = f"echo read; {waits}; head -c 3000000 /dev/zero; touch /v/done; exit 4"
    reader = supervisor.popen("exec", "c", "/bin/sh", "-c", script)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "read\n"
    supervisor.kill()
    (volume / "go").touch()
    wait_until(lambda: not os.path.exists(f"/proc/{early.pid}"))
    supervisor.restart()
    assert reader.wait(60) == 125
    reader.stdout.close()
    assert reader.stderr is not None
    reader.stderr.close()
    found = client.inspect_exec(early.id)
    assert (found["Running"], found["ExitCode"], found["Wherry"]["Reason"]) == (False, 5, "exited")
    assert client.inspect_exec(late.id)["Running"] is True
    wait_until((volume / "done").exists)  # what nobody reads any more does not hold it up
    (volume / "on").touch()
    wait_until(lambda: client.inspect_exec(late.id)["ExitCode"] == 6)
    assert client.exec("c", ["/bin/echo", "fine"]).stdout == b"fine\n"


def test_the_death_of_the_shim_costs_no_exit_code(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    client = supervisor.client
    client.start("c", str(rootfs), ["/bin/sleep", "1000"], volumes=[f"{volume}:/v"])
    one = client.start_exec("c", ["/bin/sh", "-c", "while [ ! -e /v/go ]; do sleep 0.02; done; exit 5"])
    shim = int(supervisor.info()["shim_pid"])
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: int(supervisor.info()["shim_pid"]) != shim)
    supervisor._traces.shims.add(int(supervisor.info()["shim_pid"]))
    (volume / "go").touch()
    wait_until(lambda: client.inspect_exec(one.id)["ExitCode"] == 5)
    assert client.exec("c", ["/bin/echo", "fine"]).stdout == b"fine\n"  # by the new one


def test_a_timeout_ends_all_that_it_has_started(supervisor: Supervisor, rootfs: Path) -> None:
    client = supervisor.client
    client.start("c", str(rootfs), ["/bin/sleep", "1000"], init=True)  # which reaps
    daemon = "setsid sh -c 'trap \"\" TERM HUP; sleep 777 & sleep 778' & setsid sleep 779 & echo up; sleep 780"
    result = client.exec("c", ["/bin/sh", "-c", daemon], timeout=0.5)
    assert (result.exit_code, result.reason, result.stdout) == (137, "timed_out", b"up\n")
    wait_until(lambda: client.exec("c", ["ps", "-o", "args"]).stdout.count(b"sleep") == 1)
    group = supervisor.group("c")
    wait_until(lambda: not any("exec-" in name for path in group.places for name in os.listdir(path)))
    assert supervisor.ps()[0]["state"] == "running"
    done = supervisor.engine("exec", "--timeout", "0.2", "c", "sleep", "1000", check=False)
    assert (done.returncode, done.stderr) == (137, "engine: c: the command was killed after 0.2 s\n")


def test_a_timeout_holds_for_what_it_has_left_and_over_supervisors(supervisor: Supervisor, rootfs: Path) -> None:
    client = supervisor.client
    client.start("c", str(rootfs), ["/bin/sleep", "1000"], init=True)
    assert client.exec("c", ["/bin/sh", "-c", "setsid sleep 777 > /dev/null 2>&1 & exit 3"], timeout=3).exit_code == 3
    last = client.start_exec("c", ["/bin/sleep", "778"], timeout=3)
    supervisor.kill()
    supervisor.restart()
    wait_until(lambda: client.inspect_exec(last.id)["Wherry"]["Reason"] == "timed_out")
    wait_until(lambda: client.exec("c", ["ps", "-o", "args"]).stdout.count(b"sleep") == 1)


def test_what_it_has_counts_against_the_limit_from_its_execve_on(supervisor: Supervisor, rootfs: Path) -> None:
    """Until then it is a copy of the shim, of more than the limit."""
    client = supervisor.client
    client.start("c", str(rootfs), ["/bin/sleep", "1000"], hard_mib=6)
    for _ in range(10):
        assert client.exec("c", ["/bin/true"]).exit_code == 0
    assert supervisor.ps()[0]["state"] == "running"
    # The hog is killed as it crosses; the container's end takes everything with it.
    assert client.exec("c", ["/memory_hog", "1", "0", "99"]).exit_code == 137
    assert client.wait("c") == 137
    assert supervisor.ps()[0]["reason"] == "hard_limit"
