/* SPDX-License-Identifier: Apache-2.0 */
#include "workload.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void print_usage(FILE *stream, const struct argument *arguments, size_t count)
{
	fprintf(stream, "usage: %s", program_invocation_short_name);
	for (size_t i = 0; i < count; i++)
		fprintf(stream, " [%s]", arguments[i].name);
	fputc('\n', stream);
}

static void print_help(const char *summary, const struct argument *arguments, size_t count)
{
	print_usage(stdout, arguments, count);
	printf("%s\n", summary);
	for (size_t i = 0; i < count; i++)
		printf("  %-13s %llu to %llu, default %llu\n", arguments[i].name,
		       arguments[i].minimum, arguments[i].maximum, arguments[i].value);
}

/* strtoull alone would take "-1", " 7" and "+7"; a digit first rules these out. */
static bool parse_number(const char *text, unsigned long long *value)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return errno == 0 && *end == '\0';
}

static void parse_one(const char *text, struct argument *argument)
{
	unsigned long long value;

	if (parse_number(text, &value) && value >= argument->minimum && value <= argument->maximum) {
		argument->value = value;
		return;
	}
	fprintf(stderr, "%s: %s must be a whole number from %llu to %llu, got \"%s\"\n",
		program_invocation_short_name, argument->name, argument->minimum,
		argument->maximum, text);
	exit(2);
}

void parse_arguments(int argc, char **argv, const char *summary, struct argument *arguments,
		     size_t count)
{
	if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		print_help(summary, arguments, count);
		exit(fflush(stdout) == 0 ? 0 : 1);
	}
	if (argc > (int)count + 1) {
		fprintf(stderr, "%s: too many arguments: \"%s\"\n", program_invocation_short_name,
			argv[count + 1]);
		print_usage(stderr, arguments, count);
		exit(2);
	}
	for (int i = 1; i < argc; i++)
		parse_one(argv[i], &arguments[i - 1]);
}

void say(const char *format, ...)
{
	va_list words;

	va_start(words, format);
	vprintf(format, words);
	va_end(words);
	putchar('\n');
	/* stdout is a pipe in a container and thus fully buffered: a line must not wait for 4 KiB. */
	if (fflush(stdout) != 0)
		fail("cannot write to stdout: %s", strerror(errno));
}

void fail(const char *format, ...)
{
	va_list words;

	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(words, format);
	vfprintf(stderr, format, words);
	va_end(words);
	fputc('\n', stderr);
	/* Not exit(): it would try once more to flush a stdout that just failed. */
	_Exit(1);
}

static double read_clock(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

double now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

double cpu_time(void)
{
	return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

void sleep_milliseconds(unsigned long long milliseconds)
{
	struct timespec left = {
		.tv_sec = (time_t)(milliseconds / 1000),
		.tv_nsec = (long)(milliseconds % 1000) * 1000000,
	};

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
		;
}
