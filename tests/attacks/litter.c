/* Leave groups behind in every hierarchy: 20 side by side, one with a hostile name, and a chain DEPTH deep, with a
 * process in the last of it: litter DEPTH. Says how many it made.
 */
#define _GNU_SOURCE
#include "groups.h"

int main(int count, char **words)
{
	take_hold();
	int depth = count > 1 ? atoi(words[1]) : 0, made = 0;
	char name[300];
	for (unsigned n = 0; n < HIERARCHIES; n++) {
		if (!is_mounted[n])
			continue;
		int start = open(path_in(n, ""), O_RDONLY | O_DIRECTORY);
		for (int k = 0; k < 20; k++) {
			snprintf(name, sizeof name, "n%d", k);
			made += !mkdirat(start, name, 0755);
		}
		made += !mkdirat(start, "-rf \xff\x1b[31m * ..", 0755);
		/* Long names, so that a path of all of them would be longer than PATH_MAX. */
		memset(name, 'd', 200);
		name[200] = 0;
		int at = start;
		for (int k = 0; k < depth && !mkdirat(at, name, 0755); k++) {
			int below = openat(at, name, O_RDONLY | O_DIRECTORY);
			if (at != start)
				close(at);
			at = below;
			made++;
		}
		pid_t child = fork();
		if (child == 0)
			for (;;)
				pause();
		int procs = openat(at, "cgroup.procs", O_WRONLY);
		dprintf(procs, "%d", child);
		close(procs);
	}
	printf("made %d\n", made);
	fflush(stdout);
	for (;;)
		pause();
}
