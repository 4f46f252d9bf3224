"""What the kernel module's immediate path gains over its check every second, and what it costs, in a guest.

Emulated, so only the ratios and the bytes say something. make bench-kmod
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.vm import kernels
from tests.vm.guest import Guest
from tests.vm.jobs import NOT_PARALLEL

RUNS = {"immediate": 20, "check": 20, "cost": 12}
TITLES = {
    "immediate": "MiB over a hard limit of 64 MiB, tracepoint and check",
    "check": "MiB over a hard limit of 64 MiB, check every second alone",
    "cost": "page faults of a process in no container, by containers registered; CPU seconds",
}


def measure(kernel: str, part: str) -> dict[str, list[float]]:
    module, _ = kernels.build_module(kernel)
    # Else the virtual CPUs take turns of up to 10 ms, and a thread that is to be killed goes on until the next one.
    with Guest(kernel, module, parallel=kernel not in NOT_PARALLEL) as guest:
        done = guest.python(f"benchmarks/kmod_inside.py {part} {RUNS[part]}", 400)
    assert done.status == 0, done.output
    figures: dict[str, list[float]] = json.loads(done.output.splitlines()[-1])
    return figures


def show(kernel: str, part: str) -> None:
    print(f"{TITLES[part]} ({kernels.release(kernel)}, emulated, {RUNS[part]} runs)")
    figures = measure(kernel, part)
    reference = statistics.median(next(iter(figures.values())))
    for name, values in figures.items():
        ratio = f"  x{statistics.median(values) / reference:.3f}" if part == "cost" else ""
        print(f"  {name:16} median {statistics.median(values):8.2f}  max {max(values):8.2f}{ratio}")


if __name__ == "__main__":
    for wanted in sys.argv[2:] or RUNS:
        show(sys.argv[1] if len(sys.argv) > 1 else "amd64", wanted)
