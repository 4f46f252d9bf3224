/* What a container does to make its supervisor busy: load threads N | memory MIB | files N | forks | connect PATH.
 *
 * connect sends one request to a UNIX socket and prints the answer; with "orphan" behind the path the process that
 * connected ends first, and its child asks.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void *sleeper(void *nothing)
{
	pause();
	return nothing;
}

static int threads(int wanted)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int made = 0;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 16384);
	while (made < wanted && !pthread_create(&thread, &attributes, sleeper, NULL))
		made++;
	printf("%d threads\n", made);
	fflush(stdout);
	pause();
	return 0;
}

static int memory(size_t high)
{
	struct timespec pause = {0, 15000000};

	for (;;) {
		char *block = mmap(NULL, high << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (block == MAP_FAILED)
			return 1;
		memset(block, 1, high << 20);
		nanosleep(&pause, NULL);
		munmap(block, high << 20);
		nanosleep(&pause, NULL);
	}
}

static int files(int wanted)
{
	char name[32];

	mkdir("/many", 0755);
	for (int made = 0; made < wanted; made++) {
		snprintf(name, sizeof(name), "/many/%d", made);
		close(open(name, O_CREAT | O_WRONLY, 0644));
	}
	printf("%d files\n", wanted);
	return 0;
}

static int forks(void)
{
	for (;;) {
		if (fork() == 0) {
			fork();
			fork();
			_exit(0);
		}
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static int ask(const char *path, int orphan)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char request[] = "GET /containers/json?all=1 HTTP/1.0\r\n\r\n";
	char answer[4096];
	ssize_t count;
	int connection = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	if (connect(connection, (struct sockaddr *)&address, sizeof(address))) {
		perror("connect");
		return 1;
	}
	if (orphan) {
		if (fork())
			_exit(0);
		usleep(200000);
	}
	if (send(connection, request, sizeof(request) - 1, MSG_NOSIGNAL) < 0)
		perror("send");
	while ((count = read(connection, answer, sizeof(answer))) > 0)
		fwrite(answer, 1, count, stdout);
	fflush(stdout);
	return 0;
}

int main(int count, char **words)
{
	const char *what = count > 1 ? words[1] : "";

	if (!strcmp(what, "threads") && count == 3)
		return threads(atoi(words[2]));
	if (!strcmp(what, "memory") && count == 3)
		return memory(atoi(words[2]));
	if (!strcmp(what, "files") && count == 3)
		return files(atoi(words[2]));
	if (!strcmp(what, "forks"))
		return forks();
	if (!strcmp(what, "connect") && count >= 3)
		return ask(words[2], count > 3);
	fprintf(stderr, "load: what?\n");
	return 2;
}
