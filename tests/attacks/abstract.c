/* Connect to every abstract socket of this network namespace whose name begins with PREFIX, and say which one took us:
 * abstract PREFIX. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int count, char **words)
{
	char line[512];
	FILE *list = fopen("/proc/net/unix", "r");

	if (count != 2 || !list)
		return 2;
	while (fgets(line, sizeof line, list)) {
		struct sockaddr_un address = {.sun_family = AF_UNIX};
		char *name = strchr(line, '@');
		if (!name || strncmp(name + 1, words[1], strlen(words[1])))
			continue;
		name[strcspn(name, "\n")] = 0;
		strncpy(address.sun_path + 1, name + 1, sizeof address.sun_path - 2);
		int connection = socket(AF_UNIX, SOCK_STREAM, 0);
		if (!connect(connection, (void *)&address, offsetof(struct sockaddr_un, sun_path) + strlen(name)))
			printf("%s\n", name + 1);
		close(connection);
	}
	puts("end");
	return 0;
}
