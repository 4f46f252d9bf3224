"""The engine inside guests: every enforcer, on control groups version 2, which this machine may not have.

The tests are those of tests/root, which run on this machine as well.
"""

from __future__ import annotations

import pytest
from tests.vm.jobs import Guests, Job
from tests.vm.kernels import UML

pytestmark = [pytest.mark.vm, pytest.mark.timeout(7200)]

CAUSES = "tests/root/supervisor/containers/test_causes.py"
MATRIX = f"{CAUSES}::test_every_end_is_booked_as_what_it_is"
UNSEEN = f"{CAUSES}::test_a_crossing_while_no_supervisor_lives_is_booked_by_the_next"
HUGE_READ = f"{CAUSES}::test_one_huge_read_from_tmpfs_is_stopped"
WATCH = "tests/root/supervisor/memory_watch"
KERNEL_LOG = f"{WATCH}/test_kernel_log.py"
LIFECYCLE = "tests/root/supervisor/lifecycle"
MANY_DESCRIPTORS = "tests/root/supervisor/test_many_descriptors.py::test_all_works_above_1023"
CPU = "tests/root/runtime/test_cpu.py"
CONTROL_GROUPS = [
    "tests/root/runtime/test_options.py::test_limits_reach_the_control_group",
    "tests/root/runtime/test_privileges.py::test_the_number_of_processes_is_limited",
    "tests/root/api/test_peers.py",
    f"'{LIFECYCLE}/test_update_memory.py::test_limits_are_raised_and_lowered[cgroup]'",
]
ATTACKS = "tests/root/runtime/test_group_attacks.py"
MEMORY_ATTACKS = f"{ATTACKS}::test_limits_of_memory_and_processes_hold {ATTACKS}::test_a_hard_limit_ends_what_is_frozen"
NEED_CPUSET = ["test_limits_of_the_cpu_hold_and_are_changed", "test_containers_of_the_version_before_are_taken_over"]
OTHER_ATTACKS = f"-m 'not host_variant' {ATTACKS} " + " ".join(f"--deselect {ATTACKS}::{each}" for each in NEED_CPUSET)
CPUS = [
    f"{CPU}::test_options_reach_the_control_group",
    f"{CPU}::test_nice_is_changed_while_it_runs",
    "tests/root/runtime/test_shares.py",
    *(f"{ATTACKS}::{each}" for each in NEED_CPUSET),
]
CONTRACT = "tests/root/memory/test_contract.py tests/root/memory/test_contract_supervised.py -m 'not host_variant'"
# What depends on the kernel: the signal, the map that is full, the sums.
HOSTILE = (
    f"tests/root/memory/test_bpf_hostile.py {LIFECYCLE}/test_enforcement_takeover.py"
    " -k 'every_process or saves_nobody or limit_dies or leaves_room or slept or let_go'"
)
USERNS = "tests/root/runtime/test_user_namespaces.py"
JOBS = {
    "module": Job("amd64", "engine", "tests/vm/inside/test_engine.py"),
    "ends-kmod": Job("amd64", "engine", f"{MATRIX} {UNSEEN} {HUGE_READ} {KERNEL_LOG} {MANY_DESCRIPTORS}", "kmod"),
    "ends-cgroup": Job(UML, "engine", f"{MATRIX} {UNSEEN} {KERNEL_LOG} {MANY_DESCRIPTORS}", "cgroup"),
    "ends-bpf": Job("amd64", "enforcers", MATRIX, "bpf"),
    "ends-bpf-rt": Job("rt-amd64", "module", HUGE_READ, "bpf"),
    "ends-bpf-6.12": Job("6.12-amd64", "module", MATRIX, "bpf"),
    "attacks-bpf": Job("amd64", "enforcers", MEMORY_ATTACKS, "bpf"),
    "attacks-cgroup": Job(UML, "attacks", OTHER_ATTACKS, "cgroup"),
    "stops": Job(
        UML,
        "attacks",
        f"-m 'not host_variant and not docker' {LIFECYCLE}/test_stop_times.py {LIFECYCLE}/test_pause.py",
        "cgroup",
    ),
    "control-groups": Job(UML, "engine", " ".join(CONTROL_GROUPS)),
    "memory-cgroup": Job(UML, "engine", "tests/root/memory/test_cgroup.py -k 'not comes_after'", "cgroup"),
    "cpus": Job("amd64", "enforcers", " ".join(CPUS), "cgroup"),
    "hostile-bpf": Job("amd64", "enforcers", HOSTILE),
    "hostile-bpf-rt": Job("rt-amd64", "module", HOSTILE),
    "hostile-bpf-6.12": Job("6.12-amd64", "module", HOSTILE),
    "contract-kmod": Job("amd64", "contract", CONTRACT, "kmod"),
    "contract-cgroup": Job("amd64", "contract", CONTRACT, "cgroup"),
    "userns": Job(UML, "userns", f"--basetemp=/disk/tests {USERNS}"),
    "userns-6.12": Job("6.12-amd64", "module", USERNS),
    "soft-limits": Job("amd64", "contract", f"{WATCH}/test_soft_limits.py -k 'not swapping'", "bpf cgroup"),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_inside(guests: Guests, job: Job) -> None:
    guests.wait(job)
