// SPDX-License-Identifier: GPL-2.0
/*
 * Soft and hard limits on the memory of containers, enforced in the page fault that crosses them.
 *
 * The tracepoint kmem:rss_stat comes with every change of a process's resident set size. Each time, the program reads
 * the absolute size of what has changed and puts the difference to what it knew into the container's total: whatever
 * the interleaving on several CPUs, the total is the sum of the entries of "mms". A container is found by its pid
 * namespace, which no task can leave: all pid namespaces of containers are children of the supervisor's, so the one to
 * look at is at a fixed level, however deeply a container nests its own.
 *
 * What a parked first process has before its execve is a copy of the shim and no container's. Counting begins with the
 * first execve in the namespace, and a first process that never calls it (wherry's own init) is left out.
 *
 * One object for all kernels: types are minimal CO-RE flavours, and the kernel that loads it relocates them.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "crossing.h"
#include "kernel.h"
#include "monitor.h"
#include "reading.h"

#define E2BIG 7
#define ENOMEM 12
#define NEAR_PAGES 64

char LICENSE[] SEC("license") = "GPL";

/* Set by the loader before the program is loaded. */
const volatile u32 unseen_pages = 0; /* what a process may have that is not in its sum, far from a limit */
const volatile u32 most_processes = 1; /* the size of "mms" */

volatile u64 laundry; /* see "setup" */

/* Counted here and read by user space. */
u64 lost_processes; /* there was no room in "mms": a process that is not counted */
u64 counted; /* entries of "mms" */

/*
 * Preallocated: before 6.1 a tracing program gets an element of its own only so. And not LRU: a live entry that was
 * evicted would leave its pages in the total for ever.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, struct monitor_mm);
} mms SEC(".maps");

/* Address spaces that found no room in "mms": each is counted once, and killed once. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct monitor_kill);
} refused SEC(".maps");

static __always_inline bool current_is_in(u32 slot, struct task_struct *current)
{
	struct pid *pid = current->thread_pid;
	u32 own = 0;

	return pid && pid->level > base_level && container_of_pid(pid, &own) && own == slot;
}

/*
 * What has come into the container from outside and is a copy of the shim still: an exec before its execve. Its parent
 * is outside, as nobody's is who was forked inside, and has the same executable, the very same open file. Somebody
 * inside can make itself a brother (CLONE_PARENT), but that has another file.
 */
static __always_inline bool is_copy_of_outsider(struct task_struct *task)
{
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	struct pid *pid = parent ? BPF_CORE_READ(parent, thread_pid) : 0;

	return pid && BPF_CORE_READ(pid, level) <= base_level &&
	       BPF_CORE_READ(task, mm, exe_file) == BPF_CORE_READ(parent, mm, exe_file);
}

/*
 * A copy of the shim, which is no container's memory: one that is to become an exec, or wherry's own init, which
 * --init puts before the command: number 1, has forked and never called execve. A child that is just being forked has
 * its parent's pid still, and never called execve either: there the parent decides.
 */
static __always_inline bool is_ours(struct task_struct *task, struct pid *pid)
{
	struct task_struct *current = (void *)bpf_get_current_task_btf();
	u32 flags = current->thread_pid == pid ? current->flags : BPF_CORE_READ(task, flags);
	int number = 0;

	if (!(flags & PF_FORKNOEXEC))
		return 0;
	bpf_probe_read_kernel(&number, sizeof(number),
			      number_at(pid, base_level + 1) + bpf_core_field_offset(struct upid, nr));
	return number == 1 || is_copy_of_outsider(task);
}

/*
 * A process that cannot be counted. A container with a hard limit dies of it: it could hold any amount of memory there.
 * What has none is let through, and its element says that its figures are too low.
 */
static __always_inline void refuse(u64 key, struct monitor_container *container, u32 slot, struct task_struct *task)
{
	struct task_struct *current = (void *)bpf_get_current_task_btf();
	struct monitor_kill none = {}, *last;

	if (!bpf_map_update_elem(&refused, &key, &none, BPF_NOEXIST)) {
		add(&container->uncounted, 1);
		add(&lost_processes, 1);
	}
	if (container->hard == MONITOR_NO_LIMIT)
		return;
	hard_crossing(container, task, container->total, MONITOR_UNCOUNTED);
	last = bpf_map_lookup_elem(&refused, &key);
	if (last && current_is_in(slot, current))
		kill_current(last);
}

/*
 * A container gets no more entries than are free then. So a single one gets half of the map, two that want all of it a
 * third each, and there is always room for who comes next.
 */
static __always_inline bool has_room(struct monitor_container *container)
{
	return (u64)container->processes < most_processes - counted;
}

/* Begin to count an address space. "task" is one of its tasks, whose pid is below our level. */
static __always_inline struct monitor_mm *admit(u64 key, struct task_struct *task, struct pid *pid)
{
	struct monitor_mm new = { .key = key, .unseen = unseen_pages + 1 };
	struct monitor_container *container = container_of_pid(pid, &new.slot);
	s32 error; /* before 6.4 the upper half of what the helper returns is not set: its inlined function returns int */

	if (!container || !container->watching || is_ours(task, pid))
		return 0;
	new.namespace_inode = container->namespace_inode;
	error = has_room(container) ? bpf_map_update_elem(&mms, &key, &new, BPF_NOEXIST) : -E2BIG;
	if (!error) {
		add(&container->processes, 1);
		add(&counted, 1);
	} else if (error == -E2BIG || error == -ENOMEM) {
		refuse(key, container, new.slot, task);
		return 0;
	}
	return bpf_map_lookup_elem(&mms, &key);
}

/* What an entry holds of its container's total, taken off. */
static __always_inline void take_back(struct monitor_container *container, struct monitor_mm *entry)
{
	for (u32 member = 0; member <= LAST_MEMBER; member++) {
		s64 rest = exchange(&entry->pages[member], 0);

		if (rest)
			add(&container->total, -rest);
	}
}

/* Stop counting an address space that is gone. */
static __always_inline void dismiss(u64 key)
{
	struct monitor_mm *entry = bpf_map_lookup_elem(&mms, &key);
	struct monitor_container *container;
	bool is_its;

	if (!entry) {
		if (lost_processes)
			bpf_map_delete_elem(&refused, &key);
		return;
	}
	if (exchange(&entry->key, 0) != key)
		return; /* somebody else is at it */
	container = container_at(entry->slot);
	is_its = container && container->namespace_inode == entry->namespace_inode;
	if (is_its)
		take_back(container, entry);
	if (bpf_map_delete_elem(&mms, &key)) {
		entry->key = key; /* it stays, and what is put there must not be taken for another one's */
		return;
	}
	add(&counted, -1);
	if (is_its)
		add(&container->processes, -1);
}

/*
 * Put one member of an address space; returns by how much its container's total changes. The element of a hash that is
 * deleted is at once another key's, and this CPU may have looked ours up before: then what we put is taken out again as
 * a difference, since the new owner may have put its own meanwhile.
 */
static __always_inline s64 put(struct monitor_container *container, struct monitor_mm *entry, u64 key, const u32 member,
			       s64 pages)
{
	s64 before = exchange(&entry->pages[member], pages);
	u64 owner = *(volatile u64 *)&entry->key;

	if (owner == key)
		return pages - before;
	add(&entry->pages[member], before - pages);
	if (!owner) /* it is just being dismissed, perhaps with what was ours for a moment */
		take_back(container, entry);
	return 0;
}

static __always_inline s64 put_all(const bool typed, struct monitor_container *container, struct monitor_mm *entry,
				   u64 key, struct mm_struct *mm)
{
	entry->unseen = 0;
	return put(container, entry, key, MM_FILEPAGES, exact_pages(typed, mm, MM_FILEPAGES)) +
	       put(container, entry, key, MM_ANONPAGES, exact_pages(typed, mm, MM_ANONPAGES)) +
	       put(container, entry, key, MM_SHMEMPAGES, exact_pages(typed, mm, MM_SHMEMPAGES));
}

static __always_inline s64 put_member(const bool typed, struct monitor_container *container, struct monitor_mm *entry,
				      u64 key, struct mm_struct *mm, int member)
{
	if (member == MM_ANONPAGES)
		return put(container, entry, key, MM_ANONPAGES, exact_pages(typed, mm, MM_ANONPAGES));
	if (member == MM_FILEPAGES)
		return put(container, entry, key, MM_FILEPAGES, exact_pages(typed, mm, MM_FILEPAGES));
	return put(container, entry, key, MM_SHMEMPAGES, exact_pages(typed, mm, MM_SHMEMPAGES));
}

/*
 * On many CPUs the sum is what costs, and far from any limit it may wait: for as long as all that the process's CPUs
 * have changed since the last one is less than unseen_pages. Near means that the total could be there with what all
 * processes may have unseen.
 */
static __always_inline bool may_wait(struct monitor_container *container, struct monitor_mm *entry,
				     struct mm_struct *mm, int member)
{
	s64 near = container->total + NEAR_PAGES + container->processes * unseen_pages;
	s64 change;

	if (has_old_layout() || !unseen_pages)
		return 0;
	change = change_here(mm, member);
	if (change < 0 || near >= container->hard || (near >= container->soft && !container->soft_fired))
		return 0;
	return add(&entry->unseen, change) + change < unseen_pages;
}

/*
 * Whether an entry is that of the current task's container. It could have been left by an address space whose end
 * nobody told of, and that had this address before. Compared once for each process that comes here.
 */
static __always_inline bool is_of(struct monitor_mm *entry, struct task_struct *current, struct pid *pid)
{
	u64 leader = (u64)current->group_leader;

	if (entry->leader == leader)
		return 1;
	if (namespace_of(pid) != entry->namespace_inode)
		return 0;
	entry->leader = leader;
	return 1;
}

/* The entry for a change that the current task makes to its own memory, or 0. */
static __always_inline struct monitor_mm *own_entry(u64 key, struct task_struct *current)
{
	struct pid *pid = current->thread_pid;
	struct monitor_mm *entry;

	/* This is all that a process in no container pays. */
	if (!pid || pid->level <= base_level)
		return 0;
	entry = bpf_map_lookup_elem(&mms, &key);
	if (entry && !is_of(entry, current, pid)) {
		dismiss(key);
		entry = 0;
	}
	return entry ?: admit(key, current, pid);
}

/* For that of another one: fork, exec, exit, reclaim, khugepaged, ptrace, process_vm_writev, the OOM reaper. */
static __always_inline struct monitor_mm *foreign_entry(u64 key, struct mm_struct *mm)
{
	struct monitor_mm *entry = bpf_map_lookup_elem(&mms, &key);
	struct task_struct *task;
	struct pid *pid;

	if (entry)
		return entry;
	/* NULL when it exits, which only concerns address spaces that are known. */
	task = bpf_core_field_exists(mm->owner) ? BPF_CORE_READ(mm, owner) : 0;
	pid = task ? BPF_CORE_READ(task, thread_pid) : 0;
	return pid && BPF_CORE_READ(pid, level) > base_level ? admit(key, task, pid) : 0;
}

static __always_inline struct task_struct *owner_of(struct mm_struct *mm, struct task_struct *otherwise)
{
	struct task_struct *owner = bpf_core_field_exists(mm->owner) ? BPF_CORE_READ(mm, owner) : 0;

	return owner ?: otherwise;
}

static __always_inline int changed(struct mm_struct *mm, int member)
{
	struct task_struct *current = (void *)bpf_get_current_task_btf();
	struct mm_struct *active = current->mm;
	u64 key = (u64)mm, active_key = (u64)active;
	struct monitor_container *container;
	struct monitor_mm *entry;
	s64 difference, total;
	bool is_own;

	if (member == MM_SWAPENTS || member < 0 || member > LAST_MEMBER)
		return 0;
	asm volatile("" : "+r"(active_key)); /* or clang takes the untyped mm for the typed one, which is equal */
	is_own = active_key == key;
	entry = is_own ? own_entry(key, current) : foreign_entry(key, mm);
	if (!entry)
		return 0;
	container = container_at(entry->slot);
	if (!container || container->namespace_inode != entry->namespace_inode) {
		dismiss(key);
		return 0;
	}
	if (is_own && !container->hard_begun && may_wait(container, entry, active, member))
		return 0;
	if (!is_own && unseen_pages)
		forget_share(member);
	if (entry->unseen)
		difference = is_own ? put_all(1, container, entry, key, active) : put_all(0, container, entry, key, mm);
	else
		difference = is_own ? put_member(1, container, entry, key, active, member) :
				      put_member(0, container, entry, key, mm, member);
	total = difference ? add(&container->total, difference) + difference : container->total;
	if (difference > 0) {
		grown(container, is_own ? current : owner_of(mm, current), total);
	} else {
		if (!container->hard_begun) /* else it is the container that is going */
			soft_cleared(container, total);
		if (!is_own && !(entry->pages[MM_FILEPAGES] | entry->pages[MM_ANONPAGES] | entry->pages[MM_SHMEMPAGES]))
			dismiss(key); /* torn down; a kernel before 6.1 has no exit_mmap to say so */
	}
	if (container->hard_begun && (is_own || current_is_in(entry->slot, current)))
		kill_current(&entry->kill);
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
	if (container->hard_begun) /* while no supervisor lives, nothing new begins in it */
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
	if (container && !tell(MONITOR_OOM_KILL, container, task, container->total, 0, bpf_ktime_get_ns()))
		add(&lost_events, 1);
	return 0;
}

/*
 * Never attached: user space runs it in its own process, for what needs the kernel's atomic operations and must come as
 * any other event does. A container that does not change any more has nobody else who looks.
 */
SEC("raw_tracepoint/act")
int act(struct bpf_raw_tracepoint_args *ctx)
{
	struct monitor_container *container;
	s64 total;

	if (ctx->args[0] == MONITOR_FORGET) {
		dismiss(ctx->args[1]);
		return 0;
	}
	container = container_at(ctx->args[1]);
	if (!container)
		return 1;
	total = container->total;
	if (ctx->args[0] == MONITOR_UPDATED && total >= container->clear)
		container->soft_fired = 0; /* a new limit is a new crossing */
	if (!container->hard_begun)
		soft_cleared(container, total);
	soft_crossing(container, 0, total);
	if (total >= container->hard)
		hard_crossing(container, 0, total, MONITOR_CROSSED);
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
	for (u32 i = 0; i < MAX_CPUS && i < cpus; i++) {
		struct own_cpu *own = bpf_map_lookup_percpu_elem(&percpu, &zero, cpu_numbers[i]);

		if (!own)
			return 3;
		laundry = (u64)own;
		own->offset = cpu_offset[i] = laundry - cookie;
	}
	return 0;
}

/*
 * Not attached either: user space reads this iterator once, after it has put running containers into "slots". It counts
 * what they have already, that of processes which sleep too.
 */
SEC("iter/task")
int seed(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[1]; /* struct bpf_iter__task */
	struct monitor_container *container;
	struct monitor_mm *entry;
	struct mm_struct *mm;
	s64 difference;
	struct pid *pid;
	u64 key;

	if (!task)
		return 0;
	mm = BPF_CORE_READ(task, mm);
	pid = BPF_CORE_READ(task, thread_pid);
	if (!mm || !pid || BPF_CORE_READ(pid, level) <= base_level)
		return 0;
	key = (u64)mm;
	entry = bpf_map_lookup_elem(&mms, &key) ?: admit(key, task, pid);
	if (!entry)
		return 0;
	container = container_at(entry->slot);
	if (!container || container->namespace_inode != entry->namespace_inode)
		return 0;
	difference = put_all(0, container, entry, key, mm);
	if (difference)
		grown(container, task, add(&container->total, difference) + difference);
	/* exit_mm() takes it from the task before exit_mmap: if it is still there, exit_mmap finds the entry. */
	if (BPF_CORE_READ(task, mm) != mm)
		dismiss(key);
	return 0;
}
