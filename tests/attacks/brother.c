/* Become a child of whoever has put us into the container, outside of it (CLONE_PARENT): brother MIB. The brother fills
 * so much memory and stays; without MIB it ends at once, as a zombie of somebody who does not know it.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **words)
{
	long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);

	if (pid < 0) {
		perror("clone");
		return 1;
	}
	if (pid == 0 && count > 1) {
		size_t size = (size_t)atoi(words[1]) << 20;
		mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		for (;;)
			pause();
	}
	return 0;
}
