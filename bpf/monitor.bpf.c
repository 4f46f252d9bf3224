// SPDX-License-Identifier: GPL-2.0
/*
 * Soft and hard limits on the memory of containers, enforced in the page fault that crosses them.
 *
 * The tracepoint kmem:rss_stat comes with every change of a process's resident set size. Each time, the program reads
 * the absolute size of the address space in question and puts the difference to what it knew into the container's total:
 * whatever the interleaving on several CPUs, the total is the sum of the entries of "mms". A container is found by its
 * pid namespace, which no task can leave: all pid namespaces of containers are children of the supervisor's, so the
 * one to look at is at a fixed level, however deeply a container nests its own.
 *
 * What a parked first process has before its execve is a copy of the shim and no container's. Counting begins with the
 * first execve in the namespace, and a first process that never calls it (wherry's own init) is left out.
 *
 * One object for all kernels: types are minimal CO-RE flavours, and the kernel that loads it relocates them.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "monitor.h"

typedef unsigned char u8;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
typedef _Bool bool;

#define SIGKILL 9
#define EBUSY 16
#define PF_FORKNOEXEC 0x00000040 /* forked, but has not called execve (include/linux/sched.h) */
#define MAX_CPUS 512
#define LEVEL_BYTES 4095 /* all numbers[]: a level is at most 32 (MAX_PID_NS_LEVEL, include/linux/pid_namespace.h) */
#define NEAR_PAGES 4096
#define EXACT_EVERY 16
#define SOFT_INTERVAL 50000000ULL /* nanoseconds */
#define COMPARE_AND_SWAP_TRIES 4

enum { MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES }; /* include/linux/mm_types_task.h */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct ns_common {
	u32 inum;
};
struct pid_namespace {
	struct ns_common ns;
};
struct upid {
	int nr;
	struct pid_namespace *ns;
};
struct pid {
	u32 level;
	struct upid numbers[1];
};
struct percpu_counter {
	s64 count;
	s32 *counters;
};
struct mm_struct {
	struct percpu_counter rss_stat[4]; /* from 6.2 on */
	struct task_struct *owner; /* with CONFIG_MEMCG */
};
struct task_struct {
	u32 flags;
	struct mm_struct *mm;
	struct pid *thread_pid;
	struct task_struct *group_leader;
	char comm[16];
};
/* Up to 6.1, mm->rss_stat is a struct mm_rss_stat of plain atomic counters. */
typedef struct {
	long counter;
} atomic_long_t___old;
struct mm_rss_stat {
	atomic_long_t___old count[4];
};
struct mm_struct___old {
	struct mm_rss_stat rss_stat;
};
struct bpf_array {
	void *pptrs[1];
};
#pragma clang attribute pop

char LICENSE[] SEC("license") = "GPL";

/* Set by the loader before the program is loaded. */
const volatile u32 cpus = 1;
const volatile u32 held_back_pages = 96; /* what a process's counters may not show, for each CPU that it ran on */

/* Set by "setup" and read by the rest. */
u32 base_level; /* of the supervisor's pid namespace */
u64 cpu_offset[MAX_CPUS];
volatile u64 laundry;

/* Counted here and read by user space. */
u64 lost_events; /* the ring buffer was full */
u64 lost_processes; /* "mms" was full: a process that is not counted */

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

/* Preallocated, and not LRU: a live entry that was evicted would leave its pages in the total for ever. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, struct monitor_mm);
} mms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} percpu SEC(".maps");

#define exchange(p, v) __sync_lock_test_and_set(p, v)

/* A pointer reached from the current task is typed, and read by one fault-safe load; a raw tracepoint's argument is
 * not, and needs bpf_probe_read_kernel. */
#define READ(typed, p, field) ((typed) ? (p)->field : BPF_CORE_READ(p, field))

static __always_inline bool has_old_layout(void)
{
	return bpf_core_type_exists(struct mm_rss_stat);
}

/* Always by probe_read: 6.1's verifier does not walk a typed pointer into an array of atomic_long_t. */
static __always_inline s64 old_pages(struct mm_struct *mm)
{
	struct mm_struct___old *old = (void *)mm;

	return BPF_CORE_READ(old, rss_stat.count[MM_FILEPAGES].counter) +
	       BPF_CORE_READ(old, rss_stat.count[MM_ANONPAGES].counter) +
	       BPF_CORE_READ(old, rss_stat.count[MM_SHMEMPAGES].counter);
}

/*
 * The counters that tasks see; each CPU holds back up to max(32, 2 * cpus) pages a counter. The subscripts must be
 * constants: with a variable, clang scales by the size of our own struct, and CO-RE cannot mend that.
 */
static __always_inline s64 folded_pages(const bool typed, struct mm_struct *mm)
{
	return READ(typed, mm, rss_stat[MM_FILEPAGES].count) + READ(typed, mm, rss_stat[MM_ANONPAGES].count) +
	       READ(typed, mm, rss_stat[MM_SHMEMPAGES].count);
}

static __always_inline s64 held_back(u64 counters, u64 offset)
{
	s32 value;

	return bpf_probe_read_kernel(&value, sizeof(value), (void *)(counters + offset)) ? 0 : value;
}

static __always_inline s64 exact_pages(const bool typed, struct mm_struct *mm)
{
	s64 sum;
	u64 file, anonymous, shared;

	if (has_old_layout()) {
		sum = old_pages(mm);
		return sum < 0 ? 0 : sum;
	}
	sum = folded_pages(typed, mm);
	file = (u64)READ(typed, mm, rss_stat[MM_FILEPAGES].counters);
	anonymous = (u64)READ(typed, mm, rss_stat[MM_ANONPAGES].counters);
	shared = (u64)READ(typed, mm, rss_stat[MM_SHMEMPAGES].counters);
	for (u32 cpu = 0; cpu < MAX_CPUS && cpu < cpus; cpu++) {
		u64 offset = cpu_offset[cpu];

		sum += held_back(file, offset) + held_back(anonymous, offset) + held_back(shared, offset);
	}
	return sum < 0 ? 0 : sum;
}

/*
 * The entry of a pid's numbers[] for a level; an array of one, whose real length is the pid's own. The mask is for 6.1's
 * verifier: it takes a constant times a variable for unbounded.
 */
static __always_inline void *number_at(struct pid *pid, u32 level)
{
	return (void *)pid + bpf_core_field_offset(struct pid, numbers) +
	       (level * bpf_core_type_size(struct upid) & LEVEL_BYTES);
}

/* The inode of the pid namespace that a container at the level below the supervisor's would have. */
static __always_inline u32 namespace_of(struct pid *pid)
{
	struct pid_namespace *ns = 0;

	bpf_probe_read_kernel(&ns, sizeof(ns), number_at(pid, base_level + 1) + bpf_core_field_offset(struct upid, ns));
	return ns ? BPF_CORE_READ(ns, ns.inum) : 0;
}

static __always_inline struct monitor_container *container_at(u32 slot)
{
	return bpf_map_lookup_elem(&containers, &slot);
}

/* The container of a task whose pid is below our level; *slot is its element. */
static __always_inline struct monitor_container *container_of_pid(struct pid *pid, u32 *slot)
{
	u32 inode = namespace_of(pid);
	u32 *found = bpf_map_lookup_elem(&slots, &inode);

	if (!found)
		return 0;
	*slot = *found;
	return container_at(*found);
}

/* The process's number in the supervisor's pid namespace. */
static __always_inline u32 process_number(struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct pid *pid = BPF_CORE_READ(leader, thread_pid);
	int number = 0;

	if (pid)
		bpf_probe_read_kernel(&number, sizeof(number),
				      number_at(pid, base_level) + bpf_core_field_offset(struct upid, nr));
	return number;
}

static __always_inline void name_of(char *comm, struct task_struct *task)
{
	bpf_probe_read_kernel(comm, MONITOR_COMM_BYTES, (void *)task + bpf_core_field_offset(struct task_struct, comm));
}

static __always_inline void tell(u32 kind, struct monitor_container *container, struct task_struct *who, s64 pages,
				 s64 limit, u64 time)
{
	struct monitor_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		__sync_fetch_and_add(&lost_events, 1);
		return;
	}
	event->time = time;
	event->pages = pages;
	event->peak = container->peak;
	event->limit = limit;
	event->kind = kind;
	event->pid = who ? process_number(who) : 0;
	__builtin_memset(event->comm, 0, sizeof(event->comm));
	if (who)
		name_of(event->comm, who);
	__builtin_memcpy(event->id, container->id, sizeof(event->id));
	/* Woken is only who has read all before; who does not read (the shim) is to hear of a hard crossing all the same. */
	bpf_ringbuf_submit(event, kind == MONITOR_HARD ? BPF_RB_FORCE_WAKEUP : 0);
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

/* wherry's own init, which --init puts before the command: number 1, has forked and never called execve. */
static __always_inline bool is_our_init(struct task_struct *task, struct pid *pid)
{
	int number = 0;

	if (!(BPF_CORE_READ(task, flags) & PF_FORKNOEXEC))
		return 0;
	bpf_probe_read_kernel(&number, sizeof(number), number_at(pid, base_level + 1) + bpf_core_field_offset(struct upid, nr));
	return number == 1;
}

/* Begin to count an address space. "task" is one of its tasks, whose pid is below our level. */
static __always_inline struct monitor_mm *admit(u64 key, struct task_struct *task, struct pid *pid)
{
	struct monitor_mm new = {};
	struct monitor_container *container = container_of_pid(pid, &new.slot);
	long error;

	if (!container || !container->watching || is_our_init(task, pid))
		return 0;
	new.namespace_inode = container->namespace_inode;
	error = bpf_map_update_elem(&mms, &key, &new, BPF_NOEXIST);
	if (!error)
		__sync_fetch_and_add(&container->processes, 1);
	else if (error == -7 /* E2BIG */ || error == -12 /* ENOMEM */)
		__sync_fetch_and_add(&lost_processes, 1);
	return bpf_map_lookup_elem(&mms, &key);
}

/* Stop counting an address space that is gone. */
static __always_inline void dismiss(u64 key)
{
	struct monitor_mm *entry = bpf_map_lookup_elem(&mms, &key);
	struct monitor_container *container;
	s64 rest;

	if (!entry)
		return;
	container = container_at(entry->slot);
	if (!container || container->namespace_inode != entry->namespace_inode) {
		bpf_map_delete_elem(&mms, &key);
		return;
	}
	rest = exchange(&entry->pages, 0);
	if (rest)
		__sync_fetch_and_add(&container->total, -rest);
	if (!bpf_map_delete_elem(&mms, &key))
		__sync_fetch_and_add(&container->processes, -1);
}

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
	tell(MONITOR_SOFT, container, who, total, container->soft, now);
}

static __always_inline void soft_cleared(struct monitor_container *container, s64 total)
{
	if (container->soft_fired && total < container->clear && exchange(&container->soft_fired, 0))
		tell(MONITOR_SOFT_CLEARED, container, 0, total, container->soft, bpf_ktime_get_ns());
}

static __always_inline void hard_crossing(struct monitor_container *container, struct task_struct *who, s64 total)
{
	if (container->hard_fired || exchange(&container->hard_fired, 1))
		return;
	container->hard_time = bpf_ktime_get_ns();
	container->hard_pages = total;
	container->hard_limit = container->hard;
	container->hard_pid = process_number(who);
	name_of(container->hard_comm, who);
	tell(MONITOR_HARD, container, who, total, container->hard_limit, container->hard_time);
}

/*
 * SIGKILL for the current task's process. In a tracepoint with preemption off the helper goes through the CPU's one
 * irq_work: -EBUSY means that it is in use, and the next event tries again. Once an address space: a signal for each
 * later fault of a long system call costs 17 us a fault.
 */
static __always_inline void kill_current(struct monitor_mm *entry, bool is_own)
{
	if (is_own && entry->killed)
		return;
	if (bpf_send_signal(SIGKILL) != -EBUSY && is_own)
		entry->killed = 1;
}

static __always_inline bool current_is_in(u32 slot, struct task_struct *current)
{
	struct pid *pid = current->thread_pid;
	u32 own = 0;

	return pid && pid->level > base_level && container_of_pid(pid, &own) && own == slot;
}

/*
 * Far from any limit the CPUs' shares are summed only when the folded counters have moved, and at every 16th event: the
 * sum is what costs. Near means that the total could be there with what all processes may hold back.
 */
static __always_inline bool may_wait(struct monitor_container *container, struct monitor_mm *entry, struct mm_struct *mm)
{
	s64 near = container->total + NEAR_PAGES + container->processes * held_back_pages;
	s64 folded;

	if (has_old_layout() || near >= container->hard || (near >= container->soft && !container->soft_fired))
		return 0;
	folded = folded_pages(1, mm);
	if (folded == entry->folded && ++entry->skipped < EXACT_EVERY)
		return 1;
	entry->folded = folded;
	entry->skipped = 0;
	return 0;
}

static __always_inline int changed(struct mm_struct *mm, int member)
{
	struct task_struct *current = (void *)bpf_get_current_task_btf();
	struct mm_struct *active = current->mm;
	u64 key = (u64)mm, active_key = (u64)active;
	struct task_struct *task = current;
	struct monitor_container *container;
	struct monitor_mm *entry;
	s64 pages, difference, total;
	struct pid *pid;
	bool is_own;
	u32 slot;

	if (member == MM_SWAPENTS)
		return 0;
	asm volatile("" : "+r"(active_key)); /* or clang takes the untyped mm for the typed one, which is equal */
	is_own = active_key == key;
	if (is_own) {
		/* This is all that a process in no container pays. */
		pid = current->thread_pid;
		if (!pid || pid->level <= base_level)
			return 0;
		entry = bpf_map_lookup_elem(&mms, &key);
		if (!entry)
			entry = admit(key, task, pid);
	} else {
		/* fork, exec, exit, reclaim, khugepaged, ptrace, process_vm_writev, the OOM reaper */
		entry = bpf_map_lookup_elem(&mms, &key);
		if (!entry) {
			/* NULL when it exits, which only concerns address spaces that are known. */
			task = bpf_core_field_exists(mm->owner) ? BPF_CORE_READ(mm, owner) : 0;
			pid = task ? BPF_CORE_READ(task, thread_pid) : 0;
			if (!pid || BPF_CORE_READ(pid, level) <= base_level)
				return 0;
			entry = admit(key, task, pid);
		}
	}
	if (!entry)
		return 0;
	slot = entry->slot;
	container = container_at(slot);
	if (!container || container->namespace_inode != entry->namespace_inode) {
		bpf_map_delete_elem(&mms, &key);
		return 0;
	}
	if (is_own && may_wait(container, entry, active))
		return 0;
	pages = is_own ? exact_pages(1, active) : exact_pages(0, mm);
	difference = pages - exchange(&entry->pages, pages);
	total = difference ? __sync_fetch_and_add(&container->total, difference) + difference : container->total;
	if (difference > 0) {
		struct task_struct *who = current;

		if (!is_own && bpf_core_field_exists(mm->owner)) {
			who = BPF_CORE_READ(mm, owner);
			who = who ?: current;
		}
		raise_peak(container, total);
		soft_crossing(container, who, total);
		if (total >= container->hard)
			hard_crossing(container, who, total);
	} else {
		if (!container->hard_fired) /* else it is the container that is going */
			soft_cleared(container, total);
		if (!pages && !is_own)
			dismiss(key); /* torn down; a kernel before 6.1 has no exit_mmap to say so */
	}
	/* Sticky: the first victim's exit brings the total below the limit again, and its siblings must not live on. */
	if (container->hard_fired && (is_own || current_is_in(slot, current)))
		kill_current(entry, is_own);
	return 0;
}

SEC("raw_tracepoint/rss_stat")
int rss_stat(struct bpf_raw_tracepoint_args *ctx)
{
	return changed((struct mm_struct *)ctx->args[0], (int)ctx->args[1]);
}

/* From 6.1 on; before, entries go when the container does. */
SEC("raw_tracepoint/exit_mmap")
int exit_mmap(struct bpf_raw_tracepoint_args *ctx)
{
	dismiss(ctx->args[0]);
	return 0;
}

/* Comes before the new program's first instruction, in begin_new_exec()'s caller. */
SEC("raw_tracepoint/sched_process_exec")
int sched_process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *current = (void *)bpf_get_current_task_btf();
	struct pid *pid = current->thread_pid;
	struct monitor_container *container;
	u32 slot;

	if (!pid || pid->level <= base_level)
		return 0;
	container = container_of_pid(pid, &slot);
	if (!container)
		return 0;
	container->watching = 1;
	if (container->hard_fired) /* while no supervisor lives, nothing new begins in it */
		bpf_send_signal(SIGKILL);
	return 0;
}

/* Whom the kernel's OOM killer chose. From 6.8 on the argument is the task; before, its number, which says no more. */
SEC("raw_tracepoint/mark_victim")
int mark_victim(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	struct monitor_container *container;
	struct pid *pid;
	u32 slot;

	if (ctx->args[0] >> 32 == 0)
		return 0;
	pid = BPF_CORE_READ(task, thread_pid);
	if (!pid || BPF_CORE_READ(pid, level) <= base_level)
		return 0;
	container = container_of_pid(pid, &slot);
	if (container)
		tell(MONITOR_OOM_KILL, container, task, container->total, 0, bpf_ktime_get_ns());
	return 0;
}

/*
 * Never attached: user space runs it once, in its own process. Where a CPU's share of a counter lies is found without
 * kallsyms, as the difference between the address of a per-CPU array's value on that CPU and the array's own cookie.
 */
SEC("raw_tracepoint/setup")
int setup(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *current = (void *)bpf_get_current_task_btf();
	struct pid *pid = current->thread_pid;
	u32 zero = 0;
	u64 cookie = 0;

	if (!pid)
		return 1;
	base_level = pid->level;
	if (has_old_layout())
		return 0;
	laundry = (u64)&percpu; /* through memory: the verifier does no arithmetic on a map's address */
	if (bpf_probe_read_kernel(&cookie, sizeof(cookie), (void *)(laundry + bpf_core_field_offset(struct bpf_array, pptrs))))
		return 2;
	for (u32 cpu = 0; cpu < MAX_CPUS && cpu < cpus; cpu++) {
		void *value = bpf_map_lookup_percpu_elem(&percpu, &zero, cpu);

		if (!value)
			return 3;
		laundry = (u64)value;
		cpu_offset[cpu] = laundry - cookie;
	}
	return 0;
}

/*
 * Never attached either: user space reads an iterator of it once, after it has put running containers into "slots". It
 * counts what they have already, that of processes which sleep too.
 */
SEC("iter/task")
int seed(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[1]; /* struct bpf_iter__task */
	struct monitor_container *container;
	struct mm_struct *mm;
	struct monitor_mm *entry;
	s64 pages, difference, total;
	struct pid *pid;
	u64 key;

	if (!task)
		return 0;
	mm = BPF_CORE_READ(task, mm);
	pid = BPF_CORE_READ(task, thread_pid);
	if (!mm || !pid || BPF_CORE_READ(pid, level) <= base_level)
		return 0;
	key = (u64)mm;
	entry = bpf_map_lookup_elem(&mms, &key);
	if (!entry)
		entry = admit(key, task, pid);
	if (!entry)
		return 0;
	container = container_at(entry->slot);
	if (!container || container->namespace_inode != entry->namespace_inode)
		return 0;
	pages = exact_pages(0, mm);
	difference = pages - exchange(&entry->pages, pages);
	total = __sync_fetch_and_add(&container->total, difference) + difference;
	if (difference > 0) {
		raise_peak(container, total);
		soft_crossing(container, task, total);
		if (total >= container->hard)
			hard_crossing(container, task, total);
	}
	/* exit_mm() takes it from the task before exit_mmap: if it is still there, exit_mmap finds the entry. */
	if (BPF_CORE_READ(task, mm) != mm)
		dismiss(key);
	return 0;
}
