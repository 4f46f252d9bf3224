// SPDX-License-Identifier: GPL-2.0
/*
 * The check of one container, in process context: count, compare, tell, kill.
 * It runs every interval, and at once when the tracepoint or an update asks.
 */
#define pr_fmt(fmt) "container_monitor: " fmt

#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "monitor.h"

#define RETRY_MS 20 /* after a kill, until all are dead; after a failed scan */

/* Who crossed, as far as it is known. */
struct culprit {
	u32 source;
	pid_t pid;
	char comm[CONTAINER_MONITOR_COMM_LEN];
};

static unsigned long pages_of(u64 bytes)
{
	return bytes ? bytes >> PAGE_SHIFT : ULONG_MAX;
}

static u64 bytes_of(unsigned long pages)
{
	return (u64)pages << PAGE_SHIFT;
}

/* c->lock is held, or nobody else knows c yet. */
void check_set_limits(struct container *c, u64 soft_bytes, u64 hard_bytes)
{
	u64 margin = max_t(u64, soft_bytes / 16, SZ_64K);

	c->soft_bytes = soft_bytes;
	c->hard_bytes = hard_bytes;
	/*
	 * Crossed means more than the limit, so a page that the limit covers in
	 * part is one too many: rounding down is exact.
	 */
	WRITE_ONCE(c->soft_pages, pages_of(soft_bytes));
	WRITE_ONCE(c->clear_pages,
		   soft_bytes > margin ?
			   DIV_ROUND_UP_ULL(soft_bytes - margin, PAGE_SIZE) :
			   0);
	WRITE_ONCE(c->hard_pages, pages_of(hard_bytes));
	WRITE_ONCE(c->over_soft, false); /* a new limit is a new crossing */
}

/* The tracepoint writes suspect only while kick is KICK_CLAIMED. */
static void take_suspect(struct container *c, struct culprit *culprit)
{
	memset(culprit, 0, sizeof(*culprit));
	if (atomic_read_acquire(&c->kick) != KICK_READY)
		return;
	culprit->source = CONTAINER_MONITOR_BY_TRACEPOINT;
	culprit->pid = pid_nr_ns(c->suspect, c->owner->ns);
	memcpy(culprit->comm, c->suspect_comm, sizeof(culprit->comm));
	put_pid(c->suspect);
	c->suspect = NULL;
	atomic_set_release(&c->kick, KICK_IDLE);
}

static void tell(struct container *c, u32 type, const struct scan *scan,
		 const struct culprit *culprit,
		 struct container_monitor_event *event)
{
	memset(event, 0, sizeof(*event));
	event->key = c->key;
	event->time_ns = ktime_get_ns();
	event->type = type;
	event->source = culprit->source;
	event->rss_bytes = bytes_of(scan->pages);
	event->limit_bytes = type == CONTAINER_MONITOR_HARD ? c->hard_bytes :
							      c->soft_bytes;
	event->peak_bytes = bytes_of(READ_ONCE(c->peak_pages));
	event->processes = scan->processes;
	if (type != CONTAINER_MONITOR_SOFT_CLEARED) {
		event->pid = culprit->pid;
		memcpy(event->comm, culprit->comm, sizeof(event->comm));
	}
	events_put(&c->owner->events, event);
}

/*
 * The whole thread group: send_sig() to a first thread that has ended, while
 * others live, has no effect. priv is 1: without it a namespace's init ignores
 * signals that it has no handler for (SIGNAL_UNKILLABLE).
 */
static void kill_process(struct task_struct *leader, void *unused)
{
	kill_pid(task_tgid(leader), SIGKILL, 1);
}

/*
 * SIGKILL to the first process ends the namespace, but only once it has been
 * scheduled and has got to zap_pid_ns_processes(): what the others allocate
 * until then is overshoot, so they get theirs now.
 */
static void kill_all(struct container *c, struct task_struct *first)
{
	kill_process(first, NULL);
	rss_for_each_process(c, kill_process, NULL);
}

static void check_hard(struct container *c, struct task_struct *first,
		       const struct scan *scan, const struct culprit *culprit)
{
	/* Whoever else is ending it already was first: it is not our kill. */
	bool tells = !c->killed && !(READ_ONCE(first->signal->flags) &
				     SIGNAL_GROUP_EXIT);

	if (tells) {
		WRITE_ONCE(c->killed, true);
		/* Before the signal: who reaps it then finds the record. */
		tell(c, CONTAINER_MONITOR_HARD, scan, culprit, &c->hard);
	}
	kill_all(c, first);
	if (tells) /* after it: a serial console is slow */
		pr_warn("HARD LIMIT id=%s pid=%d rss=%llu limit=%llu\n", c->id,
			c->nr, bytes_of(scan->pages), c->hard_bytes);
}

static void check_soft(struct container *c, const struct scan *scan,
		       const struct culprit *culprit)
{
	struct container_monitor_event event;

	if (!c->over_soft && scan->pages > c->soft_pages) {
		WRITE_ONCE(c->over_soft, true);
		tell(c, CONTAINER_MONITOR_SOFT, scan, culprit, &event);
		/* A container can go up and down as often as it likes. */
		if (__ratelimit(&c->soft_lines))
			pr_warn("SOFT LIMIT id=%s pid=%d rss=%llu limit=%llu\n",
				c->id, c->nr, bytes_of(scan->pages),
				c->soft_bytes);
	} else if (c->over_soft && scan->pages < c->clear_pages) {
		WRITE_ONCE(c->over_soft, false);
		tell(c, CONTAINER_MONITOR_SOFT_CLEARED, scan, culprit, &event);
	}
}

static int scan_and_keep(struct container *c, struct scan *scan)
{
	int error = rss_scan(c, scan);

	if (error)
		return error;
	c->pages = scan->pages;
	c->processes = scan->processes;
	if (scan->pages > READ_ONCE(c->peak_pages))
		WRITE_ONCE(c->peak_pages, scan->pages);
	return 0;
}

static bool is_gone(struct task_struct *first)
{
	return !first || !atomic_read(&first->signal->live);
}

/* Returns after how many milliseconds to come again; c->lock is held. */
static unsigned int check(struct container *c)
{
	struct task_struct *first;
	struct culprit culprit;
	struct scan scan;
	unsigned int again = check_interval_ms;

	take_suspect(c, &culprit);
	first = get_pid_task(c->pid, PIDTYPE_TGID);
	if (scan_and_keep(c, &scan)) {
		again = RETRY_MS;
		goto out;
	}
	if (!culprit.pid) {
		culprit.pid = scan.largest;
		memcpy(culprit.comm, scan.largest_comm, sizeof(culprit.comm));
	}
	if (is_gone(first)) {
		c->ended = !scan.processes;
		again = RETRY_MS;
		goto out;
	}
	if (!c->killed) /* a jump over both limits crosses both */
		check_soft(c, &scan, &culprit);
	if (scan.pages > c->hard_pages)
		check_hard(c, first, &scan, &culprit);
	if (c->killed)
		again = RETRY_MS;
out:
	if (first)
		put_task_struct(first);
	return again;
}

void check_work(struct work_struct *work)
{
	struct container *c = container_of(to_delayed_work(work),
					   struct container, work);
	unsigned int again;
	bool goes_on, ended;

	mutex_lock(&c->lock);
	goes_on = !c->removed && !c->ended;
	again = goes_on ? check(c) : 0;
	ended = c->ended;
	mutex_unlock(&c->lock);
	/* A check that was asked for meanwhile keeps its own, earlier, time. */
	if (goes_on && !ended)
		queue_delayed_work(monitor_wq, &c->work,
				   msecs_to_jiffies(again));
	else if (goes_on)
		registry_ended(c);
}

static bool is_alive(struct pid *pid)
{
	bool alive;

	rcu_read_lock();
	alive = pid_task(pid, PIDTYPE_TGID);
	rcu_read_unlock();
	return alive;
}

/* c->lock is held, and c->owner valid. */
void check_status(struct container *c, struct container_monitor_status *status)
{
	struct scan scan;

	if (!c->ended)
		scan_and_keep(c, &scan); /* else the last figures stand */
	memset(status, 0, sizeof(*status));
	status->key = c->key;
	status->state = (c->over_soft ? CONTAINER_MONITOR_OVER_SOFT : 0) |
			(c->killed ? CONTAINER_MONITOR_KILLED : 0) |
			(c->ended ? CONTAINER_MONITOR_ENDED : 0);
	status->rss_bytes = bytes_of(c->pages);
	status->peak_bytes = bytes_of(READ_ONCE(c->peak_pages));
	status->soft_bytes = c->soft_bytes;
	status->hard_bytes = c->hard_bytes;
	status->scans = c->scans;
	status->processes = c->processes;
	status->pid = is_alive(c->pid) ? c->nr : 0;
	status->hard = c->hard;
	strscpy(status->id, c->id, sizeof(status->id));
}
