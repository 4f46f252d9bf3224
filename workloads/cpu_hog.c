/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Burns a number of seconds of CPU time, or until so much is done, counting its work: how long that takes by the clock
 * says how much CPU it was given.
 */
#include "workload.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { STEPS_PER_ROUND = 100000 }; /* a fraction of a millisecond: the clock is read that often */

static uint64_t burn_round(uint64_t state)
{
	for (int i = 0; i < STEPS_PER_ROUND; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
	}
	return state;
}

/* Takes the first "--wall" out of the arguments, wherever it stands. */
static bool take_wall(int *argc, char **argv)
{
	for (int i = 1; i < *argc; i++) {
		if (strcmp(argv[i], "--wall") != 0)
			continue;
		memmove(&argv[i], &argv[i + 1], sizeof(*argv) * (size_t)(*argc - i));
		(*argc)--;
		return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	struct argument arguments[] = {
		{ .name = "seconds", .minimum = 1, .maximum = 1000000, .value = 10 },
		{ .name = "rounds", .minimum = 0, .maximum = 1000000000000, .value = 0 },
	};
	const bool by_wall = take_wall(&argc, argv);

	parse_arguments(argc, argv,
			"Burns so many seconds of CPU time, with --wall for so many seconds of wall time, and prints\n"
			"the work done each second; ends at once after so many rounds (0: any number).",
			arguments, 2);

	const unsigned long long seconds = arguments[0].value, most = arguments[1].value;
	const double start = now();
	unsigned long long rounds = 0, printed = 0;
	volatile uint64_t state = 88172645463325252ULL; /* volatile: or the work is optimised away */

	for (;;) {
		state = burn_round(state);
		if (++rounds == most)
			break;
		const double elapsed = by_wall ? now() - start : cpu_time();
		if (elapsed >= (double)(printed + 1)) {
			/* After a stall (a stopped or starved process) the missed seconds are not made up. */
			printed = (unsigned long long)elapsed;
			if (printed >= seconds)
				break;
			say("cpu_hog: second %llu of %llu, %llu rounds", printed, seconds, rounds);
		}
	}
	say("cpu_hog: done, %llu rounds of %d steps, %.3f s of CPU time, %.3f s of wall time", rounds,
	    STEPS_PER_ROUND, cpu_time(), now() - start);
	return 0;
}
