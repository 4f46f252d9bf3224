/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes lines that prove themselves, to stdout and stderr, in bursts and trickles, until SIGTERM:
 *
 *     NUMBER LENGTH CRC32 PAYLOAD\n
 *
 * NUMBER counts the lines of the stream from 0, LENGTH is the payload's in decimal, CRC32 its checksum in eight hex
 * digits. Payloads hold NULs, carriage returns and blanks, and now and then one is of 10 MiB. Writes end in the middle
 * of lines. With LOG_STORM_COUNTS=FILE the bytes written to each stream are counted in FILE, two 64-bit integers in
 * shared memory, so that they can be read however this process ends.
 */
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SHORT_PAYLOAD = 120, LONG_PAYLOAD = 10 * 1024 * 1024, HEAD = 64, MOST_LINES = 400 };

static volatile sig_atomic_t stopped;
static volatile uint64_t fallback[2];
static volatile uint64_t *counts = fallback;
static uint32_t crc_table[256];
static uint64_t state;

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

/* xorshift64*: the same storm for the same seed. */
static uint64_t dice(uint64_t sides)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (state * 2685821657736338717ULL >> 33) % sides;
}

static void make_crc_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t value = i;
		for (int bit = 0; bit < 8; bit++)
			value = value & 1 ? value >> 1 ^ 0xedb88320U : value >> 1;
		crc_table[i] = value;
	}
}

static uint32_t crc32(const char *data, size_t size)
{
	uint32_t value = ~0U;

	for (size_t i = 0; i < size; i++)
		value = crc_table[(value ^ (unsigned char)data[i]) & 0xff] ^ value >> 8;
	return ~value;
}

static void share_counts(void)
{
	const char *path = getenv("LOG_STORM_COUNTS");

	if (!path)
		return;
	const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0 || ftruncate(fd, sizeof(fallback)) != 0)
		fail("cannot make %s: %s", path, strerror(errno));
	counts = mmap(NULL, sizeof(fallback), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (counts == MAP_FAILED)
		fail("cannot map %s: %s", path, strerror(errno));
	close(fd);
}

static size_t put_line(char *at, uint64_t number)
{
	const size_t length = dice(20000) ? dice(SHORT_PAYLOAD) : LONG_PAYLOAD;
	const char filling = "abc\0\r "[dice(6)];
	char head[HEAD];

	char *payload = at + HEAD;
	memset(payload, filling, length);
	const int size = snprintf(head, sizeof(head), "%llu %zu %08x ", (unsigned long long)number, length,
				  (unsigned int)crc32(payload, length));
	memcpy(at, head, (size_t)size);
	memmove(at + size, payload, length);
	at[(size_t)size + length] = '\n';
	return (size_t)size + length + 1;
}

static void write_all(int fd, const char *data, size_t size)
{
	while (size) {
		const ssize_t done = write(fd, data, size);
		if (done < 0 && errno != EINTR)
			exit(1);
		if (done < 0)
			continue;
		counts[fd - 1] += (uint64_t)done;
		data += done;
		size -= (size_t)done;
	}
}

int main(int argc, char **argv)
{
	struct argument arguments[] = {
		{ "seed", 1, UINT32_MAX, 1 },
		{ "pause_us", 0, 1000000, 1000 },
		{ "streams", 1, 2, 2 },
	};
	static const size_t bursts[] = { 1, 3, 50, MOST_LINES };
	uint64_t lines[2] = { 0, 0 };

	parse_arguments(argc, argv, "writes lines with numbers and checksums until SIGTERM", arguments, 3);
	state = arguments[0].value * 0x9e3779b97f4a7c15ULL;
	make_crc_table();
	share_counts();
	signal(SIGTERM, stop);
	char *burst = malloc((size_t)MOST_LINES * (HEAD + SHORT_PAYLOAD) + 4 * (HEAD + (size_t)LONG_PAYLOAD));
	if (!burst)
		fail("no memory");
	while (!stopped) {
		const int fd = 1 + (int)dice(arguments[2].value);
		const size_t count = bursts[dice(4)];
		size_t size = 0;
		for (size_t i = 0; i < count && size < 2 * (size_t)LONG_PAYLOAD; i++)
			size += put_line(burst + size, lines[fd - 1]++);
		const size_t cut = dice(size);
		write_all(fd, burst, cut);
		if (arguments[1].value && !dice(4))
			usleep((useconds_t)dice(4 * arguments[1].value + 1));
		write_all(fd, burst + cut, size - cut);
	}
	return 0;
}
