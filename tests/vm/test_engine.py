"""The engine inside guests: every enforcer, on control groups version 2, which this machine may not have.

The tests are those of tests/root, which run on this machine as well.
"""

from __future__ import annotations

import pytest
from tests.vm.jobs import Guests, Job

pytestmark = [pytest.mark.vm, pytest.mark.timeout(7200)]

CAUSES = "tests/root/test_causes.py"
MATRIX = f"{CAUSES}::test_every_end_is_booked_as_what_it_is"
UNSEEN = f"{CAUSES}::test_a_crossing_while_no_supervisor_lives_is_booked_by_the_next"
HUGE_READ = f"{CAUSES}::test_one_huge_read_from_tmpfs_is_stopped"
KERNEL_LOG = "tests/root/test_kernel_log.py"
MANY_DESCRIPTORS = "tests/root/test_many_descriptors.py::test_all_works_above_1023"
CPU = "tests/root/test_cpu.py"
CONTROL_GROUPS = [
    "tests/root/test_memory_cgroup.py",
    "tests/root/test_options.py::test_limits_reach_the_control_group",
    "tests/root/test_privileges.py::test_the_number_of_processes_is_limited",
    f"{CPU}::test_options_reach_the_control_group",
    f"{CPU}::test_nice_is_changed_while_it_runs",
    "tests/root/test_shares.py",
    "tests/root/test_peers.py",
    "'tests/root/test_update_memory.py::test_limits_are_raised_and_lowered[cgroup]'",
]
# What depends on the kernel: the signal, the map that is full, the sums.
HOSTILE = "tests/root/test_memory_bpf_hostile.py -k 'every_process or saves_nobody or limit_dies or leaves_room'"
ATTACKS = "tests/root/test_group_attacks.py -m 'not host_variant'"
JOBS = {
    "module": Job("amd64", "engine", "tests/vm/inside/test_engine.py"),
    "ends-kmod": Job("amd64", "engine", f"{MATRIX} {UNSEEN} {HUGE_READ} {KERNEL_LOG} {MANY_DESCRIPTORS}", "kmod"),
    "ends-cgroup": Job("amd64", "enforcers", f"{MATRIX} {UNSEEN} {KERNEL_LOG} {MANY_DESCRIPTORS}", "cgroup"),
    "ends-bpf": Job("amd64", "enforcers", MATRIX, "bpf"),
    "ends-bpf-rt": Job("rt-amd64", "module", HUGE_READ, "bpf"),
    "ends-bpf-6.12": Job("6.12-amd64", "module", MATRIX, "bpf"),
    "hostile-bpf": Job("amd64", "enforcers", HOSTILE),
    "hostile-bpf-rt": Job("rt-amd64", "module", HOSTILE),
    "hostile-bpf-6.12": Job("6.12-amd64", "module", HOSTILE),
    "attacks-limits": Job("amd64", "attacks", f"{ATTACKS} -k 'limit or escapes'", "bpf cgroup"),
    "attacks-ends": Job("amd64", "attacks", f"{ATTACKS} -k 'not limit and not escapes'", "cgroup"),
    "stops": Job("amd64", "attacks", "-m 'not host_variant and not docker' tests/root/test_stop_times.py", "cgroup"),
    "control-groups": Job("amd64", "enforcers", " ".join(CONTROL_GROUPS)),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_inside(guests: Guests, job: Job) -> None:
    guests.wait(job)
