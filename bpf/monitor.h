/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What monitor.bpf.c and src/wherry/memory/bpf_layout.py both know. Sizes are in base pages, times are
 * CLOCK_MONOTONIC in nanoseconds. tests/unit/memory/test_bpf_layout.py compiles this file and compares.
 */
#ifndef WHERRY_MONITOR_H
#define WHERRY_MONITOR_H

#define MONITOR_ID_BYTES 32
#define MONITOR_COMM_BYTES 16
#define MONITOR_NO_LIMIT 0x7fffffffffffffffLL

enum monitor_kind {
	MONITOR_SOFT = 1,
	MONITOR_SOFT_CLEARED = 2,
	MONITOR_HARD = 3,
	MONITOR_OOM_KILL = 4,
};

/* One container: an element of the array "containers", which user space maps. */
struct monitor_container {
	/* written by the program, with atomic operations */
	long long total; /* sum over "mms" of this container's entries */
	long long peak;
	long long processes; /* how many entries of "mms" are this container's */
	/* written by user space, before the container is in "slots" and later by single stores */
	long long soft;
	long long hard;
	long long clear; /* below this a soft crossing is over */
	/* the crossing of the hard limit, written once, by whoever turned hard_fired from 0 to 1 */
	unsigned long long hard_time;
	long long hard_pages;
	long long hard_limit;
	char hard_comm[MONITOR_COMM_BYTES];
	unsigned int hard_pid;
	unsigned int hard_fired;
	unsigned int soft_fired;
	unsigned int watching; /* set by the first execve in the container's pid namespace */
	/* written by user space before the container is in "slots" */
	unsigned int namespace_inode;
	unsigned int padding;
	unsigned long long soft_time; /* written by the program: when it last told of a soft crossing */
	unsigned char id[MONITOR_ID_BYTES]; /* all zero: the element is free */
};

/* One record of the ring buffer "events". */
struct monitor_event {
	unsigned long long time;
	long long pages;
	long long peak;
	long long limit;
	unsigned int kind;
	unsigned int pid; /* the process, as the supervisor's pid namespace numbers it */
	char comm[MONITOR_COMM_BYTES];
	unsigned char id[MONITOR_ID_BYTES];
};

/* One live address space, in the hash "mms" by the address of its mm_struct. */
struct monitor_mm {
	long long pages;
	long long folded;
	unsigned int slot; /* index of its container */
	unsigned int namespace_inode; /* of its container: the slot may have a new one */
	unsigned int skipped; /* events since the last exact sum */
	unsigned int killed;
};

#endif
