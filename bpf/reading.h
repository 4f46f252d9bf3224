/* SPDX-License-Identifier: GPL-2.0 */
/* How monitor.bpf.c finds its way in the kernel: a process's counters, its names and numbers. */
#ifndef WHERRY_READING_H
#define WHERRY_READING_H

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "kernel.h"
#include "monitor.h"

#define MAX_CPUS 512
#define TICK 10000000 /* nanoseconds; USER_HZ is 100 */
#define LEVEL_BYTES 4095 /* all numbers[]: a level is at most 32 (MAX_PID_NS_LEVEL, include/linux/pid_namespace.h) */

/* Set by the loader before the program is loaded. */
const volatile u32 cpus = 1; /* how many there may ever be */
const volatile u16 cpu_numbers[MAX_CPUS] = { 0 }; /* of these: there may be holes */

/* Set by "setup" and read by the rest. */
u32 base_level; /* of the supervisor's pid namespace */
u64 cpu_offset[MAX_CPUS]; /* as in cpu_numbers */

struct own_cpu {
	u64 offset; /* as in cpu_offset */
	u64 key[4]; /* by member, the address space that last changed here */
	s32 share[4]; /* and what the CPU held back of its counter after that */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct own_cpu);
} percpu SEC(".maps");

/* A pointer reached from the current task is typed, and read by one fault-safe load; a raw tracepoint's argument is
 * not, and needs bpf_probe_read_kernel. */
#define READ(typed, p, field) ((typed) ? (p)->field : BPF_CORE_READ(p, field))

/* The subscripts must be constants: with a variable, clang scales by the size of our own struct, and CO-RE cannot mend
 * that. */
#define READ_MEMBER(typed, mm, member, field)                                                      \
	((member) == MM_ANONPAGES ? READ(typed, mm, rss_stat[MM_ANONPAGES].field) :               \
	 (member) == MM_FILEPAGES ? READ(typed, mm, rss_stat[MM_FILEPAGES].field) :               \
				    READ(typed, mm, rss_stat[MM_SHMEMPAGES].field))

static __always_inline bool has_old_layout(void)
{
	return bpf_core_type_exists(struct mm_rss_stat);
}

/* Always by probe_read: 6.1's verifier does not walk a typed pointer into an array of atomic_long_t. */
static __always_inline s64 old_pages(struct mm_struct *mm, const u32 member)
{
	struct mm_struct___old *old = (void *)mm;

	return member == MM_ANONPAGES ? BPF_CORE_READ(old, rss_stat.count[MM_ANONPAGES].counter) :
	       member == MM_FILEPAGES ? BPF_CORE_READ(old, rss_stat.count[MM_FILEPAGES].counter) :
					BPF_CORE_READ(old, rss_stat.count[MM_SHMEMPAGES].counter);
}

static __always_inline s64 held_back(u64 counters, u64 offset)
{
	s32 value;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)(counters + offset)); /* 0 when it cannot be read */
	return value;
}

static __always_inline s64 all_held_back(u64 counters)
{
	s64 sum = 0;

	for (u32 i = 0; i < MAX_CPUS && i < cpus; i++)
		sum += held_back(counters, cpu_offset[i]);
	return sum;
}

/*
 * One counter: what tasks see of it, and what each CPU holds back, up to max(32, 2 * cpus) pages. A CPU that lets go of
 * its share while we sum would hide all of it, or show it twice; then what tasks see has moved, and it is summed once
 * more. A counter without shares is one that the kernel has not given any (yet).
 */
static __always_inline s64 exact_pages(const bool typed, struct mm_struct *mm, const u32 member)
{
	s64 seen, again, sum;
	u64 counters;

	if (has_old_layout()) {
		sum = old_pages(mm, member);
		return sum < 0 ? 0 : sum;
	}
	counters = (u64)READ_MEMBER(typed, mm, member, counters);
	seen = READ_MEMBER(typed, mm, member, count);
	if (!counters)
		return seen < 0 ? 0 : seen;
	sum = seen + all_held_back(counters);
	again = READ_MEMBER(typed, mm, member, count);
	if (again != seen)
		sum = again + all_held_back(counters);
	return sum < 0 ? 0 : sum;
}

/*
 * The entry of a pid's numbers[] for a level; an array of one, whose real length is the pid's own. The mask is for
 * 6.1's verifier: it takes a constant times a variable for unbounded.
 */
static __always_inline void *number_at(struct pid *pid, u32 level)
{
	return (void *)pid + bpf_core_field_offset(struct pid, numbers) +
	       (level * bpf_core_type_size(struct upid) & LEVEL_BYTES);
}

/* The pid namespace that a container at the level below the supervisor's would have. */
static __always_inline struct pid_namespace *namespace_at(struct pid *pid)
{
	struct pid_namespace *ns = 0;

	bpf_probe_read_kernel(&ns, sizeof(ns), number_at(pid, base_level + 1) + bpf_core_field_offset(struct upid, ns));
	return ns;
}

/* Its inode. */
static __always_inline u32 namespace_of(struct pid *pid)
{
	struct pid_namespace *ns = namespace_at(pid);

	return ns ? BPF_CORE_READ(ns, ns.inum) : 0;
}

/* When its first process was made, in the clock ticks of /proc/PID/stat. */
static __always_inline u32 birth_of(struct pid *pid)
{
	struct pid_namespace *ns = namespace_at(pid);
	struct task_struct *first = ns ? BPF_CORE_READ(ns, child_reaper) : 0;

	return first ? BPF_CORE_READ(first, group_leader, start_boottime) / TICK : 0;
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

/*
 * By how much this CPU's share of a member has changed since the last change here, or -1 when that is not known: the
 * last one was another process's, or somebody else has changed this one's. 0 is also what a CPU holds back after it has
 * passed on all of it.
 */
static __always_inline s64 change_here(struct mm_struct *mm, u32 member)
{
	u32 zero = 0, at = member;
	struct own_cpu *own = bpf_map_lookup_elem(&percpu, &zero);
	s64 share, change;
	bool is_known;

	asm volatile("" : "+r"(at)); /* or clang leaves the mask out, which the verifier wants to see */
	at &= 3;
	if (!own)
		return -1;
	share = held_back((u64)READ_MEMBER(1, mm, member, counters), own->offset);
	change = share - own->share[at];
	is_known = share && own->key[at] == (u64)mm;
	own->share[at] = share;
	own->key[at] = (u64)mm;
	return !is_known ? -1 : change < 0 ? -change : change;
}

static __always_inline void forget_share(u32 member)
{
	u32 zero = 0, at = member;
	struct own_cpu *own = bpf_map_lookup_elem(&percpu, &zero);

	asm volatile("" : "+r"(at));
	at &= 3;
	if (own)
		own->key[at] = 0;
}

#endif
