"""What an enforcer's hard limit does not count (``Traits.not_counted``), for who wants to know what it is worth.

Of the kernel's own books: mm/memory.c and include/linux/mm_types_task.h (what RSS is), Documentation/admin-guide/
cgroup-v2.rst, "Memory Interface Files" (what a group is charged), hugetlb.rst.
"""

from __future__ import annotations

_HUGETLB = "huge pages of hugetlbfs"
CHARGED = (_HUGETLB,)
"""Of one that holds what is charged to a memory group."""
RESIDENT = (
    "files of tmpfs and memfd that are not mapped",
    _HUGETLB,
    "page tables",
    "pages that were swapped out",
    "buffers of sockets and pipes",
    "other kernel memory",
)
"""Of those that sum the resident memory of processes; a memory group behind them counts all but the second."""
