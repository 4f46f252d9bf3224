/* Freeze ourselves, in the root of what we see and below it, and do it again whenever somebody thaws us:
 * freeze DEPTH. With a second word, only the first process is frozen, by a child that then touches 200 MiB.
 */
#define _GNU_SOURCE
#include "groups.h"

static void freeze(const char *name)
{
	char file[8192];
	for (unsigned n = 0; n < HIERARCHIES; n++) {
		snprintf(file, sizeof file, "%s/freezer.state", name);
		write_file(path_in(n, file), "FROZEN");
		snprintf(file, sizeof file, "%s/cgroup.freeze", name);
		write_file(path_in(n, file), "1");
	}
}

/* From a group beside the one that is frozen. */
static void grow(void)
{
	move_to("/n");
	if (fork()) {
		printf("freezing\n");
		fflush(stdout);
		for (;;)
			pause();
	}
	move_to("/beside");
	freeze("/n");
	for (size_t k = 0; k < 200u << 8; k++) {
		char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		*page = 1;
	}
	for (;;)
		pause();
}

int main(int count, char **words)
{
	signal(SIGTERM, SIG_IGN);
	take_hold();
	if (count > 2)
		grow();
	int depth = count > 1 ? atoi(words[1]) : 0;
	char name[4096] = "";
	for (int level = 0; level < depth; level++) {
		strcat(name, "/n");
		move_to(name);
		if (fork() == 0) /* one process in each group */
			for (;;)
				pause();
	}
	printf("freezing\n");
	fflush(stdout);
	for (int k = 0; k < 3; k++)
		if (fork() == 0) /* thawed, they freeze everything again */
			for (;;)
				for (char part[4096] = "";;) {
					freeze(part);
					if (strlen(part) >= strlen(name))
						break;
					strcat(part, "/n");
				}
	for (;;) {
		freeze(name);
		freeze("");
	}
}
