/* Keys of a user are shared by all processes of that uid, whatever their namespaces but the user namespace:
 * user-keyring(7). "add NAME VALUE" and "remove NAME" work on the user keyring, "read NAME" prints a key's content or
 * why there is none. */
#include <errno.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long search(const char *name)
{
	return syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING, "user", name, 0);
}

int main(int count, char **words)
{
	char content[100] = { 0 };
	long key;

	if (count == 4 && !strcmp(words[1], "add")) {
		key = syscall(SYS_add_key, "user", words[2], words[3], strlen(words[3]), KEY_SPEC_USER_KEYRING);
		return key < 0;
	}
	if (count != 3)
		return 2;
	/* A key is read by who possesses it: who has a keyring that leads to it. */
	syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	syscall(SYS_keyctl, KEYCTL_LINK, KEY_SPEC_USER_KEYRING, KEY_SPEC_SESSION_KEYRING);
	key = search(words[2]);
	if (!strcmp(words[1], "remove"))
		return syscall(SYS_keyctl, KEYCTL_INVALIDATE, key) < 0;
	if (key < 0 || syscall(SYS_keyctl, KEYCTL_READ, key, content, sizeof content - 1) < 0) {
		printf("%s\n", strerror(errno));
		return 1;
	}
	printf("%s\n", content);
	return 0;
}
