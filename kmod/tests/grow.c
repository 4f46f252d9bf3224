// SPDX-License-Identifier: GPL-2.0
/*
 * Takes memory in all the ways the module's tests need: a list of words, done
 * one after the other.
 *
 *   wait             read a byte from standard input
 *   progress FILE    count the bytes touched in FILE, shared by all that follow
 *   map KIB          map memory, and leave it to others to touch it
 *   touch KIB        map and touch memory in pages of 4 KiB, and keep it
 *   huge KIB         the same where the kernel may use huge pages
 *   release          unmap what this process has touched last
 *   flap KIB         touch memory and give it back, for ever
 *   file KIB PATH    make a file of this size and touch a shared mapping of it
 *   truncate PATH    to nothing: who maps it loses these pages
 *   fork N           N children go on; this process waits for them
 *   series N         N children go on, each when the one before has ended
 *   thread N         N threads go on; this one waits for them
 *   share N          N processes that share this one's memory go on
 *   nest             a process in a pid namespace of its own goes on
 *   leave            a thread goes on, and the first thread ends
 *   exec             go on in a new execution of this program
 *   sleep MS         milliseconds
 *   pause            for ever
 *   exit CODE
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define MOST 1024
#define STACK (64 * 1024)

static char **words;
static uint64_t *progress;
static __thread char *last;
static __thread size_t last_size;

static void run(int at);

static void die(const char *what)
{
	perror(what);
	_exit(125);
}

static const char *word(int at)
{
	if (!words[at]) {
		fprintf(stderr, "grow: a word is missing\n");
		_exit(125);
	}
	return words[at];
}

static void touch_pages(char *memory, size_t size)
{
	for (size_t at = 0; at < size; at += PAGE) {
		*(volatile char *)(memory + at) = 1;
		if (progress)
			__atomic_add_fetch(progress, PAGE, __ATOMIC_RELAXED);
	}
}

static void map(size_t kib)
{
	last_size = kib << 10;
	last = mmap(NULL, last_size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (last == MAP_FAILED)
		die("mmap");
}

static void touch(size_t kib, int advice)
{
	map(kib);
	madvise(last, last_size, advice);
	touch_pages(last, last_size);
}

static void flap(size_t kib)
{
	for (map(kib);; madvise(last, last_size, MADV_DONTNEED))
		touch_pages(last, last_size);
}

static void *map_file(const char *path, size_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	void *memory;

	if (fd < 0 || ftruncate(fd, (off_t)size))
		die(path);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	close(fd);
	return memory;
}

static void *in_thread(void *at)
{
	run((int)(intptr_t)at);
	return NULL;
}

static int in_process(void *at)
{
	run((int)(intptr_t)at);
	_exit(0);
}

static void nest(int at)
{
	char *stack = malloc(STACK);

	if (!stack || clone(in_process, stack + STACK, CLONE_NEWPID | SIGCHLD,
			    (void *)(intptr_t)at) < 0)
		die("clone");
	while (wait(NULL) > 0)
		;
}

static void leave(int at)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, in_thread, (void *)(intptr_t)at))
		die("pthread_create");
	pthread_exit(NULL);
}

static void many(const char *how, int count, int at)
{
	pthread_t threads[MOST];
	int i;

	if (count > MOST)
		count = MOST;
	for (i = 0; i < count; i++) {
		if (!strcmp(how, "thread")) {
			if (pthread_create(&threads[i], NULL, in_thread,
					   (void *)(intptr_t)at))
				die("pthread_create");
		} else if (!strcmp(how, "share")) {
			char *stack = malloc(STACK);

			if (!stack || clone(in_process, stack + STACK,
					    CLONE_VM | SIGCHLD,
					    (void *)(intptr_t)at) < 0)
				die("clone");
		} else if (!fork()) {
			run(at);
			_exit(0);
		}
	}
	for (i = 0; i < count && !strcmp(how, "thread"); i++)
		pthread_join(threads[i], NULL);
	while (wait(NULL) > 0)
		;
}

static void series(int count, int at)
{
	for (; count; count--) {
		if (!fork()) {
			run(at);
			_exit(0);
		}
		wait(NULL);
	}
}

/* Carries out one word; returns how many it took, 0 when others go on with the rest. */
static int step(int at)
{
	const char *w = words[at];
	char byte;

	if (!strcmp(w, "wait")) {
		if (read(0, &byte, 1) < 0)
			die("read");
	} else if (!strcmp(w, "release")) {
		munmap(last, last_size);
	} else if (!strcmp(w, "pause")) {
		for (;;)
			pause();
	} else if (!strcmp(w, "exec")) {
		words[at] = words[0];
		execv("/proc/self/exe", words + at);
		die("exec");
	} else if (!strcmp(w, "touch")) {
		touch(strtoul(word(at + 1), NULL, 10), MADV_NOHUGEPAGE);
		return 2;
	} else if (!strcmp(w, "huge")) {
		touch(strtoul(word(at + 1), NULL, 10), MADV_HUGEPAGE);
		return 2;
	} else if (!strcmp(w, "flap")) {
		flap(strtoul(word(at + 1), NULL, 10));
	} else if (!strcmp(w, "map")) {
		map(strtoul(word(at + 1), NULL, 10));
		return 2;
	} else if (!strcmp(w, "truncate")) {
		if (truncate(word(at + 1), 0))
			die(words[at + 1]);
		return 2;
	} else if (!strcmp(w, "progress")) {
		progress = map_file(word(at + 1), PAGE);
		return 2;
	} else if (!strcmp(w, "file")) {
		size_t size = strtoul(word(at + 1), NULL, 10) << 10;

		touch_pages(map_file(word(at + 2), size), size);
		return 3;
	} else if (!strcmp(w, "sleep")) {
		usleep((useconds_t)strtoul(word(at + 1), NULL, 10) * 1000);
		return 2;
	} else if (!strcmp(w, "exit")) {
		_exit(atoi(word(at + 1)));
	} else if (!strcmp(w, "nest")) {
		nest(at + 1);
		return 0;
	} else if (!strcmp(w, "leave")) {
		leave(at + 1);
	} else if (!strcmp(w, "series")) {
		series(atoi(word(at + 1)), at + 2);
		return 0;
	} else if (!strcmp(w, "fork") || !strcmp(w, "thread") ||
		   !strcmp(w, "share")) {
		many(w, atoi(word(at + 1)), at + 2);
		return 0;
	} else {
		fprintf(stderr, "grow: unknown word %s\n", w);
		_exit(125);
	}
	return 1;
}

static void run(int at)
{
	int taken;

	while (words[at]) {
		taken = step(at);
		if (!taken)
			return;
		at += taken;
	}
}

int main(int argc, char **argv)
{
	(void)argc;
	words = argv;
	run(1);
	return 0;
}
