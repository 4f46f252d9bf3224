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
#define MONITOR_LINE __attribute__((aligned(64))) /* begins a cache line */

enum monitor_kind {
	MONITOR_SOFT = 1,
	MONITOR_SOFT_CLEARED = 2,
	MONITOR_HARD = 3,
	MONITOR_OOM_KILL = 4,
};

/* Why a container is ended by its hard limit. */
enum monitor_reason {
	MONITOR_CROSSED = 0, /* its memory reached it */
	MONITOR_UNCOUNTED = 1, /* it has a process that there was no room to count */
};

/* What user space runs the program "act" for, its first argument; the second is the element, or the key. */
enum monitor_act {
	MONITOR_LOOK = 1, /* tell what is to be told of a container and has not been */
	MONITOR_UPDATED = 2, /* the same after its soft limit has changed */
	MONITOR_FORGET = 3, /* an entry of "mms" */
};

/*
 * One container: an element of the array "containers", which user space maps. What every page fault writes, what every
 * page fault reads and what only a crossing touches are on cache lines of their own: else a container's faults would
 * slow down those of its neighbour in the array, and its own on other CPUs.
 */
struct monitor_container {
	/* written by the program, with atomic operations */
	long long total MONITOR_LINE; /* sum over "mms" of this container's entries */
	long long peak;
	long long processes; /* how many entries of "mms" are this container's */
	long long uncounted; /* how many processes found no room there */

	/* written by user space, before the container is in "slots" and later by single stores */
	long long soft MONITOR_LINE;
	long long hard;
	long long clear; /* below this a soft crossing is over */
	unsigned int namespace_inode; /* before the container is in "slots" only */
	/* written by the program */
	unsigned int watching; /* set by the first execve in the container's pid namespace */
	unsigned int soft_fired; /* it is over its soft limit, and that has been told */
	unsigned int hard_begun; /* turned from 0 to 1 by whoever writes the crossing; from here on everybody is killed */
	unsigned int hard_fired; /* the crossing is written: what user space reads */
	unsigned int born; /* by user space, as namespace_inode: its first process, in clock ticks after boot; 0: not known */
	unsigned long long soft_time; /* when it last told of a soft crossing, or tried to */

	/* the crossing of the hard limit, written once */
	unsigned long long hard_time MONITOR_LINE;
	long long hard_pages;
	long long hard_limit;
	char hard_comm[MONITOR_COMM_BYTES];
	unsigned int hard_pid; /* 0: nobody in particular */
	unsigned int hard_reason;

	/* written by user space before the container is in "slots" */
	unsigned char id[MONITOR_ID_BYTES] MONITOR_LINE; /* all zero: the element is free */
};

/* One record of the ring buffer "events". */
struct monitor_event {
	unsigned long long time;
	long long pages;
	long long peak;
	long long limit;
	unsigned int kind;
	unsigned int reason; /* of MONITOR_HARD; of others, MONITOR_UNCOUNTED says that the figures are too low */
	unsigned int pid; /* the process, as the supervisor's pid namespace numbers it */
	unsigned int padding;
	char comm[MONITOR_COMM_BYTES];
	unsigned char id[MONITOR_ID_BYTES];
};

/* Which process was sent SIGKILL, and when. Two processes may have one address space. */
struct monitor_kill {
	unsigned long long time;
	unsigned long long process;
};

/* One live address space, in the hash "mms" by the address of its mm_struct. */
struct monitor_mm {
	long long pages[4]; /* by member of the kernel's rss_stat; that of swap entries stays 0 */
	unsigned long long key; /* 0 once it has been dismissed: the element may become another one's at any time */
	unsigned long long leader; /* the task whose namespace was last compared with namespace_inode */
	struct monitor_kill kill;
	unsigned int slot; /* index of its container */
	unsigned int namespace_inode; /* of its container: the slot may have a new one */
	unsigned int unseen; /* pages that may have come and gone since the last sum of all members */
	unsigned int padding;
};

#endif
