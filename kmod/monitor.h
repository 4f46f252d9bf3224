/* SPDX-License-Identifier: GPL-2.0 */
/*
 * container_monitor: what its parts share.
 *
 * device.c      open, ioctl, module init and exit
 * registry.c    which containers there are: add, find, remove, free
 * check.c       the check of one container: compare, tell, kill
 * rss.c         how much memory a container has, exactly and estimated
 * tracepoint.c  the immediate path: ask for a check the moment it is due
 * events.c      the records of one open file
 *
 * Locks: registry_lock and container.lock are mutexes, since whatever decides
 * runs in process context, and neither is taken inside the other: counting one
 * container holds up nobody who wants another. event_queue.lock is a spinlock
 * inside both, and event_queue.reader a mutex for readers alone, who may wait
 * for their own memory under it. The tracepoint takes none; it reads the hash
 * and the estimates under RCU.
 */
#ifndef _MONITOR_H
#define _MONITOR_H

#include <linux/atomic.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/mm_types_task.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "uapi/container_monitor.h"

struct file;
struct poll_table_struct;

/* One memory descriptor in a container's estimate. */
struct mm_slot {
	struct mm_struct *mm;	/* an identity, never dereferenced from here */
	unsigned int scan;	/* last one that met it; 0: none yet */
	atomic_long_t pages[NR_MM_COUNTERS]; /* of each kind, as last read */
	atomic_long_t hidden;	/* what its threads had not yet told of (to 6.1) */
};

/* Open addressing; slots are taken with cmpxchg and never given back. */
struct mm_table {
	struct rcu_head rcu;
	atomic_long_t pages;	/* the sum of the slots: the estimate */
	atomic_t used;
	atomic_t live;		/* slots of those that still are; roughly */
	long slack;		/* what they may hide beside that: more threads */
	bool is_rough;		/* some slots hold what was read without care */
	unsigned int bits;
	struct mm_slot slots[];
};

enum suspect_state { SUSPECT_NONE, SUSPECT_CLAIMED, SUSPECT_READY };

/* Who made the tracepoint ask for a check. */
struct suspect {
	atomic_t state;		/* enum suspect_state */
	struct pid *pid;	/* owned by whoever moved state last */
	char comm[CONTAINER_MONITOR_COMM_LEN];
};

enum { SUSPECT_SOFT, SUSPECT_HARD, NR_SUSPECTS };

/* What the tracepoint tells of: pages of one kind came or went. */
struct change {
	struct mm_struct *mm;
	struct task_struct *task;	/* one of its; NULL: it has none any more */
	int member;
};

/* What the estimate says to it. */
enum estimate {
	ESTIMATE_NONE,		/* nothing: it is not counted */
	ESTIMATE_FAR,
	ESTIMATE_NEAR,		/* of a limit, and too rough for that */
	ESTIMATE_FULL,		/* there is no room for another mm */
};

/* A container's record of one type, waiting to be read. */
struct event_slot {
	struct list_head node;	/* in event_queue.waiting, or empty */
	u64 number;		/* of the record among those of its queue */
	struct container_monitor_event event;
};

struct container {
	struct list_head node;		/* in open_file, by registry_lock */
	struct hlist_node hash_node;	/* by registry_lock, read under RCU */
	struct open_file *owner;	/* valid until removed is set */
	refcount_t references;		/* the registry's, and each call's */
	struct rcu_work free_work;
	struct delayed_work work;	/* check_work() */

	u64 key;
	char id[CONTAINER_MONITOR_ID_LEN];
	struct pid *pid;		/* first process; pins ns as well */
	struct pid_namespace *ns;
	pid_t nr;			/* as the owner's namespace numbers it */

	struct mutex lock;		/* what follows, except where noted */
	bool removed;			/* nothing may be told or killed */
	bool ended;
	bool over_soft;			/* read by the tracepoint */
	bool killed;			/* read by the tracepoint */
	bool started;			/* a command has been executed; either side sets it */
	unsigned long soft_pages;	/* ULONG_MAX: none; read by the tracepoint */
	unsigned long clear_pages;	/* a soft crossing is over below this */
	unsigned long hard_pages;
	unsigned long peak_pages;	/* raised by the tracepoint as well */
	u64 soft_bytes, hard_bytes;	/* as they were given */
	u64 next_soft;			/* ktime_get_ns(); no crossing is told before */
	unsigned int scans;
	unsigned long pages;		/* at the last scan, as are processes */
	unsigned int processes;
	struct container_monitor_event hard;
	struct ratelimit_state soft_lines;
	struct event_slot waiting[CONTAINER_MONITOR_HARD]; /* by type - 1 */

	struct mm_table __rcu *table;	/* replaced under lock */

	/* In jiffies; the tracepoint, which reads them, gets no check before. */
	unsigned long next_check;
	unsigned long next_hard;	/* because of the hard limit */
	unsigned long next_rise;	/* because the soft limit is crossed */

	struct suspect suspects[NR_SUSPECTS]; /* for the hard limit's sake, or not */
	atomic_t urgent;		/* the hard limit seems to be reached */
};

/* What one exact count found. */
struct scan {
	unsigned long pages;
	unsigned int processes;
	long largest_pages;
	pid_t largest;			/* as the owner's namespace numbers it */
	char largest_comm[CONTAINER_MONITOR_COMM_LEN];
};

struct event_queue {
	spinlock_t lock;		/* the fields below, and event slots */
	struct mutex reader;		/* one at a time copies to user space */
	wait_queue_head_t readers;
	struct list_head waiting;	/* event_slot.node, the oldest first */
	u64 last_number;
	u64 reading;			/* the record on its way to a reader */
	bool is_replaced;		/* there is a later one for that already */
	u64 dropped;
};

struct open_file {
	struct list_head containers;	/* by registry_lock */
	unsigned int count;		/* by registry_lock */
	struct pid_namespace *ns;	/* of who opened it: numbers are its */
	struct event_queue events;
};

extern unsigned int check_interval_ms;
extern struct workqueue_struct *monitor_wq;

/* registry.c */
int registry_add(struct open_file *owner,
		 const struct container_monitor_register *request);
int registry_update(struct open_file *owner,
		    const struct container_monitor_update *request);
int registry_status(struct open_file *owner,
		    struct container_monitor_status *status);
int registry_remove(struct open_file *owner,
		    struct container_monitor_status *status);
unsigned int registry_count(struct open_file *owner);
void registry_close(struct open_file *owner);
void registry_ended(struct container *c);
void registry_exit(void);
bool registry_has_live(void);
void registry_for_namespace(struct pid_namespace *ns,
			    void (*call)(struct container *c, void *data),
			    void *data);

/* check.c */
void check_work(struct work_struct *work);
void check_set_limits(struct container *c, u64 soft_bytes, u64 hard_bytes);
void check_count(struct container *c);
void check_status(struct container *c, struct container_monitor_status *status);

/* rss.c */
int rss_init(struct container *c);
void rss_scan(struct container *c, struct scan *scan);
enum estimate rss_note(struct container *c, const struct change *change,
		       long *pages);
void rss_for_each_process(struct container *c,
			  void (*call)(struct task_struct *p, void *data),
			  void *data);
void rss_free(struct container *c);

/* tracepoint.c */
int tracepoint_init(void);
bool tracepoint_is_offered(void);
int tracepoint_enable(void);
void tracepoint_disable_later(void);
void tracepoint_exit(void);

/* events.c */
void events_init(struct event_queue *q);
void events_put(struct event_queue *q, struct event_slot *slot,
		const struct container_monitor_event *event);
void events_forget(struct event_queue *q, struct event_slot *slot);
u64 events_dropped(struct event_queue *q);
ssize_t events_read(struct event_queue *q, struct file *file, char __user *to,
		    size_t size);
__poll_t events_poll(struct event_queue *q, struct file *file,
		     struct poll_table_struct *wait);

#endif /* _MONITOR_H */
