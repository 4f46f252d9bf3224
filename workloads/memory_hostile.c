/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that tries to get past a limit, or to wear out whoever watches it. For tests; see usage().
 *
 * All of it is in 4 KiB pages, and each mode says on stdout when it has got to its end, and then sleeps: whoever reads
 * that knows that nobody stopped it. What is to happen between two steps waits for SIGUSR1, not for a time.
 */
#include "workload.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MIB = 1024 * 1024, PAGE = 4096, STACK = 256 * 1024, LOOP_MILLISECONDS = 30, GROW_MILLISECONDS = 20 };

static void usage(FILE *stream)
{
	fputs("usage: memory_hostile MODE A B\n"
	      "  share A B     a child with the same address space touches A MiB; when it has ended its parent touches B\n"
	      "                more, in steps\n"
	      "  vfork A B     the same by vfork, so that the parent waits meanwhile\n"
	      "  exiting A B   touches A MiB; a thread touches 8 more when it has begun to exit, then the rest goes on by B\n"
	      "  flap A B      up to A MiB, at once down to B, at once up to A again\n"
	      "  loop A B      the same again and again, 30 ms in each state\n"
	      "  storm A B     the same without a pause\n"
	      "  grow A B      touches A MiB; then B more every 20 ms, without end\n"
	      "  step A B      touches A MiB; then B more at each SIGUSR1\n"
	      "  children A B  A children; when all are there, and after a SIGUSR1, each touches B pages\n"
	      "  threads A B   the same with threads\n",
	      stream);
}

static void wait_for_word(void)
{
	sigset_t signals;
	int received;

	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigwait(&signals, &received);
}

/* Blocked from the beginning, and so in all children and threads: one that comes early is not lost. */
static void block_word(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);
}

static unsigned char *map(size_t bytes)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *memory = mmap(NULL, bytes ? bytes : PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (memory == MAP_FAILED)
		fail("cannot reserve %zu bytes: %s", bytes, strerror(errno));
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	return memory;
}

static void touch(volatile unsigned char *memory, size_t bytes)
{
	for (size_t offset = 0; offset < bytes; offset += PAGE)
		memory[offset] = 0xa5;
}

/* Its stack is touched beforehand: the child's page faults are then those of its memory only. */
static unsigned char *make_stack(void)
{
	unsigned char *stack = map(STACK);

	touch(stack, STACK);
	return stack + STACK;
}

static void go_on(size_t bytes)
{
	touch(map(bytes), bytes);
	say("memory_hostile: nobody stopped it");
	pause();
}

/* Two processes, one address space. */

struct portion {
	unsigned char *memory;
	size_t bytes;
};

static int touch_and_end(void *portion)
{
	touch(((struct portion *)portion)->memory, ((struct portion *)portion)->bytes);
	_exit(3);
}

static void share(size_t bytes, size_t more, int flags)
{
	struct portion portion = { .memory = map(bytes), .bytes = bytes };
	int status = 0;
	const int pid = clone(touch_and_end, make_stack(), CLONE_VM | SIGCHLD | flags, &portion);

	if (pid < 0)
		fail("cannot clone: %s", strerror(errno));
	waitpid(pid, &status, 0);
	say("memory_hostile: the child ended by signal %d", WTERMSIG(status));
	go_on(more);
}

/*
 * A thread that touches memory when it has begun to exit: the kernel walks its list of robust futexes after it has set
 * PF_EXITING, and each entry lies in a page that nobody has touched yet (futex_cleanup, kernel/futex/core.c).
 */

enum { ROBUST_PAGES = 2048 }; /* ROBUST_LIST_LIMIT, include/uapi/linux/futex.h */

static struct robust_list_head robust;
static volatile bool is_exiting;

static int exit_robustly(void *unused)
{
	(void)unused;
	syscall(SYS_set_robust_list, &robust, sizeof(robust));
	is_exiting = true;
	syscall(SYS_exit, 0);
	return 0;
}

/* In a file, so that the list can be written without touching what it will be read through. */
static void make_robust_list(void)
{
	const int file = memfd_create("robust", MFD_CLOEXEC);
	unsigned char *list = MAP_FAILED;

	if (file >= 0 && ftruncate(file, ROBUST_PAGES * (off_t)PAGE) == 0)
		list = mmap(NULL, ROBUST_PAGES * (size_t)PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (list == MAP_FAILED)
		fail("cannot map a memfd: %s", strerror(errno));
	for (int i = 0; i < ROBUST_PAGES; i++) {
		const bool is_last = i == ROBUST_PAGES - 1;
		const uintptr_t next = is_last ? (uintptr_t)&robust : (uintptr_t)(list + (i + 1) * (size_t)PAGE);

		if (pwrite(file, &next, sizeof(next), i * (off_t)PAGE) != sizeof(next))
			fail("cannot write to a memfd: %s", strerror(errno));
	}
	robust.list.next = (void *)list;
	robust.futex_offset = sizeof(uintptr_t);
}

static void exit_in_thread(size_t bytes, size_t more)
{
	const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

	make_robust_list();
	touch(map(bytes), bytes);
	const int thread = clone(exit_robustly, make_stack(), flags, NULL);

	if (thread < 0)
		fail("cannot clone: %s", strerror(errno));
	while (!is_exiting)
		sched_yield();
	while (syscall(SYS_tgkill, getpid(), thread, 0) == 0) /* until it is gone */
		sched_yield();
	say("memory_hostile: the thread has ended");
	go_on(more);
}

/* Up and down. */

static void flap(size_t high, size_t low)
{
	unsigned char *memory = map(high);

	touch(memory, high);
	madvise(memory + low, high - low, MADV_DONTNEED);
	touch(memory, high);
	say("memory_hostile: %zu bytes, %zu, and again", high, low);
	pause();
}

static void loop(size_t high, size_t low, unsigned long long milliseconds)
{
	unsigned char *memory = map(high);

	for (;;) {
		touch(memory, high);
		sleep_milliseconds(milliseconds);
		madvise(memory + low, high - low, MADV_DONTNEED);
		sleep_milliseconds(milliseconds);
	}
}

/* Growing. */

static void grow(size_t bytes, size_t step)
{
	touch(map(bytes), bytes);
	say("memory_hostile: %zu bytes held", bytes);
	for (;;) {
		sleep_milliseconds(GROW_MILLISECONDS);
		touch(map(step), step);
	}
}

static void step_by_word(size_t bytes, size_t step)
{
	touch(map(bytes), bytes);
	for (;;) {
		say("memory_hostile: %zu bytes held", bytes);
		wait_for_word();
		touch(map(step), step);
		bytes += step;
	}
}

/* Many small ones: a page, or a few, in each. */

static int gate[2];
static int ready[2];

static void *be_one_of_many(void *bytes)
{
	char word;

	if (write(ready[1], "", 1) != 1 || read(gate[0], &word, 1) != 1)
		fail("cannot talk to the others: %s", strerror(errno));
	touch(map((size_t)bytes), (size_t)bytes);
	if (write(ready[1], "", 1) != 1)
		fail("cannot talk to the others: %s", strerror(errno));
	pause();
	return NULL;
}

static void make_thread(size_t bytes)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int error;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK);
	error = pthread_create(&thread, &attributes, be_one_of_many, (void *)bytes);
	if (error != 0)
		fail("cannot make a thread: %s", strerror(error));
}

static void make_child(size_t bytes)
{
	const pid_t pid = fork();

	if (pid < 0)
		fail("cannot fork: %s", strerror(errno));
	if (pid == 0) {
		be_one_of_many((void *)bytes);
		_exit(0);
	}
}

static void wait_for_all(size_t count)
{
	char word;

	for (size_t i = 0; i < count; i++)
		if (read(ready[0], &word, 1) != 1)
			fail("cannot talk to the others: %s", strerror(errno));
}

static void be_many(size_t count, size_t bytes, void (*make)(size_t))
{
	if (pipe(gate) != 0 || pipe(ready) != 0)
		fail("cannot make a pipe: %s", strerror(errno));
	for (size_t i = 0; i < count; i++)
		make(bytes);
	wait_for_all(count);
	say("memory_hostile: %zu are there", count);
	wait_for_word();
	for (size_t i = 0; i < count; i++)
		if (write(gate[1], "", 1) != 1)
			fail("cannot talk to the others: %s", strerror(errno));
	wait_for_all(count);
	say("memory_hostile: %zu have touched %zu bytes each", count, bytes);
	pause();
}

static int run(const char *mode, size_t a, size_t b)
{
	if (strcmp(mode, "share") == 0)
		share(a * MIB, b * MIB, 0);
	else if (strcmp(mode, "vfork") == 0)
		share(a * MIB, b * MIB, CLONE_VFORK);
	else if (strcmp(mode, "exiting") == 0)
		exit_in_thread(a * MIB, b * MIB);
	else if (strcmp(mode, "flap") == 0 && b <= a)
		flap(a * MIB, b * MIB);
	else if (strcmp(mode, "loop") == 0 && b <= a)
		loop(a * MIB, b * MIB, LOOP_MILLISECONDS);
	else if (strcmp(mode, "storm") == 0 && b <= a)
		loop(a * MIB, b * MIB, 0);
	else if (strcmp(mode, "grow") == 0)
		grow(a * MIB, b * MIB);
	else if (strcmp(mode, "step") == 0)
		step_by_word(a * MIB, b * MIB);
	else if (strcmp(mode, "children") == 0)
		be_many(a, b * PAGE, make_child);
	else if (strcmp(mode, "threads") == 0)
		be_many(a, b * PAGE, make_thread);
	else
		usage(stderr);
	return 2;
}

int main(int argc, char **argv)
{
	struct argument arguments[] = {
		{ .name = "A", .minimum = 1, .maximum = 1048576, .value = 0 },
		{ .name = "B", .minimum = 0, .maximum = 1048576, .value = 0 },
	};

	if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		usage(stdout);
		return 0;
	}
	if (argc != 4) {
		usage(stderr);
		return 2;
	}
	block_word();
	parse_arguments(argc - 1, argv + 1, "see memory_hostile --help", arguments, 2);
	return run(argv[1], (size_t)arguments[0].value, (size_t)arguments[1].value);
}
