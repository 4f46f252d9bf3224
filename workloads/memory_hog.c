/* SPDX-License-Identifier: Apache-2.0 */
/* Takes memory step by step and keeps it, until its maximum or until somebody stops it. */
#include "workload.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MIB = 1024 * 1024 };

/* Memory counts only once it is touched: an untouched page is no RSS. volatile keeps the writes. */
static void touch_pages(volatile unsigned char *memory, size_t bytes)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);

	for (size_t offset = 0; offset < bytes; offset += page)
		memory[offset] = 0xa5;
}

static void take(unsigned long long mib, unsigned long long held)
{
	const size_t bytes = (size_t)mib * MIB;
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		fail("cannot allocate %llu MiB more at %llu MiB: %s", mib, held, strerror(errno));
	touch_pages(memory, bytes);
}

int main(int argc, char **argv)
{
	struct argument arguments[] = {
		{ .name = "mib_per_step", .minimum = 1, .maximum = 1048576, .value = 8 },
		{ .name = "sleep_ms", .minimum = 0, .maximum = 86400000, .value = 500 },
		{ .name = "max_mib", .minimum = 1, .maximum = 1048576, .value = 1024 },
	};

	parse_arguments(argc, argv, "Allocates and touches memory step by step and holds it; sleeps after each step.",
			arguments, 3);

	const unsigned long long step = arguments[0].value, maximum = arguments[2].value;
	unsigned long long held = 0, steps = 0;

	while (held < maximum) {
		const unsigned long long mib = maximum - held < step ? maximum - held : step;
		take(mib, held);
		held += mib;
		say("memory_hog: step %llu, %llu MiB held", ++steps, held);
		sleep_milliseconds(arguments[1].value);
	}
	say("memory_hog: done, %llu MiB in %llu steps", held, steps);
	return 0;
}
