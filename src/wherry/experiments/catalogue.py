"""The experiments there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.experiments.autogroup import Autogroup
from wherry.experiments.cpu_vs_io import CpuVsIo
from wherry.experiments.fairness import Fairness
from wherry.experiments.memory import Memory
from wherry.experiments.multicore import NiceMulticore
from wherry.experiments.nice import Nice
from wherry.experiments.quota import Quota
from wherry.experiments.start import Start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wherry.experiments.model import Experiment

_ALL: tuple[Experiment, ...] = (
    *(Nice(), NiceMulticore(), CpuVsIo(), Autogroup()),
    *(Quota(), Memory(), Fairness(), Start()),
)
EXPERIMENTS: Mapping[str, Experiment] = {each.name: each for each in _ALL}
