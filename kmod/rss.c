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
#define MAX_ATTEMPTS 3 /* at a scan, with larger and larger tables */
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

/* What VmRSS in /proc/PID/status is made of. */
static const int counted_kinds[] = { MM_FILEPAGES, MM_ANONPAGES, MM_SHMEMPAGES };

#define for_each_kind(i) for ((i) = 0; (i) < ARRAY_SIZE(counted_kinds); (i)++)

/*
 * From 6.2 on each CPU keeps up to a batch of pages of each counter to itself,
 * and get_mm_counter() does not see them. The exact sum takes a raw spinlock:
 * the tracepoint may ask for it, on PREEMPT_RT too.
 */
static long pages_of_kind(struct mm_struct *mm, int member, bool is_exact)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	if (is_exact)
		return percpu_counter_sum_positive(&mm->rss_stat[member]);
#endif
	return get_mm_counter(mm, member);
}

/* How far one CPU's share can be from what get_mm_counter() sees, in pages. */
static long batch(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	return ARRAY_SIZE(counted_kinds) * percpu_counter_batch;
#else
	return 0; /* there a thread's share it is: cached_pages() */
#endif
}

/* NULL rather than that somebody is killed for it, or a warning. */
static struct mm_table *alloc_table(unsigned int processes)
{
	unsigned int bits = max_t(unsigned int, MIN_TABLE_BITS,
				  order_base_2(4 * processes + 1));
	struct mm_table *table;

	table = kvzalloc(struct_size(table, slots, 1UL << bits),
			 GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL |
				 __GFP_NOWARN);
	if (table)
		table->bits = bits;
	return table;
}

static struct mm_slot *next_slot(struct mm_table *table, struct mm_struct *mm,
				 int number)
{
	unsigned long at = hash_ptr(mm, table->bits) + number;

	return &table->slots[at & ((1UL << table->bits) - 1)];
}

/* NULL when there is no room left near its place. Lock-free. */
static struct mm_slot *take_slot(struct mm_table *table, struct mm_struct *mm,
				 bool *is_new)
{
	int number;

	*is_new = false;
	for (number = 0; number < MAX_TRIES; number++) {
		struct mm_slot *slot = next_slot(table, mm, number);
		struct mm_struct *taken = READ_ONCE(slot->mm);

		if (!taken) {
			taken = cmpxchg(&slot->mm, NULL, mm);
			if (!taken) {
				atomic_inc(&table->used);
				atomic_inc(&table->live);
				*is_new = true;
				return slot;
			}
		}
		if (taken == mm)
			return slot;
	}
	return NULL;
}

/* NULL when it has none. */
static struct mm_slot *find_slot(struct mm_table *table, struct mm_struct *mm)
{
	int number;

	for (number = 0; number < MAX_TRIES; number++) {
		struct mm_slot *slot = next_slot(table, mm, number);
		struct mm_struct *taken = READ_ONCE(slot->mm);

		if (taken == mm)
			return slot;
		if (!taken)
			return NULL;
	}
	return NULL;
}

static bool is_crowded(struct mm_table *table)
{
	return atomic_read(&table->used) > 3 << table->bits >> 2;
}

/* All changes of a slot go through here, so the sum stays that of the slots. */
static void set(struct mm_table *table, atomic_long_t *value, long pages)
{
	long was;

	/* The sum is one hot line for all of the container's CPUs. */
	if (atomic_long_read(value) == pages)
		return;
	was = atomic_long_xchg(value, pages);
	atomic_long_add(pages - was, &table->pages);
}

/*
 * To 6.1: what a thread had kept to itself at the last scan and tells of now is
 * in hidden already.
 */
static void tell_hidden(struct mm_table *table, struct mm_slot *slot, long told)
{
	long hidden = atomic_long_read(&slot->hidden);
	long part = min(told, hidden);

	if (part > 0 && atomic_long_cmpxchg(&slot->hidden, hidden,
					    hidden - part) == hidden)
		atomic_long_sub(part, &table->pages);
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
	/* Not task_tgid(): of a fork that fails, signal goes without RCU. */
	return READ_ONCE(c->started) && pid_nr_ns(task_pid(leader), c->ns) != 1;
}

struct mm_reading {
	struct mm_struct *mm;
	long pages[ARRAY_SIZE(counted_kinds)];
};

/*
 * A zombie leader may have live threads, and find_lock_task_mm() is not
 * exported. The mm stays while its task is locked: no reference is taken, so
 * this can never drop the last one (mmput() would tear down the mm here).
 */
static bool read_mm(struct task_struct *leader, struct mm_reading *reading)
{
	struct task_struct *t;
	int i;

	reading->mm = NULL;
	for_each_thread(leader, t) {
		task_lock(t);
		reading->mm = t->mm;
		if (t->mm)
			for_each_kind(i)
				reading->pages[i] = pages_of_kind(
					t->mm, counted_kinds[i], true);
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
	long doubtful; /* had no slot: an mm is in it once for each process */
	long slack;
};

/* Returns its pages, 0 when another process of the same mm was met before. */
static long count_mm(struct walk *walk, const struct mm_reading *reading,
		     long own)
{
	struct mm_slot *slot;
	bool is_new;
	long sum = 0;
	int i;

	for_each_kind(i)
		sum += reading->pages[i];
	slot = take_slot(walk->table, reading->mm, &is_new);
	if (!slot) {
		walk->doubtful += sum + own;
		return sum;
	}
	walk->pages += own;
	if (slot->scan == walk->number) { /* vfork and CLONE_VM */
		set(walk->table, &slot->hidden,
		    atomic_long_read(&slot->hidden) + own);
		return 0;
	}
	slot->scan = walk->number;
	for_each_kind(i)
		set(walk->table, &slot->pages[counted_kinds[i]],
		    reading->pages[i]);
	set(walk->table, &slot->hidden, own);
	walk->pages += sum;
	return sum;
}

static void count_process(struct task_struct *leader, void *data)
{
	struct walk *walk = data;
	struct scan *scan = walk->scan;
	struct mm_reading reading;
	long own, sum;

	if (!is_counted(walk->c, leader) || !read_mm(leader, &reading))
		return;
	scan->processes++;
	own = cached_pages(leader);
	sum = count_mm(walk, &reading, own);
	/* Each thread beyond the first can be on a CPU more. */
	walk->slack += batch() * (min_t(long, get_nr_threads(leader),
					num_online_cpus()) - 1);
	if (sum && sum + own > scan->largest_pages) {
		scan->largest_pages = sum + own;
		scan->largest = pid_nr_ns(task_pid(leader), walk->c->owner->ns);
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
	int live = 0, i;

	for (at = 0; at < 1UL << table->bits; at++) {
		struct mm_slot *slot = &table->slots[at];

		if (!READ_ONCE(slot->mm))
			continue;
		if (slot->scan == number || !slot->scan) {
			live++;
			slot->scan = number;
			continue;
		}
		for_each_kind(i)
			set(table, &slot->pages[counted_kinds[i]], 0);
		set(table, &slot->hidden, 0);
	}
	atomic_set(&table->live, live);
}

static struct mm_table *current_table(struct container *c)
{
	return rcu_dereference_protected(c->table, lockdep_is_held(&c->lock));
}

static bool replace_table(struct container *c, unsigned int processes)
{
	struct mm_table *old = current_table(c);
	struct mm_table *table = alloc_table(processes);

	if (!table)
		return false;
	rcu_assign_pointer(c->table, table);
	kvfree_rcu(old, rcu);
	return true;
}

int rss_init(struct container *c)
{
	struct mm_table *table = alloc_table(1);

	RCU_INIT_POINTER(c->table, table);
	return table ? 0 : -ENOMEM;
}

/*
 * Count exactly, and set the estimate right. c->lock is held.
 *
 * Where the table is full, and there is no memory for a larger one or no end to
 * the container's growth, an mm that several processes share may count in each:
 * a shortage is no way past the limit. But what is certain goes first: to kill
 * for it must not wait for memory that only the kill can give.
 */
void rss_scan(struct container *c, struct scan *scan)
{
	struct walk walk = { .c = c, .scan = scan };
	int attempt;

	for (attempt = 1;; attempt++) {
		memset(scan, 0, sizeof(*scan));
		walk.table = current_table(c);
		walk.number = ++c->scans ?: ++c->scans;
		walk.pages = 0;
		walk.doubtful = 0;
		walk.slack = 0;
		WRITE_ONCE(walk.table->is_rough, false);
		smp_mb(); /* who reads without care from now on says so again */
		rss_for_each_process(c, count_process, &walk);
		forget_gone(walk.table, walk.number);
		WRITE_ONCE(walk.table->slack, walk.slack);
		scan->pages = max(walk.pages, 0L);
		if (!walk.doubtful && !is_crowded(walk.table))
			return;
		if (scan->pages >= c->hard_pages || attempt == MAX_ATTEMPTS ||
		    !replace_table(c, scan->processes))
			break;
	}
	scan->pages += walk.doubtful;
}

/* Could the exact count be on the other side of a limit? */
static bool is_near(struct container *c, struct mm_table *table)
{
	long slack = atomic_read(&table->live) * batch() +
		     READ_ONCE(table->slack);
	long pages = atomic_long_read(&table->pages);
	unsigned long most = max(pages + slack, 0L);

	if (!slack)
		return false;
	if (most >= READ_ONCE(c->hard_pages))
		return true;
	return READ_ONCE(c->over_soft) ?
		       pages - slack < (long)READ_ONCE(c->clear_pages) :
		       most >= READ_ONCE(c->soft_pages);
}

/*
 * An mm that no task has any more is being torn down: whose it was is known
 * only by its slot, and it can but shrink. Its address may be another mm's by
 * now; then that slot has nothing to lose.
 */
static void note_end(struct mm_table *table, const struct change *change)
{
	struct mm_slot *slot = find_slot(table, change->mm);
	long pages;

	if (!slot)
		return;
	pages = pages_of_kind(change->mm, change->member, true);
	if (pages < atomic_long_read(&slot->pages[change->member]))
		set(table, &slot->pages[change->member], pages);
	set(table, &slot->hidden, 0);
}

static void note_change(struct mm_table *table, struct mm_slot *slot,
			const struct change *change, bool is_new, bool is_exact)
{
	atomic_long_t *value = &slot->pages[change->member];
	long pages, was = atomic_long_read(value);
	int i;

	if (is_new) { /* it can have been there before its container was */
		for_each_kind(i)
			set(table, &slot->pages[counted_kinds[i]],
			    pages_of_kind(change->mm, counted_kinds[i],
					  is_exact));
		return;
	}
	pages = pages_of_kind(change->mm, change->member, is_exact);
	if (pages > was)
		tell_hidden(table, slot, pages - was);
	set(table, value, pages);
}

/*
 * The tracepoint's side. RCU held, any context; *pages is the estimate.
 *
 * Far from the limits the counters are read as they are. Near them, where that
 * might be on the other side, they are summed over the CPUs; the first time
 * since the last scan, other slots are too rough as well, and only a scan helps.
 */
enum estimate rss_note(struct container *c, const struct change *change,
		       long *pages)
{
	struct mm_table *table = rcu_dereference(c->table);
	bool is_exact, is_new, is_rough;
	struct mm_slot *slot;

	if (!change->task) {
		note_end(table, change);
		*pages = atomic_long_read(&table->pages);
		return ESTIMATE_FAR;
	}
	if (!is_counted(c, change->task->group_leader))
		return ESTIMATE_NONE;
	slot = take_slot(table, change->mm, &is_new);
	if (!slot)
		return ESTIMATE_FULL;
	is_exact = is_near(c, table);
	note_change(table, slot, change, is_new, is_exact);
	*pages = atomic_long_read(&table->pages);
	is_rough = READ_ONCE(table->is_rough);
	if (is_exact)
		return is_rough ? ESTIMATE_NEAR : ESTIMATE_FAR;
	if (batch() && !is_rough)
		WRITE_ONCE(table->is_rough, true);
	return ESTIMATE_FAR;
}

void rss_free(struct container *c)
{
	kvfree(rcu_dereference_protected(c->table, true));
}
