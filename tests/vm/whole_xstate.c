/*
 * ptrace(2) for User-Mode Linux, preloaded: sets the extended registers of a process wherever their size is not the one
 * that UML was built with. Linux takes a whole XSAVE area or none (xstateregs_set() in arch/x86/kernel/fpu/regset.c),
 * and its size is the processor's: with AMX it is 11 KiB. UML reads and writes the first part of it, of 2.7 KiB, which
 * has all that its own processes may use; the rest is put back as it was.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

/* UML has one thread that traces, and small stacks. */
static char whole[64 << 10];

long ptrace(enum __ptrace_request request, ...)
{
	static long (*real)(enum __ptrace_request, ...);
	struct iovec all = { whole, sizeof whole };
	struct iovec *given;
	va_list arguments;
	pid_t pid;
	void *address, *data;

	va_start(arguments, request);
	pid = va_arg(arguments, pid_t);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "ptrace");
	if (request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE)
		return real(request, pid, address, data);
	given = data;
	if (real(PTRACE_GETREGSET, pid, address, &all) < 0)
		return -1;
	if (given->iov_len >= all.iov_len)
		return real(request, pid, address, data);
	memcpy(whole, given->iov_base, given->iov_len);
	return real(request, pid, address, &all);
}
