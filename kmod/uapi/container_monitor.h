/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/container_monitor: soft and hard limits on the resident memory of
 * containers. docs/kmod-abi.md describes every call, field and error.
 *
 * All structures have the same layout on 32 and 64 bit, no implicit padding,
 * and reserved fields that must be zero. They grow at their ends: a call carries
 * the size that its caller knows (_IOC_SIZE), a record its own. What the one side
 * does not know yet is zero on the other.
 */
#ifndef _UAPI_CONTAINER_MONITOR_H
#define _UAPI_CONTAINER_MONITOR_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define CONTAINER_MONITOR_VERSION	2

#define CONTAINER_MONITOR_ID_LEN	136	/* the terminating NUL included */
#define CONTAINER_MONITOR_COMM_LEN	16

/* container_monitor_version.features */
#define CONTAINER_MONITOR_FEATURE_TRACEPOINT	(1U << 0)

struct container_monitor_version {
	__u32 version;
	__u32 features;
	__u32 interval_ms;
	__u32 registrations;	/* of this open file */
	__u64 dropped;		/* events of this open file lost so far */
};

struct container_monitor_register {
	__s32 pid;		/* first process, in the caller's pid namespace */
	__u32 flags;		/* 0 */
	__u64 key;		/* the caller's name for it, not 0 */
	__u64 soft_bytes;	/* 0: none */
	__u64 hard_bytes;	/* 0: none */
	char id[CONTAINER_MONITOR_ID_LEN];	/* what the kernel log calls it */
};

struct container_monitor_update {
	__u32 flags;		/* 0 */
	__u32 reserved;		/* 0 */
	__u64 key;
	__u64 soft_bytes;
	__u64 hard_bytes;
};

/* container_monitor_status.flags, on the way in */
#define CONTAINER_MONITOR_NEXT		(1U << 0)

/* container_monitor_status.state */
#define CONTAINER_MONITOR_OVER_SOFT	(1U << 0)
#define CONTAINER_MONITOR_KILLED	(1U << 1)
#define CONTAINER_MONITOR_ENDED		(1U << 2)

struct container_monitor_event {
	__u32 size;		/* of this record: the next one begins there */
	__u32 type;
	__u64 key;
	__u64 time_ns;		/* CLOCK_MONOTONIC */
	__u64 rss_bytes;	/* the whole container */
	__u64 limit_bytes;
	__u64 peak_bytes;
	__u64 dropped;		/* events of this open file lost so far */
	__u32 source;
	__u32 processes;
	__s32 pid;		/* who crossed; 0: not known */
	__u32 reserved;		/* 0 */
	char comm[CONTAINER_MONITOR_COMM_LEN];
};

enum container_monitor_event_type {
	CONTAINER_MONITOR_SOFT		= 1,
	CONTAINER_MONITOR_SOFT_CLEARED	= 2,
	CONTAINER_MONITOR_HARD		= 3,
};

enum container_monitor_source {
	CONTAINER_MONITOR_BY_CHECK	= 0,
	CONTAINER_MONITOR_BY_TRACEPOINT	= 1,
};

struct container_monitor_status {
	__u64 key;
	__u32 flags;		/* in: 0 or CONTAINER_MONITOR_NEXT; out: 0 */
	__u32 state;
	__u64 rss_bytes;
	__u64 peak_bytes;
	__u64 soft_bytes;
	__u64 hard_bytes;
	__u64 scans;
	__u32 processes;
	__s32 pid;		/* first process; 0: it has gone */
	/*
	 * Type 0: did not happen. It stays as large as it is here: what later
	 * versions add to records, they add to the end of this structure.
	 */
	struct container_monitor_event hard;
	char id[CONTAINER_MONITOR_ID_LEN];
};

#define CONTAINER_MONITOR_MAGIC		0xCB
#define CONTAINER_MONITOR_GET_VERSION \
	_IOR(CONTAINER_MONITOR_MAGIC, 0, struct container_monitor_version)
#define CONTAINER_MONITOR_REGISTER \
	_IOW(CONTAINER_MONITOR_MAGIC, 1, struct container_monitor_register)
#define CONTAINER_MONITOR_UPDATE \
	_IOW(CONTAINER_MONITOR_MAGIC, 2, struct container_monitor_update)
#define CONTAINER_MONITOR_UNREGISTER \
	_IOWR(CONTAINER_MONITOR_MAGIC, 3, struct container_monitor_status)
#define CONTAINER_MONITOR_STAT \
	_IOWR(CONTAINER_MONITOR_MAGIC, 4, struct container_monitor_status)

#endif /* _UAPI_CONTAINER_MONITOR_H */
