/* What a root process of a container can do about control groups without any help: a user namespace of its own gives
 * it CAP_SYS_ADMIN over a mount namespace, and so the mounts of all hierarchies, whose root is that of its control
 * group namespace.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOUNTS "/tmp/groups"

static const char *const hierarchies[] = {
	"memory", "pids",	"cpu",	      "cpuacct",    "cpuset", "devices", "freezer", "blkio",
	"hugetlb", "perf_event", "net_cls", "net_prio", "none,name=systemd", "unified",
};
#define HIERARCHIES (sizeof hierarchies / sizeof *hierarchies)

static int write_file(const char *path, const char *text)
{
	int file = open(path, O_WRONLY);
	int done = file < 0 ? -1 : (int)write(file, text, strlen(text));
	if (file >= 0)
		close(file);
	return done < 0 ? -errno : 0;
}

/* Where hierarchy number n is mounted, and a file in it. */
static const char *path_in(unsigned n, const char *file)
{
	static char path[16384];
	snprintf(path, sizeof path, MOUNTS "/%u/%s", n, file);
	return path;
}

static int is_mounted[HIERARCHIES];

/* Into namespaces of our own, with everything mounted that can be. Returns how many hierarchies that is. */
static int take_hold(void)
{
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP)) {
		perror("unshare");
		exit(1);
	}
	write_file("/proc/self/setgroups", "deny");
	write_file("/proc/self/uid_map", "0 0 1");
	write_file("/proc/self/gid_map", "0 0 1");
	mkdir("/tmp", 0755);
	mkdir(MOUNTS, 0755);
	int mounted = 0;
	for (unsigned n = 0; n < HIERARCHIES; n++) {
		mkdir(path_in(n, ""), 0755);
		int is_version2 = !strcmp(hierarchies[n], "unified");
		is_mounted[n] =
			!mount("x", path_in(n, ""), is_version2 ? "cgroup2" : "cgroup", 0, is_version2 ? "" : hierarchies[n]);
		mounted += is_mounted[n];
	}
	return mounted;
}

/* Put ourselves into group "name" of every hierarchy, which is made if need be. "" is the root of what we see. */
static inline void move_to(const char *name)
{
	char file[8192];
	for (unsigned n = 0; n < HIERARCHIES; n++) {
		if (!is_mounted[n])
			continue;
		mkdir(path_in(n, name), 0755);
		for (int k = 0; k < 2; k++) { /* a cpuset of version 1 is empty at first */
			const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
			char above[8192] = "", value[256] = "";
			snprintf(above, sizeof above, "%s/../%s", name, files[k]);
			int from = open(path_in(n, above), O_RDONLY);
			if (from >= 0 && read(from, value, sizeof value - 1) > 0) {
				snprintf(file, sizeof file, "%s/%s", name, files[k]);
				write_file(path_in(n, file), value);
			}
			if (from >= 0)
				close(from);
		}
		snprintf(file, sizeof file, "%s/cgroup.procs", name);
		write_file(path_in(n, file), "0");
	}
}
