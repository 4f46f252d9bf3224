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

#define RETRY_MS 20 /* after a kill, until all are dead */
#define SOFT_INTERVAL_MS 50 /* between two soft crossings that are told */
#define REST 4 /* times as long as a check took, before the next one */

/* Who crossed, as far as it is known. */
struct culprit {
	bool asked; /* the tracepoint did, for whatever reason */
	u32 source;
	pid_t pid;
	char comm[CONTAINER_MONITOR_COMM_LEN];
};

/*
 * A limit is reached with its last whole page, as in bpf/monitor.bpf.c. Never
 * with none: what has no page yet would be killed for it.
 */
static unsigned long pages_of(u64 bytes)
{
	return bytes ? max_t(u64, bytes >> PAGE_SHIFT, 1) : ULONG_MAX;
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
	WRITE_ONCE(c->soft_pages, pages_of(soft_bytes));
	WRITE_ONCE(c->clear_pages,
		   soft_bytes > margin ?
			   DIV_ROUND_UP_ULL(soft_bytes - margin, PAGE_SIZE) :
			   0);
	WRITE_ONCE(c->hard_pages, pages_of(hard_bytes));
	WRITE_ONCE(c->over_soft, false); /* a new limit is a new crossing */
}

/* The tracepoint writes a suspect only while it is SUSPECT_CLAIMED. */
static void take_suspect(struct container *c, struct suspect *suspect,
			 struct culprit *culprit)
{
	memset(culprit, 0, sizeof(*culprit));
	if (atomic_read_acquire(&suspect->state) != SUSPECT_READY)
		return;
	culprit->asked = true;
	culprit->source = CONTAINER_MONITOR_BY_TRACEPOINT;
	culprit->pid = pid_nr_ns(suspect->pid, c->owner->ns);
	memcpy(culprit->comm, suspect->comm, sizeof(culprit->comm));
	put_pid(suspect->pid);
	suspect->pid = NULL;
	atomic_set_release(&suspect->state, SUSPECT_NONE);
}

static void tell(struct container *c, u32 type, const struct scan *scan,
		 const struct culprit *culprit,
		 struct container_monitor_event *event)
{
	memset(event, 0, sizeof(*event));
	event->size = sizeof(*event);
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
	events_put(&c->owner->events, &c->waiting[type - 1], event);
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

/* Returns whether it told of it. */
static bool check_hard(struct container *c, struct task_struct *first,
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
	return tells;
}

/*
 * How long to wait with telling of a crossing, in jiffies. By the clock of the
 * records: jiffies can lag behind it by many, and then catch up.
 */
static unsigned long soft_wait(struct container *c)
{
	u64 now = ktime_get_ns();

	return c->next_soft > now ? nsecs_to_jiffies(c->next_soft - now) + 1 :
				    0;
}

/*
 * Returns whether it told of anything. A container that goes up and down as
 * fast as it can is told of now and then: a crossing soon after another one
 * only if it lasts.
 */
static bool check_soft(struct container *c, const struct scan *scan,
		       const struct culprit *culprit)
{
	struct container_monitor_event event;

	if (!c->over_soft && scan->pages >= c->soft_pages) {
		if (soft_wait(c))
			return false;
		WRITE_ONCE(c->over_soft, true);
		tell(c, CONTAINER_MONITOR_SOFT, scan, culprit, &event);
		c->next_soft = event.time_ns + SOFT_INTERVAL_MS * NSEC_PER_MSEC;
	} else if (c->over_soft && scan->pages < c->clear_pages) {
		WRITE_ONCE(c->over_soft, false);
		tell(c, CONTAINER_MONITOR_SOFT_CLEARED, scan, culprit, &event);
	} else {
		return false;
	}
	return true;
}

static void scan_and_keep(struct container *c, struct scan *scan)
{
	rss_scan(c, scan);
	c->pages = scan->pages;
	c->processes = scan->processes;
	if (scan->pages > READ_ONCE(c->peak_pages))
		WRITE_ONCE(c->peak_pages, scan->pages);
}

struct outcome {
	bool in_vain;		/* the tracepoint asked, and nothing was told */
	bool hard_in_vain;	/* for the hard limit's sake */
	bool waits;		/* a soft crossing is too soon to be told */
};

/*
 * A check runs in a worker that no limit of the container's holds, so it must
 * not be the container that says how often: what was asked for in vain is not
 * asked for again at once. To the hard limit only the first applies.
 */
static unsigned long set_rest(struct container *c, u64 took_ns,
			      const struct outcome *outcome)
{
	unsigned long rest = nsecs_to_jiffies(REST * took_ns) + 1;
	unsigned long vain = max(rest, msecs_to_jiffies(SOFT_INTERVAL_MS));
	unsigned long now = jiffies, rise;

	rise = outcome->in_vain && !outcome->waits ? vain : rest;
	WRITE_ONCE(c->next_hard, now + (outcome->hard_in_vain ? rest : 0));
	WRITE_ONCE(c->next_rise, now + max(rise, soft_wait(c)));
	WRITE_ONCE(c->next_check, now + (outcome->in_vain ? vain : rest));
	return rest;
}

static bool is_gone(struct task_struct *first)
{
	return !first || !atomic_read(&first->signal->live);
}

/* What follows from a count; returns whether anything was told. */
static bool decide(struct container *c, struct task_struct *first,
		   const struct scan *scan, const struct culprit *culprits)
{
	bool was_over = c->over_soft, told = false, kills = false;

	if (!c->killed) /* a jump over both limits crosses both */
		told = check_soft(c, scan, &culprits[SUSPECT_SOFT]);
	if (scan->pages >= c->hard_pages)
		kills = check_hard(c, first, scan, &culprits[SUSPECT_HARD]);
	/* After the kill: a serial console is slow. */
	if (!was_over && c->over_soft && __ratelimit(&c->soft_lines))
		pr_warn("SOFT LIMIT id=%s pid=%d rss=%llu limit=%llu\n", c->id,
			c->nr, bytes_of(scan->pages), c->soft_bytes);
	if (kills)
		pr_warn("HARD LIMIT id=%s pid=%d rss=%llu limit=%llu\n", c->id,
			c->nr, bytes_of(scan->pages), c->hard_bytes);
	return told || c->killed;
}

static void know_culprit(struct culprit *culprit, const struct culprit *other,
			 const struct scan *scan)
{
	if (culprit->pid)
		return;
	culprit->source = other->pid ? other->source :
				       CONTAINER_MONITOR_BY_CHECK;
	culprit->pid = other->pid ?: scan->largest;
	memcpy(culprit->comm, other->pid ? other->comm : scan->largest_comm,
	       sizeof(culprit->comm));
}

/* Returns after how many jiffies to come again; c->lock is held. */
static unsigned long check(struct container *c)
{
	unsigned long again = msecs_to_jiffies(check_interval_ms);
	u64 began = ktime_get_ns();
	struct outcome outcome = {};
	struct task_struct *first;
	struct culprit culprits[NR_SUSPECTS];
	struct culprit *soft = &culprits[SUSPECT_SOFT];
	struct culprit *hard = &culprits[SUSPECT_HARD];
	struct scan scan;
	bool told = false;

	outcome.hard_in_vain = atomic_xchg(&c->urgent, 0);
	take_suspect(c, &c->suspects[SUSPECT_SOFT], soft);
	take_suspect(c, &c->suspects[SUSPECT_HARD], hard);
	outcome.in_vain = soft->asked || hard->asked;
	first = get_pid_task(c->pid, PIDTYPE_TGID);
	scan_and_keep(c, &scan);
	know_culprit(soft, hard, &scan);
	know_culprit(hard, soft, &scan);
	if (is_gone(first))
		c->ended = !scan.processes;
	else
		told = decide(c, first, &scan, culprits);
	outcome.in_vain &= !told;
	outcome.hard_in_vain &= !c->killed;
	outcome.waits = !c->over_soft && scan.pages >= c->soft_pages;
	if (outcome.waits)
		again = min(again, soft_wait(c));
	if (c->killed || is_gone(first))
		again = msecs_to_jiffies(RETRY_MS);
	if (first)
		put_task_struct(first);
	return max(again, set_rest(c, ktime_get_ns() - began, &outcome));
}

void check_work(struct work_struct *work)
{
	struct container *c = container_of(to_delayed_work(work),
					   struct container, work);
	unsigned long again;
	bool goes_on, ended;

	mutex_lock(&c->lock);
	goes_on = !c->removed && !c->ended;
	again = goes_on ? check(c) : 0;
	ended = c->ended;
	mutex_unlock(&c->lock);
	/* A check that was asked for meanwhile keeps its own, earlier, time. */
	if (goes_on && !ended)
		queue_delayed_work(monitor_wq, &c->work, again);
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

/* c->lock is held. */
void check_count(struct container *c)
{
	struct scan scan;

	if (!c->ended) /* else the last figures stand */
		scan_and_keep(c, &scan);
}

/* c->lock is held. The figures of the last count. */
void check_status(struct container *c, struct container_monitor_status *status)
{
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
