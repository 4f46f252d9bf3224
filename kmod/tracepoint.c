// SPDX-License-Identifier: GPL-2.0
/*
 * The immediate path: a probe on the rss_stat tracepoint follows the estimates
 * and asks for a check the moment one reaches a limit.
 *
 * The probe runs under the page table lock with preemption off, on PREEMPT_RT
 * too, so it must not send a signal itself: siglock sleeps there ("BUG:
 * scheduling while atomic"). Queueing work takes raw spinlocks only.
 *
 * It is registered only while containers live, and a little longer: a machine
 * that starts one container after the other need not patch its kernel twice for
 * each.
 */
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/tracepoint.h>
#include <linux/version.h>

/*
 * For check_trace_callback_type_rss_stat(), which has the compiler compare the
 * probe with this kernel's tracepoint. The tracepoint itself is not exported.
 */
#include <trace/events/kmem.h>

#include "monitor.h"

#define LINGER (2 * HZ)

static struct tracepoint *rss_stat; /* NULL: this kernel has none */
static DEFINE_MUTEX(probe_lock); /* inside registry_lock */
static bool is_registered; /* under probe_lock */

/*
 * Who gets state from SUSPECT_NONE owns the rest until SUSPECT_READY; the check
 * sets it back. A check that runs in between leaves it alone, and runs again.
 */
static void name_suspect(struct suspect *suspect, struct task_struct *task)
{
	struct task_struct *leader;

	if (atomic_cmpxchg_acquire(&suspect->state, SUSPECT_NONE,
				   SUSPECT_CLAIMED) != SUSPECT_NONE)
		return;
	leader = task->group_leader;
	suspect->pid = get_pid(task_pid(leader));
	strscpy(suspect->comm, leader->comm, sizeof(suspect->comm));
	atomic_set_release(&suspect->state, SUSPECT_READY);
}

static void ask_at(struct container *c, unsigned long when)
{
	unsigned long now = jiffies;

	mod_delayed_work(monitor_wq, &c->work,
			 time_after(when, now) ? when - now : 0);
}

/* For the hard limit's sake: others that ask do not put this off. */
static void ask_urgently(struct container *c, struct task_struct *task)
{
	if (atomic_read(&c->urgent) || atomic_xchg(&c->urgent, 1))
		return;
	name_suspect(&c->suspects[SUSPECT_HARD], task);
	ask_at(c, READ_ONCE(c->next_hard));
}

static void ask(struct container *c, struct task_struct *task, unsigned long when)
{
	struct suspect *suspect = &c->suspects[SUSPECT_SOFT];

	if (atomic_read(&suspect->state) != SUSPECT_NONE ||
	    atomic_read(&c->urgent))
		return;
	name_suspect(suspect, task);
	ask_at(c, when);
	/* Who asked urgently before that may have been put off. */
	if (atomic_read(&c->urgent))
		ask_at(c, READ_ONCE(c->next_hard));
}

static void follow(struct container *c, struct task_struct *task, long estimate)
{
	unsigned long pages = max(estimate, 0L);

	if (pages > READ_ONCE(c->peak_pages))
		WRITE_ONCE(c->peak_pages, pages);
	if (pages >= READ_ONCE(c->hard_pages))
		ask_urgently(c, task);
	else if (READ_ONCE(c->over_soft) && pages < READ_ONCE(c->clear_pages))
		ask(c, task, READ_ONCE(c->next_check));
	else if (!READ_ONCE(c->over_soft) && pages >= READ_ONCE(c->soft_pages))
		ask(c, task, READ_ONCE(c->next_rise));
}

static void note(struct container *c, void *data)
{
	const struct change *change = data;
	struct task_struct *task = change->task ?: current;
	long estimate;

	if (READ_ONCE(c->killed))
		return; /* being killed again and again already */
	switch (rss_note(c, change, &estimate)) {
	case ESTIMATE_NONE:
		break;
	case ESTIMATE_FULL:
		ask_urgently(c, task);
		break;
	case ESTIMATE_NEAR:
		ask(c, task, READ_ONCE(c->next_check));
		fallthrough;
	case ESTIMATE_FAR:
		follow(c, task, estimate);
	}
}

/*
 * Whose memory it is. That of the current task is its own, and counts from its
 * first page on. But direct reclaim, a truncated file or a debugger change that
 * of others, and fork and execve one that is not in use yet: those have an
 * owner, who carries the pid of its parent until a fork is complete. NULL when
 * there is none any more, or this kernel does not keep it.
 */
static struct task_struct *task_of(struct mm_struct *mm)
{
	if (current->mm == mm && !(current->flags & PF_KTHREAD))
		return current;
#ifdef CONFIG_MEMCG
	return rcu_dereference(mm->owner);
#else
	return NULL;
#endif
}

static void changed(struct mm_struct *mm, int member)
{
	struct change change = { .mm = mm, .member = member };
	struct pid_namespace *ns;

	rcu_read_lock();
	change.task = task_of(mm);
	/* What is torn down mostly is so by its last task. */
	ns = task_active_pid_ns(change.task ?: current);
	for (; ns && ns->level; ns = ns->parent)
		registry_for_namespace(ns, note, &change);
	rcu_read_unlock();
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
static void on_rss_stat(void *data, struct mm_struct *mm, int member)
#else
static void on_rss_stat(void *data, struct mm_struct *mm, int member,
			long count)
#endif
{
	if (member != MM_SWAPENTS)
		changed(mm, member);
}

static void find_rss_stat(struct tracepoint *tp, void *unused)
{
	if (!strcmp(tp->name, "rss_stat"))
		rss_stat = tp;
}

int tracepoint_init(void)
{
	check_trace_callback_type_rss_stat(on_rss_stat);
	for_each_kernel_tracepoint(find_rss_stat, NULL);
	return rss_stat ? 0 : -ENOENT;
}

bool tracepoint_is_offered(void)
{
	return rss_stat;
}

/*
 * nr_live already counts who asks: a lingered() that is under way either
 * sees that, or has unregistered the probe before probe_lock is ours.
 */
int tracepoint_enable(void)
{
	int error = 0;

	mutex_lock(&probe_lock);
	if (rss_stat && !is_registered) {
		error = tracepoint_probe_register(rss_stat, on_rss_stat, NULL);
		is_registered = !error;
	}
	mutex_unlock(&probe_lock);
	return error;
}

static void disable(void)
{
	mutex_lock(&probe_lock);
	if (is_registered && !registry_has_live()) {
		tracepoint_probe_unregister(rss_stat, on_rss_stat, NULL);
		is_registered = false;
	}
	mutex_unlock(&probe_lock);
}

static void lingered(struct work_struct *unused)
{
	disable();
}

static DECLARE_DELAYED_WORK(disabling, lingered);

void tracepoint_disable_later(void)
{
	mod_delayed_work(monitor_wq, &disabling, LINGER);
}

/* No container is left: nothing asks for the probe any more. */
void tracepoint_exit(void)
{
	cancel_delayed_work_sync(&disabling);
	disable();
	tracepoint_synchronize_unregister(); /* until no CPU runs the probe */
}
