/* SPDX-License-Identifier: GPL-2.0 */
/* What monitor.bpf.c does when a container crosses a limit: whom it tells, and whom it kills. */
#ifndef WHERRY_CROSSING_H
#define WHERRY_CROSSING_H

#include <bpf/bpf_helpers.h>
#include "kernel.h"
#include "monitor.h"
#include "reading.h"

#define SIGKILL 9
#define SOFT_INTERVAL 50000000ULL /* nanoseconds */
#define KILL_AGAIN 20000000ULL /* nanoseconds */
#define COMPARE_AND_SWAP_TRIES 4

/* Counted here and read by user space. */
u64 lost_events; /* the ring buffer was full, and nobody will ever know */
u64 untold; /* the ring buffer was full, and the container's element knows what is to be told */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, struct monitor_container);
} containers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u32); /* inode number of the pid namespace */
	__type(value, u32); /* element of "containers" */
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

#define exchange(p, v) __sync_lock_test_and_set(p, v)
#define add(p, v) __sync_fetch_and_add(p, v)

static __always_inline struct monitor_container *container_at(u32 slot)
{
	return bpf_map_lookup_elem(&containers, &slot);
}

/*
 * The container of a task whose pid is below our level; *slot is its element. The inode of a namespace that has gone is
 * given to the next one. Its container may be in "slots" still, when nobody is there who could have taken it out: then
 * it was born before.
 */
static __always_inline struct monitor_container *container_of_pid(struct pid *pid, u32 *slot)
{
	u32 inode = namespace_of(pid);
	u32 *found = bpf_map_lookup_elem(&slots, &inode);
	struct monitor_container *container;

	if (!found)
		return 0;
	*slot = *found;
	container = container_at(*found);
	if (container && container->born && container->born != birth_of(pid))
		return 0;
	return container;
}

/* False when there is no room for it. Without "who" nobody in particular did it. */
static __always_inline bool tell(u32 kind, struct monitor_container *container, struct task_struct *who, s64 pages,
				 s64 limit, u64 time)
{
	struct monitor_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return 0;
	event->time = time;
	event->pages = pages;
	event->peak = container->peak;
	event->limit = limit;
	event->kind = kind;
	event->reason = kind == MONITOR_HARD ? container->hard_reason : container->uncounted ? MONITOR_UNCOUNTED : 0;
	event->pid = who ? process_number(who) : 0;
	event->padding = 0;
	__builtin_memset(event->comm, 0, sizeof(event->comm));
	if (who)
		name_of(event->comm, who);
	__builtin_memcpy(event->id, container->id, sizeof(event->id));
	/* Woken is only who has read all before; who does not read (the shim) is to hear of a hard crossing all the same. */
	bpf_ringbuf_submit(event, kind == MONITOR_HARD ? BPF_RB_FORCE_WAKEUP : 0);
	return 1;
}

static __always_inline void raise_peak(struct monitor_container *container, s64 total)
{
	s64 peak = container->peak;

	for (int i = 0; i < COMPARE_AND_SWAP_TRIES && total > peak; i++) {
		s64 seen = __sync_val_compare_and_swap(&container->peak, peak, total);

		if (seen == peak)
			return;
		peak = seen;
	}
}

/*
 * A crossing that finds no room in the ring buffer, or comes too soon after the last one, is not lost: soft_fired stays
 * as it was, the next change tries again, and "act" looks when nothing changes any more.
 */
static __always_inline void soft_crossing(struct monitor_container *container, struct task_struct *who, s64 total)
{
	u64 now;

	if (total < container->soft || container->soft_fired)
		return;
	/* A container that goes up and down for the purpose must not drown the events of the others. */
	now = bpf_ktime_get_ns();
	if (now - container->soft_time < SOFT_INTERVAL || exchange(&container->soft_fired, 1))
		return;
	container->soft_time = now;
	if (!tell(MONITOR_SOFT, container, who, total, container->soft, now)) {
		container->soft_fired = 0;
		add(&untold, 1);
	}
}

static __always_inline void soft_cleared(struct monitor_container *container, s64 total)
{
	if (!container->soft_fired || total >= container->clear || !exchange(&container->soft_fired, 0))
		return;
	if (!tell(MONITOR_SOFT_CLEARED, container, 0, total, container->soft, bpf_ktime_get_ns())) {
		container->soft_fired = 1;
		add(&untold, 1);
	}
}

/* For good: the first victim's exit brings the total below the limit again, and its siblings must not live on. */
static __always_inline void hard_crossing(struct monitor_container *container, struct task_struct *who, s64 total,
					  u32 reason)
{
	if (container->hard_begun || exchange(&container->hard_begun, 1))
		return;
	container->hard_time = bpf_ktime_get_ns();
	container->hard_pages = total;
	container->hard_limit = container->hard;
	container->hard_reason = reason;
	if (who) {
		container->hard_pid = process_number(who);
		name_of(container->hard_comm, who);
	}
	exchange(&container->hard_fired, 1); /* a barrier: whoever sees it sees the rest */
	if (!tell(MONITOR_HARD, container, who, total, container->hard_limit, container->hard_time))
		add(&untold, 1);
}

/*
 * SIGKILL for the current task's process: its threads, and not another process with the same address space. In a
 * tracepoint with preemption off the helper goes through the CPU's one irq_work: -EBUSY means that it is in use, -EPERM
 * that this thread has begun to exit, and the next event tries again. Once is enough then: a signal for each later
 * fault of a long system call costs 17 us a fault. But not for ever, because the irq_work may find that the thread has
 * gone.
 */
static __always_inline void kill_current(struct monitor_kill *last)
{
	u64 process = bpf_get_current_pid_tgid() >> 32, now = bpf_ktime_get_ns();

	if (last->process == process && now - last->time < KILL_AGAIN)
		return;
	if (bpf_send_signal(SIGKILL))
		return;
	last->process = process;
	last->time = now;
}

static __always_inline void grown(struct monitor_container *container, struct task_struct *who, s64 total)
{
	raise_peak(container, total);
	soft_crossing(container, who, total);
	if (total >= container->hard)
		hard_crossing(container, who, total, MONITOR_CROSSED);
}

#endif
