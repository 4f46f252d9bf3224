"""Running experiments: checks before the first container, a result whatever happens, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wherry import errors
from wherry.experiments import hostload, machine
from wherry.experiments.lab import Lab
from wherry.experiments.model import BadSettingsError, Conclusion, Data, Experiment, Result, Settings

if TYPE_CHECKING:
    from wherry.client import Client
    from wherry.experiments.lab import Progress

_LOADED = 0.1
"""Part of the machine's CPU time from which on a run says that it was busy; looked at for so many seconds before it."""
_LOOK_SECONDS = 0.5
_SECONDS_MOST = 3600.0
_REPEAT_MOST = 1000

ShowProgress = Callable[[Experiment, float], "AbstractContextManager[Progress]"]
"""Makes the progress bar of an experiment that takes so many seconds."""


def check(experiments: list[Experiment], settings: Settings) -> None:
    """Raises BadSettingsError: nothing has been started then."""
    if settings.cpu not in machine.online_cpus():
        online = ", ".join(map(str, machine.online_cpus()))
        raise BadSettingsError(f"--cpu {settings.cpu}: there is no such CPU, online are {online}")
    if settings.seconds is not None and not 0.5 <= settings.seconds <= _SECONDS_MOST:
        raise BadSettingsError(f"--seconds {settings.seconds:g} is not between 0.5 and {_SECONDS_MOST:g}")
    if not 1 <= settings.repeat <= _REPEAT_MOST:
        raise BadSettingsError(f"--repeat {settings.repeat} is not between 1 and {_REPEAT_MOST}")
    for nice in settings.nices or ():
        if not -20 <= nice <= 19:
            raise BadSettingsError(f"--nices: {nice} is not between -20 and 19")
    _check_rootfs(settings.rootfs, {program for experiment in experiments for program in experiment.needs})
    for experiment in experiments:
        experiment.check(settings)


def _check_rootfs(rootfs: str, needs: set[str]) -> None:
    try:
        if not stat.S_ISDIR(os.stat(rootfs).st_mode):
            return  # an archive: a start will tell
    except OSError as error:
        raise BadSettingsError(f"--rootfs {rootfs}: {error.strerror}") from None
    # Only a look, and only at the top: a link in the root file system leads to where it leads in a container.
    missing = sorted(program for program in needs if not os.path.lexists(rootfs + program))
    if missing:
        raise BadSettingsError(
            f"--rootfs {rootfs} does not have {', '.join(missing)}: take one with the workloads, such as build/rootfs "
            "after `make setup`"
        )


@contextlib.contextmanager
def silent(_experiment: Experiment, _seconds: float) -> Iterator[Progress]:
    """No progress bar."""
    yield lambda _spent, _what: None


def run(client: Client, experiment: Experiment, settings: Settings, show: ShowProgress = silent) -> Result:
    """Run one experiment.

    What stops it early (Ctrl-C, SIGTERM, an error of the supervisor's) is in the result, with the data measured until
    then; its containers are gone in every case.

    Raises Unavailable when there is no supervisor to begin with.
    """
    described = machine.describe(client)
    result = Result(
        experiment=experiment.name,
        title=experiment.title,
        method=" ".join(experiment.method.split()),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        setup=described,
        settings=asdict(settings),
    )
    busy = hostload.busy_share(machine.online_cpus(), _LOOK_SECONDS)
    began = time.monotonic()
    name = f"{experiment.name}-{secrets.token_hex(3)}"
    with _terminating() as quiet, show(experiment, experiment.duration(settings)) as progress:
        try:
            with Lab(client, settings, name, progress, on_exit=quiet) as lab:
                experiment.measure(lab, result.data)
        except KeyboardInterrupt:
            result.interrupted = True
            result.error = "interrupted"
        except (errors.WherryError, OSError, RuntimeError) as error:
            result.error = str(error)
    result.seconds = time.monotonic() - began
    result.conclusion = _concluded(experiment, result.data)
    if busy >= _LOADED:
        result.conclusion.noise.insert(
            0,
            f"The machine was busy before this began: {100 * busy:.0f} % of its CPU time. Take the numbers with care.",
        )
    return result


def _concluded(experiment: Experiment, data: Data) -> Conclusion:
    return experiment.conclude(data) if data else Conclusion(noise=["Nothing was measured."])


@contextlib.contextmanager
def _terminating() -> Iterator[Callable[[], None]]:
    """SIGTERM and SIGHUP are taken for Ctrl-C. Yields what makes all three be ignored: while containers are removed.

    In another thread than the main one, where Python handles no signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in signals}

    def ignore() -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)

    for number in signals:
        signal.signal(number, signal.default_int_handler)
    try:
        yield ignore
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
