/* SPDX-License-Identifier: Apache-2.0 */
/* Burns one CPU, for a time or until so much is done, counting its work: two of them compare how much CPU each was given. */
#include "workload.h"

#include <stdint.h>

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

int main(int argc, char **argv)
{
	struct argument arguments[] = {
		{ .name = "seconds", .minimum = 1, .maximum = 1000000, .value = 10 },
		{ .name = "rounds", .minimum = 0, .maximum = 1000000000000, .value = 0 },
	};

	parse_arguments(argc, argv,
			"Burns CPU and prints the work done each second; ends at once after so many rounds (0: any number).",
			arguments, 2);

	const unsigned long long seconds = arguments[0].value, most = arguments[1].value;
	const double start = now();
	unsigned long long rounds = 0, printed = 0;
	volatile uint64_t state = 88172645463325252ULL; /* volatile: or the work is optimised away */

	for (;;) {
		state = burn_round(state);
		if (++rounds == most)
			break;
		const double elapsed = now() - start;
		if (elapsed >= (double)(printed + 1)) {
			/* After a stall (a stopped or starved process) the missed seconds are not made up. */
			printed = (unsigned long long)elapsed;
			if (printed >= seconds)
				break;
			say("cpu_hog: second %llu of %llu, %llu rounds", printed, seconds, rounds);
		}
	}
	say("cpu_hog: done, %llu rounds of %d steps in %.3f s", rounds, STEPS_PER_ROUND,
	    now() - start);
	return 0;
}
