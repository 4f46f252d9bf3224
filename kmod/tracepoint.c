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
 * Who gets kick from KICK_IDLE owns suspect until KICK_READY; the check sets it
 * back. A check that runs in between leaves both alone, and runs again.
 */
static void ask_for_check(struct container *c)
{
	if (atomic_cmpxchg_acquire(&c->kick, KICK_IDLE, KICK_CLAIMED) !=
	    KICK_IDLE)
		return;
	c->suspect = get_pid(task_tgid(current));
	strscpy(c->suspect_comm, current->group_leader->comm,
		sizeof(c->suspect_comm));
	atomic_set_release(&c->kick, KICK_READY);
	mod_delayed_work(monitor_wq, &c->work, 0);
}

static bool is_due(struct container *c, long estimate)
{
	unsigned long pages = max(estimate, 0L);

	if (pages > READ_ONCE(c->peak_pages))
		WRITE_ONCE(c->peak_pages, pages);
	if (pages > READ_ONCE(c->hard_pages))
		return true;
	return READ_ONCE(c->over_soft) ? pages < READ_ONCE(c->clear_pages) :
					 pages > READ_ONCE(c->soft_pages);
}

static void note(struct container *c, void *mm)
{
	long estimate;

	if (READ_ONCE(c->killed))
		return; /* being killed again and again already */
	if (!rss_note(c, mm, &estimate) || is_due(c, estimate))
		ask_for_check(c);
}

static void changed(struct mm_struct *mm)
{
	struct pid_namespace *ns;

	/*
	 * Whose memory it is goes by who touches it: then a process that has
	 * just been forked, or is about to execute, counts from its first page.
	 * Changes from outside (reclaim, ptrace) are the next check's business.
	 */
	if (current->flags & PF_KTHREAD)
		return;
	rcu_read_lock();
	ns = task_active_pid_ns(current);
	for (; ns && ns->level; ns = ns->parent)
		registry_for_namespace(ns, note, mm);
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
		changed(mm);
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
