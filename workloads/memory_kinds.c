/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes memory of every kind, those that no process shows as resident included. For tests; see usage().
 *
 * What is to happen between two steps waits for SIGUSR1, not for a time.
 */
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21 /* Linux 5.4, asm-generic/mman-common.h */
#endif

enum { MIB = 1024 * 1024, PAGE = 4096, TABLE_REACH = 2 * MIB, WAVE_MILLISECONDS = 60 };

static void usage(FILE *stream)
{
	fputs("usage: memory_kinds KIND MIB TIMES\n"
	      "Takes MIB of memory, TIMES over, says so on stdout, and sleeps.\n"
	      "  anonymous  private pages\n"
	      "  shared     pages of a file in memory, mapped\n"
	      "  memfd      the same, written and not mapped\n"
	      "  tmpfs      a file without a name in /dev/shm, written and not mapped\n"
	      "  hugetlb    huge pages of the machine's pool\n"
	      "  tables     page tables: a page is read in each 2 MiB of address space, and the page is the zero page\n"
	      "  free       private pages that the kernel may have back (MADV_FREE), and leaves until it wants them\n"
	      "  pageout    private pages that go to swap\n"
	      "  tide       private pages up to MIB and back to none, TIMES over, each time at SIGUSR1; says each time\n"
	      "             \"up\" and the CLOCK_MONOTONIC before and after, in nanoseconds, or \"down\"\n"
	      "  waves      the same without signals, 60 ms in each state; says so at the end\n"
	      "  room       nothing: says the address of MIB of private memory that nobody has touched\n",
	      stream);
}

static void *map(size_t bytes, int flags)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (memory == MAP_FAILED)
		fail("cannot map %zu bytes: %s", bytes, strerror(errno));
	return memory;
}

static unsigned char *map_private(size_t bytes)
{
	void *memory = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);

	madvise(memory, bytes, MADV_NOHUGEPAGE);
	return memory;
}

static void touch(volatile unsigned char *memory, size_t bytes)
{
	for (size_t offset = 0; offset < bytes; offset += PAGE)
		memory[offset] = 0xa5;
}

static void anonymous(size_t bytes)
{
	touch(map_private(bytes), bytes);
}

static void shared(size_t bytes)
{
	touch(map(bytes, MAP_SHARED | MAP_ANONYMOUS), bytes);
}

/* Its descriptor stays open, and the file with it. */
static void fill(int file, size_t bytes)
{
	static unsigned char block[64 * 1024];

	if (file < 0)
		fail("cannot make a file in memory: %s", strerror(errno));
	memset(block, 0xa5, sizeof(block));
	for (size_t done = 0; done < bytes; done += sizeof(block))
		if (write(file, block, sizeof(block)) != (ssize_t)sizeof(block))
			fail("cannot write to a file in memory: %s", strerror(errno));
}

static void memfd(size_t bytes)
{
	fill(memfd_create("memory_kinds", MFD_CLOEXEC), bytes);
}

static void tmpfs(size_t bytes)
{
	fill(open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), bytes);
}

static void hugetlb(size_t bytes)
{
	touch(map(bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB), bytes);
}

static void tables(size_t bytes)
{
	const size_t reach = bytes / PAGE * TABLE_REACH;
	const volatile unsigned char *memory = map_private(reach);

	for (size_t offset = 0; offset < reach; offset += TABLE_REACH)
		(void)memory[offset];
}

static void lend(size_t bytes)
{
	unsigned char *memory = map_private(bytes);

	touch(memory, bytes);
	if (madvise(memory, bytes, MADV_FREE) != 0)
		fail("cannot give memory back: %s", strerror(errno));
}

static void pageout(size_t bytes)
{
	unsigned char *memory = map_private(bytes);

	touch(memory, bytes);
	if (madvise(memory, bytes, MADV_PAGEOUT) != 0)
		fail("cannot page out: %s", strerror(errno));
}

static uint64_t monotonic(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void wait_for_word(void)
{
	sigset_t signals;
	int received;

	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigwait(&signals, &received);
}

static void tide(size_t bytes, unsigned long long times)
{
	unsigned char *memory = map_private(bytes);

	say("ready");
	for (unsigned long long i = 0; i < times; i++) {
		wait_for_word();
		const uint64_t before = monotonic();

		touch(memory, bytes);
		say("up %" PRIu64 " %" PRIu64, before, monotonic());
		wait_for_word();
		madvise(memory, bytes, MADV_DONTNEED);
		say("down");
	}
}

static void waves(size_t bytes, unsigned long long times)
{
	unsigned char *memory = map_private(bytes);

	for (unsigned long long i = 0; i < times; i++) {
		touch(memory, bytes);
		sleep_milliseconds(WAVE_MILLISECONDS);
		madvise(memory, bytes, MADV_DONTNEED);
		sleep_milliseconds(WAVE_MILLISECONDS);
	}
}

static const struct kind {
	const char *name;
	void (*take)(size_t bytes);
} kinds[] = {
	{ "anonymous", anonymous }, { "shared", shared }, { "memfd", memfd },	  { "tmpfs", tmpfs },
	{ "hugetlb", hugetlb },	    { "tables", tables }, { "free", lend },	  { "pageout", pageout },
};

static bool take(const char *name, size_t bytes, unsigned long long times)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(kinds[i].name, name) != 0)
			continue;
		for (unsigned long long j = 0; j < times; j++)
			kinds[i].take(bytes);
		return true;
	}
	return false;
}

/* Blocked from the beginning: a signal that comes early is not lost, also for the first process of a namespace. */
static void block_word(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);
}

int main(int argc, char **argv)
{
	struct argument arguments[] = {
		{ .name = "MIB", .minimum = 1, .maximum = 1048576, .value = 1 },
		{ .name = "TIMES", .minimum = 1, .maximum = 1048576, .value = 1 },
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
	parse_arguments(argc - 1, argv + 1, "see memory_kinds --help", arguments, 2);

	const size_t bytes = (size_t)arguments[0].value * MIB;

	if (strcmp(argv[1], "tide") == 0) {
		tide(bytes, arguments[1].value);
	} else if (strcmp(argv[1], "waves") == 0) {
		waves(bytes, arguments[1].value);
	} else if (strcmp(argv[1], "room") == 0) {
		say("room %" PRIuPTR, (uintptr_t)map_private(bytes));
		pause();
	} else if (!take(argv[1], bytes, arguments[1].value)) {
		usage(stderr);
		return 2;
	}
	say("memory_kinds: %zu bytes, %llu times: done", bytes, arguments[1].value);
	for (;;)
		pause();
}
