/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Grows memory in all the ways that a limit has to meet. For tests and benchmarks; see usage().
 *
 * With PROGRESS=FILE in its environment it maps FILE (16 bytes), puts its resident size at the start into the first
 * word and counts the bytes it has written to in the second one: what it reached is known after it was killed.
 */
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MIB = 1024 * 1024, HUGE_PAGE = 2 * MIB, AT_ONCE = 50 };

struct progress {
	uint64_t resident_at_start;
	uint64_t touched;
};

static struct progress nobody_looks;
static struct progress *progress = &nobody_looks;

static void usage(void)
{
	fputs("usage: memory_grow pages MIB THREADS      4 KiB pages, all threads at once\n"
	      "       memory_grow huge MIB THREADS       huge pages\n"
	      "       memory_grow slowly MIB MS          4 KiB pages, and a sleep after each MiB\n"
	      "       memory_grow pages-held MIB THREADS, huge-held MIB THREADS: say so, and sleep\n"
	      "       memory_grow processes MIB COUNT    4 KiB pages, MIB in all, in COUNT children\n"
	      "       memory_grow read MIB FILE          one read() of MIB from FILE\n"
	      "       memory_grow storm 0 COUNT          COUNT short processes, 50 at a time; then sleeps\n"
	      "       memory_grow thread 0 ACTION        a second thread does it: sleep, exit (137), kill, exec\n"
	      "       memory_grow faults MIB ROUNDS      prints the CPU time of a page fault, in nanoseconds\n",
	      stderr);
	exit(2);
}

static uint64_t resident(void)
{
	unsigned long long size = 0, pages = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	if (file == NULL || fscanf(file, "%llu %llu", &size, &pages) != 2)
		fail("cannot read /proc/self/statm");
	fclose(file);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void open_progress(const char *path)
{
	const int descriptor = open(path, O_RDWR | O_CLOEXEC);
	void *memory = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);

	if (descriptor < 0 || memory == MAP_FAILED)
		fail("cannot map %s: %s", path, strerror(errno));
	progress = memory;
	progress->touched = 0; /* and its page is resident */
	progress->resident_at_start = resident();
}

static unsigned char *reserve(size_t bytes, int advice)
{
	void *memory = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uintptr_t address = ((uintptr_t)memory + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);

	if (memory == MAP_FAILED)
		fail("cannot reserve %zu bytes: %s", bytes, strerror(errno));
	madvise((void *)address, bytes, advice);
	return (unsigned char *)address;
}

struct share {
	size_t bytes;
	int advice;
	pthread_t thread;
};

static void *grow(void *argument)
{
	const struct share *share = argument;
	volatile unsigned char *memory = reserve(share->bytes, share->advice);
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);

	for (size_t offset = 0; offset < share->bytes; offset += page) {
		memory[offset] = 0xa5;
		__atomic_fetch_add(&progress->touched, page, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void grow_in_threads(size_t bytes, size_t count, int advice)
{
	struct share *shares = calloc(count, sizeof(*shares));

	for (size_t i = 0; i < count; i++) {
		shares[i] = (struct share){ .bytes = bytes / count, .advice = advice };
		if (i > 0 && pthread_create(&shares[i].thread, NULL, grow, &shares[i]) != 0)
			fail("cannot make a thread");
	}
	grow(&shares[0]);
	for (size_t i = 1; i < count; i++)
		pthread_join(shares[i].thread, NULL);
}

static void grow_slowly(size_t bytes, size_t milliseconds)
{
	struct share share = { .bytes = MIB, .advice = MADV_NOHUGEPAGE };

	for (size_t done = 0; done < bytes; done += MIB) {
		grow(&share);
		sleep_milliseconds(milliseconds);
	}
}

static void hold(size_t bytes, size_t count, int advice)
{
	grow_in_threads(bytes, count, advice);
	say("memory_grow: %zu bytes held", bytes);
	pause();
}

static void grow_in_processes(size_t bytes, size_t count)
{
	struct share share = { .bytes = bytes / count, .advice = MADV_NOHUGEPAGE };

	for (size_t i = 0; i < count; i++) {
		if (fork() == 0) {
			grow(&share);
			pause();
		}
	}
	while (wait(NULL) > 0)
		;
}

static void read_at_once(size_t bytes, const char *path)
{
	const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = -1;

	if (descriptor >= 0)
		got = read(descriptor, reserve(bytes, MADV_NOHUGEPAGE), bytes);
	say("memory_grow: read %zd of %zu bytes: %s", got, bytes, got < 0 ? strerror(errno) : "ok");
}

/* Every fourth one calls execve, every fourth one touches memory, all use a thread stack's worth of copied pages. */
static void be_short(size_t number, char *self)
{
	struct share share = { .bytes = 256 * 1024, .advice = MADV_NOHUGEPAGE };

	if (number % 4 == 0)
		execl(self, "memory_grow", "pages", "1", "1", (char *)NULL);
	if (number % 4 == 1)
		grow(&share);
	_exit(0);
}

static void storm(size_t count, char *self)
{
	size_t alive = 0;

	for (size_t i = 0; i < count; i++) {
		const pid_t pid = fork();

		if (pid == 0)
			be_short(i, self);
		if (pid < 0)
			fail("cannot fork: %s", strerror(errno));
		if (++alive == AT_ONCE) {
			wait(NULL);
			alive--;
		}
	}
	while (wait(NULL) > 0)
		;
	say("memory_grow: %zu processes", count);
	pause();
}

static void *act(void *action)
{
	if (strcmp(action, "exit") == 0)
		exit(137);
	if (strcmp(action, "kill") == 0)
		kill(getpid(), SIGKILL); /* which the first process of a pid namespace does not hear */
	if (strcmp(action, "exec") == 0)
		execl("/nosuch", "nosuch", (char *)NULL);
	if (strcmp(action, "sleep") == 0)
		pause();
	exit(7);
}

static void act_in_thread(char *action)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, act, action) != 0)
		fail("cannot make a thread");
	pthread_join(thread, NULL);
}

static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* One line a round, and a round at each line of the input, so that rounds of several of these can take turns. */
static void measure_faults(size_t bytes, size_t rounds)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	volatile unsigned char *memory = reserve(bytes, MADV_NOHUGEPAGE);
	char line[16];

	for (size_t round = 0; round < rounds && fgets(line, sizeof(line), stdin) != NULL; round++) {
		const double begin = cpu_seconds();

		for (size_t offset = 0; offset < bytes; offset += page)
			memory[offset] = 0xa5;
		const double end = cpu_seconds();

		madvise((void *)memory, bytes, MADV_DONTNEED);
		say("%.1f", (end - begin) * 1e9 / ((double)bytes / (double)page));
	}
}

int main(int argc, char **argv)
{
	if (argc != 4)
		usage();
	if (getenv("PROGRESS") != NULL)
		open_progress(getenv("PROGRESS"));

	const char *mode = argv[1];
	const size_t bytes = strtoull(argv[2], NULL, 10) * MIB, count = strtoull(argv[3], NULL, 10);

	if (strcmp(mode, "pages") == 0 && count > 0)
		grow_in_threads(bytes, count, MADV_NOHUGEPAGE);
	else if (strcmp(mode, "slowly") == 0)
		grow_slowly(bytes, count);
	else if (strcmp(mode, "huge") == 0 && count > 0)
		grow_in_threads(bytes, count, MADV_HUGEPAGE);
	else if (strcmp(mode, "pages-held") == 0 && count > 0)
		hold(bytes, count, MADV_NOHUGEPAGE);
	else if (strcmp(mode, "huge-held") == 0 && count > 0)
		hold(bytes, count, MADV_HUGEPAGE);
	else if (strcmp(mode, "processes") == 0 && count > 0)
		grow_in_processes(bytes, count);
	else if (strcmp(mode, "read") == 0)
		read_at_once(bytes, argv[3]);
	else if (strcmp(mode, "storm") == 0)
		storm(count, "/proc/self/exe");
	else if (strcmp(mode, "thread") == 0)
		act_in_thread(argv[3]);
	else if (strcmp(mode, "faults") == 0)
		measure_faults(bytes, count);
	else
		usage();
	return 0;
}
