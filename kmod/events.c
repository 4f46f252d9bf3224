// SPDX-License-Identifier: GPL-2.0
/*
 * The records of one open file that wait to be read(2).
 *
 * Each container has room for one record of each type, in itself: none can
 * drown another one's. A later record of the same container and type takes the
 * place of one that nobody has read, and its own place in the order.
 */
#include <linux/fs.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "monitor.h"

void events_init(struct event_queue *q)
{
	spin_lock_init(&q->lock);
	mutex_init(&q->reader);
	init_waitqueue_head(&q->readers);
	INIT_LIST_HEAD(&q->waiting);
}

static bool is_empty(struct event_queue *q)
{
	return list_empty(&q->waiting);
}

/* Never waits for a reader: who is told may have no memory to read into. */
void events_put(struct event_queue *q, struct event_slot *slot,
		const struct container_monitor_event *event)
{
	spin_lock(&q->lock);
	if (!list_empty(&slot->node)) {
		if (slot->number == q->reading)
			q->is_replaced = true;
		else
			q->dropped++;
	}
	slot->event = *event;
	slot->number = ++q->last_number;
	list_move_tail(&slot->node, &q->waiting);
	spin_unlock(&q->lock);
	wake_up_interruptible(&q->readers);
}

void events_forget(struct event_queue *q, struct event_slot *slot)
{
	spin_lock(&q->lock);
	list_del_init(&slot->node);
	spin_unlock(&q->lock);
}

u64 events_dropped(struct event_queue *q)
{
	u64 dropped;

	spin_lock(&q->lock);
	dropped = q->dropped;
	spin_unlock(&q->lock);
	return dropped;
}

/* The first record, which stays where it is; returns its number, 0: none. */
static u64 begin_reading(struct event_queue *q,
			 struct container_monitor_event *event)
{
	struct event_slot *slot;

	spin_lock(&q->lock);
	slot = list_first_entry_or_null(&q->waiting, struct event_slot, node);
	q->reading = slot ? slot->number : 0;
	q->is_replaced = false;
	if (slot) {
		*event = slot->event;
		event->dropped = q->dropped;
	}
	spin_unlock(&q->lock);
	return q->reading;
}

/*
 * Only now does it leave the queue: a record that could not be copied is not
 * lost. By its number, since its container may have gone by now, or have put
 * a later record into its place.
 */
static void end_reading(struct event_queue *q, bool is_read)
{
	struct event_slot *slot;

	spin_lock(&q->lock);
	slot = list_first_entry_or_null(&q->waiting, struct event_slot, node);
	if (is_read && slot && slot->number == q->reading)
		list_del_init(&slot->node);
	if (!is_read && q->is_replaced)
		q->dropped++;
	q->reading = 0;
	spin_unlock(&q->lock);
}

/* q->reader is held. */
static ssize_t take(struct event_queue *q, char __user *to, size_t size)
{
	struct container_monitor_event event;
	size_t done = 0;
	bool is_read;

	while (size - done >= sizeof(event) && begin_reading(q, &event)) {
		is_read = !copy_to_user(to + done, &event, sizeof(event));
		end_reading(q, is_read);
		if (!is_read)
			return done ?: -EFAULT;
		done += sizeof(event);
	}
	return done;
}

/* Another reader may wait for its memory for as long as it likes. */
static int begin_turn(struct event_queue *q, bool is_impatient)
{
	if (is_impatient)
		return mutex_trylock(&q->reader) ? 0 : -EAGAIN;
	return mutex_lock_interruptible(&q->reader) ? -ERESTARTSYS : 0;
}

ssize_t events_read(struct event_queue *q, struct file *file, char __user *to,
		    size_t size)
{
	ssize_t done;
	int error;

	if (size < sizeof(struct container_monitor_event))
		return -EINVAL;
	for (;;) {
		error = begin_turn(q, file->f_flags & O_NONBLOCK);
		if (error)
			return error;
		done = take(q, to, size);
		mutex_unlock(&q->reader);
		if (done)
			return done;
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		error = wait_event_interruptible(q->readers, !is_empty(q));
		if (error)
			return error;
	}
}

__poll_t events_poll(struct event_queue *q, struct file *file,
		     struct poll_table_struct *wait)
{
	poll_wait(file, &q->readers, wait);
	return is_empty(q) ? 0 : EPOLLIN | EPOLLRDNORM;
}
