// SPDX-License-Identifier: GPL-2.0
/*
 * Faults on purpose, one for each detector of the debugging kernel: a scan that
 * finds none of them would find nothing of the module under test either.
 */
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/timer.h>

static char *fault = "";
module_param(fault, charp, 0);
MODULE_PARM_DESC(fault, "what to do wrong: write, use, leak, order, context, list or timer");

/* A parameter, so that the compiler does not know it and warn. */
static int size = 100;
module_param(size, int, 0);
MODULE_PARM_DESC(size, "bytes to allocate");

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);
static DEFINE_SPINLOCK(spinning);

static void write_past_the_end(void)
{
	char *some = kmalloc(size, GFP_KERNEL);

	if (some)
		WRITE_ONCE(some[size], 1);
	kfree(some);
}

static void use_after_free(void)
{
	char *some = kmalloc(size, GFP_KERNEL);

	kfree(some);
	if (some)
		WRITE_ONCE(some[size / 2], 1);
}

/* Many, as an old copy of a pointer on a stack hides one of them. */
static void leak(void)
{
	int i;

	for (i = 0; i < 60; i++)
		memset(kmalloc(size, GFP_KERNEL | __GFP_NOFAIL), i, size);
}

static void lock_both(struct mutex *outer, struct mutex *inner)
{
	mutex_lock(outer);
	mutex_lock(inner);
	mutex_unlock(inner);
	mutex_unlock(outer);
}

static void lock_in_either_order(void)
{
	lock_both(&first, &second);
	lock_both(&second, &first);
}

static void take_a_mutex_under_a_spinlock(void)
{
	spin_lock(&spinning);
	mutex_lock(&first);
	mutex_unlock(&first);
	spin_unlock(&spinning);
}

static void delete_twice(void)
{
	LIST_HEAD(head);
	struct list_head entry;

	list_add(&entry, &head);
	list_del(&entry);
	list_del(&entry);
}

struct timed {
	struct timer_list timer;
};

static void ring(struct timer_list *unused)
{
}

static void free_an_active_timer(void)
{
	struct timed *timed = kmalloc(sizeof(*timed), GFP_KERNEL);

	if (!timed)
		return;
	timer_setup(&timed->timer, ring, 0);
	mod_timer(&timed->timer, jiffies + 3600 * HZ);
	kfree(timed);
}

static const struct {
	const char *name;
	void (*make)(void);
} faults[] = {
	{ "write", write_past_the_end },
	{ "use", use_after_free },
	{ "leak", leak },
	{ "order", lock_in_either_order },
	{ "context", take_a_mutex_under_a_spinlock },
	{ "list", delete_twice },
	{ "timer", free_an_active_timer },
};

static int __init faulty_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(faults); i++) {
		if (!strcmp(fault, faults[i].name)) {
			faults[i].make();
			return 0;
		}
	}
	return -EINVAL;
}

static void __exit faulty_exit(void)
{
}

module_init(faulty_init);
module_exit(faulty_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Faults that a debugging kernel has to report");
