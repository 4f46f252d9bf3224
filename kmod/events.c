// SPDX-License-Identifier: GPL-2.0
/* The records of one open file: a ring that is read(2), with a count of what did not fit. */
#include <linux/fs.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "monitor.h"

#define RING_SIZE 256 /* a power of two: head and tail wrap around */

int events_init(struct event_queue *q)
{
	mutex_init(&q->lock);
	init_waitqueue_head(&q->readers);
	q->ring = kvcalloc(RING_SIZE, sizeof(*q->ring), GFP_KERNEL_ACCOUNT);
	return q->ring ? 0 : -ENOMEM;
}

void events_free(struct event_queue *q)
{
	kvfree(q->ring);
}

static bool is_empty(struct event_queue *q)
{
	return READ_ONCE(q->head) == READ_ONCE(q->tail);
}

/*
 * When the ring is full the new record is the one that is lost: the reader gets
 * those it has been promised, in order, and learns from "dropped" that more
 * happened. A hard crossing can be asked for later (container_monitor_status).
 */
void events_put(struct event_queue *q, struct container_monitor_event *event)
{
	mutex_lock(&q->lock);
	if (q->head - q->tail == RING_SIZE) {
		q->dropped++;
	} else {
		event->dropped = q->dropped;
		q->ring[q->head % RING_SIZE] = *event;
		WRITE_ONCE(q->head, q->head + 1);
	}
	mutex_unlock(&q->lock);
	wake_up_interruptible(&q->readers);
}

u64 events_dropped(struct event_queue *q)
{
	u64 dropped;

	mutex_lock(&q->lock);
	dropped = q->dropped;
	mutex_unlock(&q->lock);
	return dropped;
}

/* A record leaves the ring only after it has reached the reader. */
static ssize_t take(struct event_queue *q, char __user *to, size_t size)
{
	ssize_t done = 0;

	mutex_lock(&q->lock);
	while (q->head != q->tail && size - done >= sizeof(*q->ring)) {
		if (copy_to_user(to + done, &q->ring[q->tail % RING_SIZE],
				 sizeof(*q->ring))) {
			done = done ?: -EFAULT;
			break;
		}
		WRITE_ONCE(q->tail, q->tail + 1);
		done += sizeof(*q->ring);
	}
	mutex_unlock(&q->lock);
	return done;
}

ssize_t events_read(struct event_queue *q, struct file *file, char __user *to,
		    size_t size)
{
	ssize_t done;
	int error;

	if (size < sizeof(*q->ring))
		return -EINVAL;
	for (;;) {
		done = take(q, to, size);
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
