/* SPDX-License-Identifier: Apache-2.0 */
/* Writes numbered lines of 100 bytes as fast as it can: a process whose log is the bottleneck. */
#include "workload.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 100, DIGITS = 12, MOST_LINES = 655 }; /* just below 64 KiB, the default size of a pipe */

static void number_line(char *line, unsigned long long number)
{
	for (int digit = DIGITS - 1; digit >= 0; digit--) {
		line[digit] = (char)('0' + number % 10);
		number /= 10;
	}
}

static void write_all(const char *bytes, size_t size)
{
	size_t done = 0;

	while (done < size) {
		const ssize_t count = write(STDOUT_FILENO, bytes + done, size - done);
		if (count < 0 && errno != EINTR)
			fail("cannot write to stdout: %s", strerror(errno));
		if (count > 0)
			done += (size_t)count;
	}
}

int main(int argc, char **argv)
{
	struct argument arguments[] = {
		{ .name = "lines", .minimum = 1, .maximum = 1000000000000, .value = 10737418 },
		{ .name = "lines_a_write", .minimum = 1, .maximum = MOST_LINES, .value = MOST_LINES },
	};
	static char block[MOST_LINES * LINE_BYTES];

	parse_arguments(argc, argv, "Writes numbered lines of 100 bytes to stdout as fast as it can.",
			arguments, 2);
	for (int i = 0; i < MOST_LINES; i++) {
		memset(block + i * LINE_BYTES, 'a' + i % 26, LINE_BYTES - 1);
		block[i * LINE_BYTES + DIGITS] = ' ';
		block[(i + 1) * LINE_BYTES - 1] = '\n';
	}

	const unsigned long long lines = arguments[0].value;
	for (unsigned long long number = 0; number < lines;) {
		unsigned long long count = 0;
		while (count < arguments[1].value && number < lines)
			number_line(block + count++ * LINE_BYTES, number++);
		write_all(block, (size_t)count * LINE_BYTES);
	}
	return 0;
}
