"""conmon and dockerd as sinks of a container's output, each with a state of its own and nothing left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_SECONDS = 60


class Conmon:
    """`conmon` on a bundle of runc's, logging to a k8s-file."""

    def __init__(self, directory: Path, rootfs: Path, lines: int) -> None:
        self._bundle = directory / "conmon"
        self._bundle.mkdir()
        self._calls = 0
        subprocess.run(["runc", "spec", "--bundle", self._bundle], check=True)
        config = json.loads((self._bundle / "config.json").read_text())
        config["process"] |= {"terminal": False, "args": ["/log_lines", str(lines)]}
        config["root"] = {"path": str(rootfs), "readonly": True}
        config["linux"]["cgroupsPath"] = f"/wherry-bench-{os.getpid()}-conmon"
        (self._bundle / "config.json").write_text(json.dumps(config))

    def __call__(self) -> None:
        self._calls += 1
        name = f"bench-{os.getpid()}-{self._calls}"
        state, log, exits, sockets = (self._bundle / part for part in ("state", "log", "exits", "sockets"))
        exits.mkdir(exist_ok=True)
        sockets.mkdir(exist_ok=True)
        pid_file = self._bundle / "pid"
        pid_file.unlink(missing_ok=True)
        runc = subprocess.run(["which", "runc"], check=True, capture_output=True, text=True).stdout.strip()
        words = ["conmon", "--api-version", "1", "-c", name, "-u", name, "-r", runc, "-b", str(self._bundle)]
        words += ["-p", str(pid_file), "-l", f"k8s-file:{log}", "--exit-dir", str(exits)]
        words += ["--socket-dir-path", str(sockets)]
        words += ["--runtime-arg", "--root", "--runtime-arg", str(state)]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
        try:
            _wait_until(pid_file.exists)
            subprocess.run(["runc", "--root", state, "start", name], check=True)
            _wait_until((exits / name).exists)
        finally:
            subprocess.run(["runc", "--root", state, "delete", "--force", name], check=True)
        log.unlink()


class Docker:
    """A dockerd in a network namespace of its own, so that the host's rules and addresses stay as they are."""

    def __init__(self, directory: Path, rootfs: Path, lines: int) -> None:
        self._directory = directory / "docker"
        self._directory.mkdir()
        self._group = f"wherry-bench-{os.getpid()}-docker"
        self._host = f"unix://{self._directory}/sock"
        self._rootfs = rootfs
        self._lines = lines

    def __enter__(self) -> Docker:
        words = ["unshare", "--net", "dockerd", "--data-root", f"{self._directory}/data"]
        words += ["--exec-root", f"{self._directory}/exec", "--pidfile", f"{self._directory}/pid", "-H", self._host]
        words += ["--bridge=none", "--iptables=false", f"--cgroup-parent=/{self._group}"]
        with (self._directory / "dockerd.log").open("wb") as output:
            self._process = subprocess.Popen(words, stdout=output, stderr=output)
        try:
            _wait_until((self._directory / "sock").exists, 30)
            script = f"tar -C {self._rootfs} -c . | docker -H {self._host} import - bench:1 >/dev/null"
            subprocess.run(["sh", "-c", script], check=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.send_signal(signal.SIGTERM)  # unshare executes dockerd, which ends its own containerd
        self._process.wait(60)
        for group in {path.resolve() for path in Path("/sys/fs/cgroup").glob(f"*/{self._group}")}:
            group.rmdir()

    def writer(self, driver: str) -> Callable[[], None]:
        limits = ["--log-opt", "max-size=2g"] if driver == "local" else []
        words = ["docker", "-H", self._host, "run", "--rm", "-d", "--name", f"bench-{driver}", "--network", "none"]
        words += ["--log-driver", driver, *limits, "bench:1", "/log_lines", str(self._lines)]
        wait = ["docker", "-H", self._host, "wait", f"bench-{driver}"]

        def run() -> None:
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            # Removed by itself as soon as it has ended, perhaps before wait asks.
            subprocess.run(wait, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            inspect = ["docker", "-H", self._host, "inspect", f"bench-{driver}"]
            _wait_until(lambda: subprocess.run(inspect, capture_output=True, check=False).returncode != 0)

        return run


def _wait_until(holds: Callable[[], bool], limit: float = _SECONDS) -> None:
    deadline = time.monotonic() + limit
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("a peer does not get ready or does not end")
        time.sleep(0.005)
