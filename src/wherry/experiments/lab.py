"""Where an experiment runs its containers: names, labels, samples of what they used, and nothing left in the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from wherry import errors
from wherry.experiments.model import Settings

if TYPE_CHECKING:
    from typing import Unpack

    from wherry.client import Client
    from wherry.client.config import Options

LABEL = "wherry.experiment"

Progress = Callable[[float, str], None]
"""Called with seconds spent so far and what is being done."""


@dataclass(frozen=True)
class Sample:
    """CPU time that containers had used at one moment, in nanoseconds; ``at`` is CLOCK_MONOTONIC in seconds."""

    at: float
    cpu_ns: Mapping[str, int]

    def since(self, earlier: Sample) -> dict[str, float]:
        """CPUs that each used on average since ``earlier`` (1.0 is one whole CPU)."""
        span = (self.at - earlier.at) * 1e9
        return {name: (used - earlier.cpu_ns[name]) / span for name, used in self.cpu_ns.items()}


class Lab:
    """A context manager: containers that are still there in the end are removed, whatever happened.

    Containers go by short names ("nice-5") that are their names' last part: "RUN.nice-5".
    """

    def __init__(
        self,
        client: Client,
        settings: Settings,
        run: str,
        progress: Progress,
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_exit`` is called before containers are removed in the end: no second Ctrl-C is to stop that."""
        self.client = client
        self.settings = settings
        self.run = run
        self._progress = progress
        self._began = time.monotonic()
        self._doing = ""
        self._on_exit = on_exit
        self._started: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_exit()
        for short in list(self._started):
            # One that cannot be removed (no supervisor any more) must not keep the others, nor hide what has happened.
            with contextlib.suppress(errors.WherryError):
                self.remove([short])

    def name(self, short: str) -> str:
        return f"{self.run}.{short}"

    def start(self, short: str, command: Sequence[str], **options: Unpack[Options]) -> None:
        """Start a container on the settings' root file system. Raises wherry.errors."""
        options["labels"] = {**(options.get("labels") or {}), LABEL: self.run}
        self._started.append(short)  # first: an interruption may come while it is being started
        self.client.start(self.name(short), self.settings.rootfs, command, **options)

    def run_once(self, short: str, command: Sequence[str]) -> float:
        """Run a container to its end, remove it, and return when (time.perf_counter) it had been executed."""
        executed: list[float] = []
        self._started.append(short)
        self.client.run(
            self.name(short),
            self.settings.rootfs,
            command,
            labels={LABEL: self.run},
            rm=True,
            on_start=lambda _: executed.append(time.perf_counter()),
        )
        self._started.remove(short)
        return executed[0]

    def elsewhere(self, client: Client) -> Lab:
        """The same with another supervisor."""
        return Lab(client, self.settings, self.run, lambda _, what: self.doing(what))

    def remove(self, shorts: Iterable[str]) -> None:
        """Kill and forget containers; those that are gone already are no error."""
        for short in shorts:
            with contextlib.suppress(errors.NotFound):
                self.client.rm(self.name(short), force=True)
            if short in self._started:
                self._started.remove(short)

    def sample(self, shorts: Iterable[str]) -> Sample:
        """What containers have used so far, by their control groups."""
        used = {short: self.stats(short)["cpu_stats"]["cpu_usage"]["total_usage"] for short in shorts}
        return Sample(time.monotonic(), used)

    def stats(self, short: str) -> dict[str, Any]:
        """As ``Client.stats``."""
        return self.client.stats(self.name(short))

    def output(self, short: str) -> str:
        """All that a container has written so far."""
        return b"".join(data for _, data in self.client.logs(self.name(short))).decode("utf-8", "replace")

    def wait(self, short: str) -> None:
        """Until it has ended: asking again and again would take CPU time from what is measured."""
        self.client.wait(self.name(short))
        self.doing(self._doing)

    def has_ended(self, short: str) -> bool:
        """Raises NotFound."""
        return not self.client.inspect(self.name(short))["State"]["Running"]

    def doing(self, what: str) -> None:
        """Tell the progress bar."""
        self._doing = what
        self._progress(time.monotonic() - self._began, what)

    def sleep_until(self, moment: float) -> None:
        """Until CLOCK_MONOTONIC says ``moment``, in seconds, keeping the progress bar alive."""
        while (left := moment - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
            self._progress(time.monotonic() - self._began, self._doing)
