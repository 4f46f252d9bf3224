"""``engine experiment``: from a command line to results on the terminal and in a folder."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.client import Client, absolute
from wherry.experiments import requirements, runner
from wherry.experiments.catalogue import EXPERIMENTS
from wherry.experiments.model import BadSettingsError, Experiment, Result, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Request:
    """A command line; None is "not given"."""

    names: Sequence[str]
    socket: str | None
    rootfs: str | None
    cpu: int
    seconds: float | None
    repeat: int
    nices: tuple[int, ...] | None
    out: str | None
    as_json: bool


def show_list() -> int:
    """Print what experiments there are."""
    width = max(map(len, EXPERIMENTS))
    for name, experiment in EXPERIMENTS.items():
        print(f"{name:{width}}   {experiment.title}")
    return 0


def run(request: Request) -> int:
    """Run them one after the other, show and write what came of it. Raises BadSettingsError, wherry.errors, OSError."""
    experiments = _chosen(request.names)
    with Client(request.socket) as client:
        # Also when --rootfs is given: without a supervisor nothing is to be left behind, not even a folder.
        settings = Settings(
            rootfs=_rootfs(client, request.rootfs),
            cpu=request.cpu,
            seconds=request.seconds,
            repeat=request.repeat,
            nices=request.nices,
        )
        runner.check(experiments, settings)
        requirements.check()  # last: it loads them, which takes a second
        folder = make_folder(request.out or _default_folder(request.names), is_given=bool(request.out))
        results = _run_all(client, experiments, settings, request, folder)
    if request.as_json:
        from wherry.experiments import report  # noqa: PLC0415 (jinja2)

        print(json.dumps([report.as_data(result) for result in results], indent=2, allow_nan=False))
    return _exit_code(results)


def _run_all(
    client: Client, experiments: Sequence[Experiment], settings: Settings, request: Request, folder: str
) -> list[Result]:
    from wherry.cli import experiment_output  # noqa: PLC0415 (rich)
    from wherry.experiments.report import Report  # noqa: PLC0415 (matplotlib)

    report = Report(folder)
    results: list[Result] = []
    for experiment in experiments:
        result = runner.run(client, experiment, settings, experiment_output.progress)
        results.append(result)
        report.add(result)  # after each, so that what there is stays whatever comes
        if not request.as_json:
            experiment_output.print_result(result, sys.stdout)
        if result.error:
            break
    print(f"report: {report.path}", file=sys.stderr if request.as_json else sys.stdout)
    return results


def _exit_code(results: Sequence[Result]) -> int:
    if results[-1].interrupted:
        return _INTERRUPTED
    return 1 if results[-1].error else 0


def _chosen(names: Sequence[str]) -> list[Experiment]:
    if not names:
        raise BadSettingsError(f"which experiment? There are {', '.join(EXPERIMENTS)}")
    for name in names:
        if name not in EXPERIMENTS:
            raise BadSettingsError(f"unknown experiment {name!r}: there are {', '.join(EXPERIMENTS)}")
    return [EXPERIMENTS[name] for name in dict.fromkeys(names)]


def _rootfs(client: Client, given: str | None) -> str:
    info = client.info()
    if given is not None:
        return absolute(given, "--rootfs")
    rootfs: str = info.get("Wherry", {}).get("Rootfs") or ""
    if not rootfs:
        raise BadSettingsError("--rootfs is missing, and the supervisor was started without one")
    return rootfs


def _default_folder(names: Sequence[str]) -> str:
    return f"experiment-{time.strftime('%Y%m%d-%H%M%S')}-{names[0]}"


def make_folder(path: str, *, is_given: bool) -> str:
    """Raises BadSettingsError when nothing can be written there.

    One that the user did not name must be new: in /tmp somebody else may have guessed its name, and put a link there.
    """
    made = not os.path.lexists(path)
    try:
        os.makedirs(path, exist_ok=is_given)
        probe = os.path.join(path, f".probe-{os.getpid()}")
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
    except OSError as error:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(path)
        raise BadSettingsError(f"--out {path}: {error.strerror}") from None
    return path
