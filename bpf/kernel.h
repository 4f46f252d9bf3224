/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What monitor.bpf.c reads of the kernel: as much of its types as that takes, which the kernel that loads the object
 * relocates to its own.
 */
#ifndef WHERRY_KERNEL_H
#define WHERRY_KERNEL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
typedef _Bool bool;

#define PF_FORKNOEXEC 0x00000040 /* forked, but has not called execve (include/linux/sched.h) */

enum { MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES }; /* include/linux/mm_types_task.h */
#define LAST_MEMBER MM_SHMEMPAGES

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct ns_common {
	u32 inum;
};
struct pid_namespace {
	struct ns_common ns;
	struct task_struct *child_reaper; /* its first process, or a thread of that */
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
	struct file *exe_file;
	struct percpu_counter rss_stat[4]; /* from 6.2 on */
	struct task_struct *owner; /* with CONFIG_MEMCG */
};
struct task_struct {
	u32 flags;
	struct mm_struct *mm;
	struct pid *thread_pid;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	u64 start_boottime; /* nanoseconds */
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

#endif
