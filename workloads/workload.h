/* SPDX-License-Identifier: Apache-2.0 */
/* What the workloads share: arguments, output, time. */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <stddef.h>

struct argument {
	const char *name;
	unsigned long long minimum;
	unsigned long long maximum;
	unsigned long long value; /* holds the default before parse_arguments() */
};

/*
 * Fills in the values of the arguments given, in their order. --help prints the usage and exits 0;
 * a word too many or one that is no plain decimal number in range prints why and exits 2.
 */
void parse_arguments(int argc, char **argv, const char *summary, struct argument *arguments,
		     size_t count);

/* Prints one line and flushes it; exits 1 when it cannot be written. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints "PROGRAM: MESSAGE" to stderr and exits 1. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* CLOCK_MONOTONIC in seconds. */
double now(void);

/* What this process has used of a CPU, all its threads, in seconds: clock_gettime(2). */
double cpu_time(void);

/* Sleeps the whole time, signals or not. */
void sleep_milliseconds(unsigned long long milliseconds);

#endif
