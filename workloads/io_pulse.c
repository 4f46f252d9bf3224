/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a block, waits until it is on the disk, sleeps, and again: an I/O-bound process. Says how late it woke up. */
#include "workload.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { BLOCK_BYTES = 256 * 1024 };

struct latencies {
	double total, least, most; /* seconds */
};

/* The file is unlinked at once: however this process ends, it leaves nothing behind. */
static int try_directory(const char *directory)
{
	char path[4096];
	const int length = snprintf(path, sizeof(path), "%s/io_pulse.XXXXXX", directory);

	if (length < 0 || (size_t)length >= sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	const int fd = mkstemp(path);
	if (fd >= 0)
		unlink(path);
	return fd;
}

/* In a container with a read-only root, /dev/shm is often the only place that can be written. */
static int open_file(const char **directory)
{
	static const char *const fallbacks[] = { "/tmp", "/var/tmp", "/dev/shm" };
	const char *wanted = getenv("TMPDIR");

	if (wanted && *wanted) {
		const int fd = try_directory(wanted);
		if (fd < 0)
			fail("cannot create a file in TMPDIR \"%s\": %s", wanted, strerror(errno));
		*directory = wanted;
		return fd;
	}
	for (size_t i = 0; i < sizeof(fallbacks) / sizeof(*fallbacks); i++) {
		const int fd = try_directory(fallbacks[i]);
		if (fd >= 0) {
			*directory = fallbacks[i];
			return fd;
		}
	}
	fail("cannot create a file in /tmp, /var/tmp or /dev/shm (%s); set TMPDIR", strerror(errno));
}

static void write_block(int fd, const char *block)
{
	size_t done = 0;

	while (done < BLOCK_BYTES) {
		const ssize_t count = pwrite(fd, block + done, BLOCK_BYTES - done, (off_t)done);
		if (count < 0 && errno != EINTR)
			fail("cannot write: %s", strerror(errno));
		if (count > 0)
			done += (size_t)count;
	}
	if (fsync(fd) != 0)
		fail("cannot fsync: %s", strerror(errno));
}

static void add(struct latencies *latencies, double took)
{
	latencies->total += took;
	if (took < latencies->least)
		latencies->least = took;
	if (took > latencies->most)
		latencies->most = took;
}

/* How much longer than asked for: the scheduler's part, and the timer's. */
static double oversleep(unsigned long long milliseconds)
{
	const double start = now();

	sleep_milliseconds(milliseconds);
	return now() - start - (double)milliseconds / 1e3;
}

static void pulse(int fd, unsigned long long iterations, unsigned long long sleep_ms, struct latencies *writes,
		  struct latencies *wakes)
{
	static char block[BLOCK_BYTES];

	for (unsigned long long i = 1; i <= iterations; i++) {
		memset(block, (int)(i & 0xff), sizeof(block));
		const double start = now();
		write_block(fd, block);
		const double took = now() - start;
		add(writes, took);
		say("io_pulse: %llu of %llu, write and fsync %.3f ms", i, iterations, took * 1e3);
		if (sleep_ms == 0)
			continue;
		const double late = oversleep(sleep_ms);
		add(wakes, late);
		say("io_pulse: %llu of %llu, woke up %.3f ms late", i, iterations, late * 1e3);
	}
}

int main(int argc, char **argv)
{
	struct argument arguments[] = {
		{ .name = "iterations", .minimum = 1, .maximum = 1000000000, .value = 20 },
		{ .name = "sleep_ms", .minimum = 0, .maximum = 86400000, .value = 200 },
	};

	parse_arguments(argc, argv, "Writes 256 KiB to an unlinked file in TMPDIR, fsyncs, sleeps, repeats.",
			arguments, 2);

	const unsigned long long iterations = arguments[0].value;
	struct latencies writes = { .least = HUGE_VAL }, wakes = { .least = HUGE_VAL };
	const char *directory;
	const int fd = open_file(&directory);

	say("io_pulse: writing %d KiB at a time in %s", BLOCK_BYTES / 1024, directory);
	prctl(PR_SET_TIMERSLACK, 1UL); /* nanoseconds; the default, 50 us, would be most of the lateness */
	pulse(fd, iterations, arguments[1].value, &writes, &wakes);
	if (arguments[1].value > 0)
		say("io_pulse: woke up late by mean %.3f ms, min %.3f ms, max %.3f ms", wakes.total * 1e3 / (double)iterations,
	    wakes.least * 1e3, wakes.most * 1e3);
	say("io_pulse: done, %llu writes, total %.3f ms, mean %.3f ms, min %.3f ms, max %.3f ms",
	    iterations, writes.total * 1e3, writes.total * 1e3 / (double)iterations, writes.least * 1e3,
	    writes.most * 1e3);
	return 0;
}
