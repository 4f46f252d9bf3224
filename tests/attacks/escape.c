/* Take every limit of the group that we see away, move below it, and use more than we may:
 * escape [DEPTH]: forks 40 times, touches 200 MiB, says what it got.
 */
#define _GNU_SOURCE
#include "groups.h"

static const struct {
	const char *file, *value;
} limits[] = {
	{"memory.memsw.limit_in_bytes", "-1"}, {"memory.limit_in_bytes", "-1"}, {"memory.max", "max"},
	{"memory.high", "max"},	{"memory.oom.group", "0"}, {"pids.max", "max"}, {"cpu.cfs_quota_us", "-1"},
	{"cpu.max", "max 100000"}, {"cpu.shares", "262144"}, {"cpu.weight", "10000"}, {"cpuset.cpus", "0-1"},
	{"devices.allow", "a"}, {"cgroup.subtree_control", "+memory +pids +cpu"}, {"cgroup.max.depth", "max"},
	{"cgroup.max.descendants", "max"},
};

int main(int count, char **words)
{
	int mounted = take_hold();
	int depth = count > 1 ? atoi(words[1]) : 0;
	char name[4096] = "";
	for (int level = 0; level <= depth; level++) {
		for (unsigned k = 0; k < sizeof limits / sizeof *limits; k++)
			for (unsigned n = 0; n < HIERARCHIES; n++) {
				char file[8192];
				snprintf(file, sizeof file, "%s/%s", name, limits[k].file);
				write_file(path_in(n, file), limits[k].value);
			}
		if (level < depth) {
			strcat(name, "/n");
			move_to(name);
		}
	}
	printf("%d hierarchies, depth %d\n", mounted, depth);
	int forks = 0;
	for (int k = 0; k < 40; k++) {
		pid_t child = fork();
		if (child == 0)
			pause();
		forks += child > 0;
	}
	printf("forks %d\n", forks);
	fflush(stdout);
	size_t size = 200u << 20;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t at = 0; at < size; at += 4096)
		memory[at] = 1;
	printf("touched %zu MiB\n", size >> 20);
	fflush(stdout);
	pause();
}
