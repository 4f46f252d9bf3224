/* System calls that no container has business with, each tried once: prints "NAME ERRNO" a line, 0 for one that went
 * through. The last ones come by the door of another architecture: int 0x80 is i386's, the bit 1 << 30 x32's. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define X32 0x40000000L

static void tell(const char *name, long result)
{
	printf("%s %d\n", name, result < 0 ? errno : 0);
	fflush(stdout);
}

static long by_i386(long number, long a, long b, long c)
{
	long result = -ENOSYS;
#ifdef __x86_64__
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	result = (int)result;
#endif
	if (result < 0) {
		errno = (int)-result;
		return -1;
	}
	return result;
}

int main(void)
{
	char ring_parameters[256] = { 0 };
	char perf_attributes[256] = { 0 };
	char clone_arguments[88] = { 0 };

	perf_attributes[4] = 112; /* size: PERF_ATTR_SIZE_VER5 */
	tell("keyctl", syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 0));
	tell("add_key", syscall(SYS_add_key, "user", "wherry-test", "x", 1, KEY_SPEC_PROCESS_KEYRING));
	tell("request_key", syscall(SYS_request_key, "user", "wherry-none", NULL, 0));
	tell("vsock", socket(40, SOCK_STREAM, 0)); /* AF_VSOCK */
	tell("alg", socket(38, SOCK_SEQPACKET, 0)); /* AF_ALG */
	tell("io_uring_setup", syscall(SYS_io_uring_setup, 1, ring_parameters));
	tell("userfaultfd", syscall(SYS_userfaultfd, 1)); /* UFFD_USER_MODE_ONLY */
	tell("perf_event_open", syscall(SYS_perf_event_open, perf_attributes, 0, -1, -1, 0));
	tell("bpf", syscall(SYS_bpf, 0, ring_parameters, sizeof ring_parameters));
	tell("unshare", unshare(CLONE_NEWUSER));
	tell("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, NULL));
	tell("clone3", syscall(SYS_clone3, clone_arguments, sizeof clone_arguments - 24 + 1000));
	tell("i386-keyctl", by_i386(288, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 0));
	tell("x32-keyctl", syscall(X32 + 250, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 0));
	return 0;
}
