// SPDX-License-Identifier: GPL-2.0
/*
 * How much memory a container has.
 *
 * The exact count walks the pid namespace's own IDR, so it costs what the
 * container is large, and includes nested namespaces (their processes have a
 * number in every ancestor). Between two counts an estimate follows: for each
 * mm the pages it had when the tracepoint last told of it, and their sum.
 */
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/version.h>

#include "monitor.h"

#define MIN_TABLE_BITS 6
#define MAX_TRIES 32 /* slots looked at before a table counts as full */
#define WALK_BATCH 128 /* processes in one RCU section */

/*
 * Before 6.2 each thread keeps up to 64 page faults to itself before it adds
 * them to its mm: a crowd of small processes would seem to have nothing.
 */
static long cached_pages(struct task_struct *leader)
{
	long pages = 0;
#ifdef SPLIT_RSS_COUNTING
	struct task_struct *t;

	for_each_thread(leader, t)
		pages += READ_ONCE(t->rss_stat.count[MM_FILEPAGES]) +
			 READ_ONCE(t->rss_stat.count[MM_ANONPAGES]) +
			 READ_ONCE(t->rss_stat.count[MM_SHMEMPAGES]);
#endif
	return pages;
}

/* What VmRSS in /proc/PID/status is made of: anonymous, file and shmem. */
static unsigned long exact_pages(struct mm_struct *mm)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	/* get_mm_rss() may be off by the per-cpu batch times the CPUs. */
	return percpu_counter_sum_positive(&mm->rss_stat[MM_FILEPAGES]) +
	       percpu_counter_sum_positive(&mm->rss_stat[MM_ANONPAGES]) +
	       percpu_counter_sum_positive(&mm->rss_stat[MM_SHMEMPAGES]);
#else
	return get_mm_rss(mm);
#endif
}

static struct mm_table *alloc_table(unsigned int processes)
{
	unsigned int bits = max_t(unsigned int, MIN_TABLE_BITS,
				  order_base_2(4 * processes + 1));
	struct mm_table *table;

	table = kvzalloc(struct_size(table, slots, 1UL << bits),
			 GFP_KERNEL_ACCOUNT);
	if (table)
		table->bits = bits;
	return table;
}

/* NULL when there is no room left near its place. Lock-free. */
static struct mm_slot *find_slot(struct mm_table *table, struct mm_struct *mm)
{
	unsigned long mask = (1UL << table->bits) - 1;
	unsigned long at = hash_ptr(mm, table->bits);
	int tries;

	for (tries = 0; tries < MAX_TRIES; tries++, at = (at + 1) & mask) {
		struct mm_slot *slot = &table->slots[at];
		struct mm_struct *taken = READ_ONCE(slot->mm);

		if (!taken) {
			taken = cmpxchg(&slot->mm, NULL, mm);
			if (!taken) {
				atomic_inc(&table->used);
				return slot;
			}
		}
		if (taken == mm)
			return slot;
	}
	return NULL;
}

static bool is_crowded(struct mm_table *table)
{
	return atomic_read(&table->used) > 3 << table->bits >> 2;
}

/* Both sides go through here, so the sum stays that of the slots. */
static long set_pages(struct mm_table *table, struct mm_slot *slot, long pages)
{
	long was = atomic_long_xchg(&slot->pages, pages);

	return atomic_long_add_return(pages - was, &table->pages);
}

/*
 * What runs before the first execve in the namespace is a copy of the engine
 * that makes the container, with the engine's pages; a first process that never
 * calls it is the engine's own init. PF_FORKNOEXEC is set by every fork and
 * cleared by execve, so later, forks of the container's own count like others.
 */
static bool is_counted(struct container *c, struct task_struct *leader)
{
	if (!(READ_ONCE(leader->flags) & PF_FORKNOEXEC)) {
		if (!READ_ONCE(c->started))
			WRITE_ONCE(c->started, true);
		return true;
	}
	return READ_ONCE(c->started) &&
	       pid_nr_ns(task_tgid(leader), c->ns) != 1;
}

struct mm_reading {
	struct mm_struct *mm;
	long exact, estimate;
};

/*
 * A zombie leader may have live threads, and find_lock_task_mm() is not
 * exported. The mm stays while its task is locked: no reference is taken, so
 * this can never drop the last one (mmput() would tear down the mm here).
 */
static bool read_mm(struct task_struct *leader, struct mm_reading *reading)
{
	struct task_struct *t;

	reading->mm = NULL;
	for_each_thread(leader, t) {
		task_lock(t);
		reading->mm = t->mm;
		if (t->mm) {
			reading->exact = exact_pages(t->mm);
			reading->estimate = get_mm_rss(t->mm);
		}
		task_unlock(t);
		if (reading->mm)
			return true;
	}
	return false;
}

struct walk {
	struct container *c;
	struct mm_table *table;
	struct scan *scan;
	unsigned int number;
	long pages;
	long correction;
	bool crowded;
};

static void count_process(struct task_struct *leader, void *data)
{
	struct walk *walk = data;
	struct scan *scan = walk->scan;
	struct mm_reading reading;
	struct mm_slot *slot;
	long own;

	if (!is_counted(walk->c, leader) || !read_mm(leader, &reading))
		return;
	scan->processes++;
	slot = find_slot(walk->table, reading.mm);
	if (!slot) {
		walk->crowded = true;
		return;
	}
	own = cached_pages(leader);
	walk->pages += own;
	walk->correction += own;
	if (slot->scan == walk->number)
		return; /* vfork and CLONE_VM: each mm counts once */
	slot->scan = walk->number;
	set_pages(walk->table, slot, reading.estimate);
	walk->pages += reading.exact;
	walk->correction += reading.exact - reading.estimate;
	own += reading.exact;
	if (own > scan->largest_pages) {
		scan->largest_pages = own;
		scan->largest = pid_nr_ns(task_tgid(leader), walk->c->owner->ns);
		strscpy(scan->largest_comm, leader->comm, TASK_COMM_LEN);
	}
}

/* Calls with RCU held; sleeps between batches. */
void rss_for_each_process(struct container *c,
			  void (*call)(struct task_struct *p, void *data),
			  void *data)
{
	unsigned int visited = 0;
	struct pid *pid;
	int nr = 1;

	rcu_read_lock();
	while ((pid = find_ge_pid(nr, c->ns))) {
		struct task_struct *p = pid_task(pid, PIDTYPE_TGID);

		nr = pid_nr_ns(pid, c->ns) + 1;
		if (p)
			call(p, data);
		if (++visited % WALK_BATCH == 0) {
			rcu_read_unlock();
			cond_resched();
			rcu_read_lock();
		}
	}
	rcu_read_unlock();
}

/*
 * What this scan did not meet has gone, except an mm that the tracepoint put
 * there meanwhile (slot->scan is 0): it gets until the next scan.
 */
static void forget_gone(struct mm_table *table, unsigned int number)
{
	unsigned long at;

	for (at = 0; at < 1UL << table->bits; at++) {
		struct mm_slot *slot = &table->slots[at];

		if (!READ_ONCE(slot->mm) || slot->scan == number)
			continue;
		if (slot->scan)
			set_pages(table, slot, 0);
		else
			slot->scan = number;
	}
}

static struct mm_table *current_table(struct container *c)
{
	return rcu_dereference_protected(c->table, lockdep_is_held(&c->lock));
}

static int replace_table(struct container *c, unsigned int processes)
{
	struct mm_table *old = current_table(c);
	struct mm_table *table = alloc_table(processes);

	if (!table)
		return -ENOMEM;
	rcu_assign_pointer(c->table, table);
	if (old)
		kvfree_rcu(old, rcu);
	return 0;
}

/*
 * Count exactly, and set the estimate right. c->lock is held.
 *
 * -ENOMEM and -EAGAIN (the container grew too fast for the table) mean that
 * nothing was found out; the caller tries again.
 */
int rss_scan(struct container *c, struct scan *scan)
{
	struct walk walk = { .c = c, .scan = scan };
	int attempt, error;

	if (!rcu_access_pointer(c->table)) {
		error = replace_table(c, 1);
		if (error)
			return error;
	}
	for (attempt = 0; attempt < 3; attempt++) {
		memset(scan, 0, sizeof(*scan));
		walk.table = current_table(c);
		walk.number = ++c->scans ?: ++c->scans;
		walk.pages = 0;
		walk.correction = 0;
		walk.crowded = false;
		rss_for_each_process(c, count_process, &walk);
		if (!walk.crowded && !is_crowded(walk.table)) {
			forget_gone(walk.table, walk.number);
			WRITE_ONCE(c->exact_minus_estimate, walk.correction);
			scan->pages = max(walk.pages, 0L);
			return 0;
		}
		error = replace_table(c, scan->processes);
		if (error)
			return error;
	}
	return -EAGAIN;
}

/*
 * The tracepoint's side: mm has changed. RCU held, any context. Returns false
 * when only a scan can say how much the container has.
 */
bool rss_note(struct container *c, struct mm_struct *mm, long *pages)
{
	struct mm_table *table = rcu_dereference(c->table);
	struct mm_slot *slot;

	*pages = 0;
	if (!is_counted(c, current->group_leader))
		return true;
	slot = table ? find_slot(table, mm) : NULL;
	if (!slot)
		return false;
	*pages = set_pages(table, slot, get_mm_rss(mm)) +
		 READ_ONCE(c->exact_minus_estimate);
	return true;
}

void rss_free(struct container *c)
{
	kvfree(rcu_dereference_protected(c->table, true));
}
