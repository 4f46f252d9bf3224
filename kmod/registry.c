// SPDX-License-Identifier: GPL-2.0
/*
 * Which containers there are: in a list of the open file that registered them,
 * by key, and, while they live, in a hash by pid namespace for the tracepoint.
 *
 * A container is freed by rcu_work, when the last call that uses it has let it
 * go: after every reader of the hash, and in process context, where its check
 * can be waited for. "removed" is set under c->lock before, so no check tells
 * or kills once a removal has returned.
 */
#include <linux/hashtable.h>
#include <linux/sched.h>
#include <linux/refcount.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "monitor.h"

#define MAX_CONTAINERS 4096
#define NAMESPACE_BITS 9

static DEFINE_MUTEX(registry_lock);
static DEFINE_HASHTABLE(by_namespace, NAMESPACE_BITS); /* written under registry_lock */
static unsigned int nr_live, nr_containers; /* under registry_lock */

static void free_container(struct work_struct *work)
{
	struct container *c = container_of(to_rcu_work(work), struct container,
					   free_work);

	cancel_delayed_work_sync(&c->work);
	put_pid(c->suspects[SUSPECT_SOFT].pid);
	put_pid(c->suspects[SUSPECT_HARD].pid);
	put_pid(c->pid);
	rss_free(c);
	kfree(c);
}

/* registry_lock is held; tracepoint.c reads the number without it. */
static void lose_live(void)
{
	WRITE_ONCE(nr_live, nr_live - 1);
	if (!nr_live)
		tracepoint_disable_later();
}

/* registry_lock is held. */
static void unhash(struct container *c)
{
	if (hlist_unhashed(&c->hash_node))
		return;
	hash_del_rcu(&c->hash_node);
	lose_live();
}

static void put(struct container *c)
{
	if (refcount_dec_and_test(&c->references))
		queue_rcu_work(monitor_wq, &c->free_work);
}

/* registry_lock is held; silence() is to follow, and put(), without it. */
static void unlink(struct container *c)
{
	unhash(c);
	list_del(&c->node);
	c->owner->count--;
	nr_containers--;
}

/* c->lock is held. */
static void silence(struct container *c)
{
	int type;

	c->removed = true;
	for (type = 0; type < ARRAY_SIZE(c->waiting); type++)
		events_forget(&c->owner->events, &c->waiting[type]);
}

static struct container *find(struct open_file *owner, u64 key)
{
	struct container *c;

	list_for_each_entry(c, &owner->containers, node)
		if (c->key == key)
			return c;
	return NULL;
}

static struct container *find_next(struct open_file *owner, u64 key)
{
	struct container *c, *next = NULL;

	list_for_each_entry(c, &owner->containers, node)
		if (c->key > key && (!next || c->key < next->key))
			next = c;
	return next;
}

/*
 * The first process of a pid namespace below the caller's, still alive. Its
 * struct pid keeps the number from meaning another process, and the namespace
 * from going away. -EXDEV: watching a process of the caller's own namespace
 * would count, and kill, the whole machine.
 */
static int find_first_process(struct container *c, pid_t nr)
{
	struct task_struct *p;
	int error = -ESRCH;

	c->pid = find_get_pid(nr);
	rcu_read_lock();
	p = c->pid ? pid_task(c->pid, PIDTYPE_TGID) : NULL;
	if (p && !(p->flags & PF_KTHREAD)) {
		c->ns = ns_of_pid(c->pid);
		error = c->ns == task_active_pid_ns(current) ||
			pid_nr_ns(c->pid, c->ns) != 1 ? -EXDEV : 0;
	}
	rcu_read_unlock();
	c->nr = pid_nr_ns(c->pid, c->owner->ns);
	return error;
}

static struct container *
alloc_container(struct open_file *owner,
		const struct container_monitor_register *request)
{
	struct container *c = kzalloc(sizeof(*c), GFP_KERNEL_ACCOUNT);
	int type;

	if (!c)
		return NULL;
	if (rss_init(c)) {
		kfree(c);
		return NULL;
	}
	refcount_set(&c->references, 1);
	for (type = 0; type < ARRAY_SIZE(c->waiting); type++)
		INIT_LIST_HEAD(&c->waiting[type].node);
	/* 0 may lie ahead: jiffies begin five minutes before they wrap. */
	c->next_check = c->next_hard = c->next_rise = jiffies;
	c->owner = owner;
	c->key = request->key;
	strscpy(c->id, request->id, sizeof(c->id));
	mutex_init(&c->lock);
	INIT_HLIST_NODE(&c->hash_node);
	INIT_DELAYED_WORK(&c->work, check_work);
	INIT_RCU_WORK(&c->free_work, free_container);
	ratelimit_state_init(&c->soft_lines, 5 * HZ, 10);
	check_set_limits(c, request->soft_bytes, request->hard_bytes);
	return c;
}

/* registry_lock is held. */
static int insert(struct open_file *owner, struct container *c)
{
	struct container *other;
	int error;

	list_for_each_entry(other, &owner->containers, node) {
		if (other->key == c->key)
			return -EEXIST;
		if (other->ns == c->ns)
			return -EBUSY;
	}
	if (nr_containers >= MAX_CONTAINERS)
		return -ENOSPC;
	WRITE_ONCE(nr_live, nr_live + 1); /* before: see tracepoint_enable() */
	error = tracepoint_enable();
	if (error) {
		lose_live();
		return error;
	}
	list_add_tail(&c->node, &owner->containers);
	hash_add_rcu(by_namespace, &c->hash_node, (unsigned long)c->ns);
	owner->count++;
	nr_containers++;
	queue_delayed_work(monitor_wq, &c->work, 0);
	return 0;
}

int registry_add(struct open_file *owner,
		 const struct container_monitor_register *request)
{
	struct container *c = alloc_container(owner, request);
	int error;

	if (!c)
		return -ENOMEM;
	error = find_first_process(c, request->pid);
	if (!error) {
		mutex_lock(&registry_lock);
		error = insert(owner, c);
		mutex_unlock(&registry_lock);
	}
	if (error) {
		put_pid(c->pid);
		rss_free(c);
		kfree(c);
	}
	return error;
}

/*
 * With a reference, so that what takes long, a count of many processes, is done
 * without registry_lock. NULL: there is none with that key, or none after it.
 */
static struct container *get(struct open_file *owner, u64 key, bool next,
			     bool unlinks)
{
	struct container *c;

	mutex_lock(&registry_lock);
	c = next ? find_next(owner, key) : find(owner, key);
	if (c)
		refcount_inc(&c->references);
	if (c && unlinks)
		unlink(c);
	mutex_unlock(&registry_lock);
	return c;
}

int registry_update(struct open_file *owner,
		    const struct container_monitor_update *request)
{
	struct container *c = get(owner, request->key, false, false);
	int error = 0;

	if (!c)
		return -ENOENT;
	mutex_lock(&c->lock);
	if (c->removed)
		error = -ENOENT;
	else if (c->ended || c->killed)
		error = -ESRCH;
	else
		check_set_limits(c, request->soft_bytes, request->hard_bytes);
	mutex_unlock(&c->lock);
	if (!error)
		mod_delayed_work(monitor_wq, &c->work, 0);
	put(c);
	return error;
}

int registry_status(struct open_file *owner,
		    struct container_monitor_status *status)
{
	bool next = status->flags & CONTAINER_MONITOR_NEXT;
	struct container *c = get(owner, status->key, next, false);
	int error;

	if (!c)
		return -ENOENT;
	mutex_lock(&c->lock);
	error = c->removed ? -ENOENT : 0;
	if (!error) {
		check_count(c);
		check_status(c, status);
	}
	mutex_unlock(&c->lock);
	put(c);
	return error;
}

int registry_remove(struct open_file *owner,
		    struct container_monitor_status *status)
{
	struct container *c = get(owner, status->key, false, true);

	if (!c)
		return -ENOENT;
	mutex_lock(&c->lock);
	silence(c);
	check_status(c, status);
	mutex_unlock(&c->lock);
	put(c);
	put(c); /* the registry's */
	return 0;
}

unsigned int registry_count(struct open_file *owner)
{
	unsigned int count;

	mutex_lock(&registry_lock);
	count = owner->count;
	mutex_unlock(&registry_lock);
	return count;
}

/* Nobody else uses the file any more. */
void registry_close(struct open_file *owner)
{
	struct container *c;

	for (;;) {
		mutex_lock(&registry_lock);
		c = list_first_entry_or_null(&owner->containers,
					     struct container, node);
		if (c)
			unlink(c);
		mutex_unlock(&registry_lock);
		if (!c)
			return;
		mutex_lock(&c->lock);
		silence(c);
		mutex_unlock(&c->lock);
		put(c);
	}
}

/*
 * From the check itself: the container has ended. It stays in the list, so that
 * its figures can still be asked for, until it is removed.
 */
void registry_ended(struct container *c)
{
	mutex_lock(&registry_lock);
	unhash(c);
	mutex_unlock(&registry_lock);
}

bool registry_has_live(void)
{
	return READ_ONCE(nr_live);
}

/* RCU is held. */
void registry_for_namespace(struct pid_namespace *ns,
			    void (*call)(struct container *c, void *data),
			    void *data)
{
	struct container *c;

	hash_for_each_possible_rcu(by_namespace, c, hash_node,
				   (unsigned long)ns)
		if (c->ns == ns)
			call(c, data);
}

/* After the last open file: wait for what removals have queued. */
void registry_exit(void)
{
	rcu_barrier(); /* their RCU callbacks queue work ... */
	flush_workqueue(monitor_wq); /* ... which this carries out */
}
