// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/container_monitor: soft and hard limits on the resident memory of
 * containers. The interface is in uapi/container_monitor.h, monitor.h says what
 * is where.
 */
#define pr_fmt(fmt) "container_monitor: " fmt

#include <linux/capability.h>
#include <linux/ctype.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "monitor.h"

unsigned int check_interval_ms = 1000;
module_param_named(interval_ms, check_interval_ms, uint, 0444);
MODULE_PARM_DESC(interval_ms, "milliseconds between two checks of a container (10 to 60000)");

static bool use_tracepoint = true;
module_param_named(tracepoint, use_tracepoint, bool, 0444);
MODULE_PARM_DESC(tracepoint, "check at once when the rss_stat tracepoint tells of a crossing");

/* What the first callers give; they stay as they are when structures grow. */
#define VERSION_LEAST 24
#define REGISTER_LEAST 168
#define UPDATE_LEAST 32
#define STATUS_LEAST 288
#define EVENT_IN_STATUS 88

struct workqueue_struct *monitor_wq;

/* Printable and without blanks: it becomes a word of a line in the kernel log. */
static bool is_id(const char *id)
{
	size_t length = strnlen(id, CONTAINER_MONITOR_ID_LEN);
	size_t at;

	if (!length || length == CONTAINER_MONITOR_ID_LEN)
		return false;
	for (at = 0; at < length; at++)
		if (!isascii(id[at]) || !isgraph(id[at]))
			return false;
	return !memchr_inv(id + length, 0, CONTAINER_MONITOR_ID_LEN - length);
}

static bool are_limits(u64 soft_bytes, u64 hard_bytes)
{
	return !soft_bytes || !hard_bytes || soft_bytes <= hard_bytes;
}

/*
 * A caller may know a shorter structure than we do, or a longer one. What it
 * does not give is zero; what we do not know must be (E2BIG), so that nobody
 * takes for done what was not understood. "least" is the first version's size.
 */
static long take_in(void *to, size_t size, size_t least, void __user *from,
		    size_t given)
{
	if (given < least)
		return -EINVAL;
	return copy_struct_from_user(to, size, from, given);
}

static long give_out(void __user *to, size_t given, const void *from,
		     size_t size)
{
	size_t common = min(given, size);

	if (copy_to_user(to, from, common) ||
	    clear_user(to + common, given - common))
		return -EFAULT;
	return 0;
}

static long get_version(struct open_file *owner, void __user *arg, size_t size)
{
	struct container_monitor_version version = {
		.version = CONTAINER_MONITOR_VERSION,
		.interval_ms = check_interval_ms,
		.registrations = registry_count(owner),
		.dropped = events_dropped(&owner->events),
	};

	if (tracepoint_is_offered())
		version.features |= CONTAINER_MONITOR_FEATURE_TRACEPOINT;
	if (size < VERSION_LEAST)
		return -EINVAL;
	return give_out(arg, size, &version, sizeof(version));
}

static long register_container(struct open_file *owner, void __user *arg,
			       size_t size)
{
	struct container_monitor_register request;
	long error = take_in(&request, sizeof(request), REGISTER_LEAST, arg,
			     size);

	if (error)
		return error;
	if (request.flags || request.pid <= 0 || !request.key ||
	    !is_id(request.id) ||
	    !are_limits(request.soft_bytes, request.hard_bytes))
		return -EINVAL;
	return registry_add(owner, &request);
}

static long update_container(struct open_file *owner, void __user *arg,
			     size_t size)
{
	struct container_monitor_update request;
	long error = take_in(&request, sizeof(request), UPDATE_LEAST, arg,
			     size);

	if (error)
		return error;
	if (request.flags || request.reserved ||
	    !are_limits(request.soft_bytes, request.hard_bytes))
		return -EINVAL;
	return registry_update(owner, &request);
}

/* All of it but key and flags is zero on the way in. */
static long status_of(struct open_file *owner, void __user *arg, size_t size,
		      bool removes)
{
	const size_t head = offsetofend(struct container_monitor_status, flags);
	struct container_monitor_status status;
	long error = take_in(&status, sizeof(status), STATUS_LEAST, arg, size);

	if (error)
		return error;
	if (memchr_inv((char *)&status + head, 0, sizeof(status) - head))
		return -EINVAL;
	if (status.flags & ~(removes ? 0 : CONTAINER_MONITOR_NEXT))
		return -EINVAL;
	error = removes ? registry_remove(owner, &status) :
			  registry_status(owner, &status);
	if (error)
		return error;
	return give_out(arg, size, &status, sizeof(status));
}

/* Which call it is, whatever size its caller knows. */
#define CALL(number) ((number) & ~IOCSIZE_MASK)

static long device_ioctl(struct file *file, unsigned int command,
			 unsigned long value)
{
	struct open_file *owner = file->private_data;
	void __user *arg = (void __user *)value;
	size_t size = _IOC_SIZE(command);

	switch (CALL(command)) {
	case CALL(CONTAINER_MONITOR_GET_VERSION):
		return get_version(owner, arg, size);
	case CALL(CONTAINER_MONITOR_REGISTER):
		return register_container(owner, arg, size);
	case CALL(CONTAINER_MONITOR_UPDATE):
		return update_container(owner, arg, size);
	case CALL(CONTAINER_MONITOR_UNREGISTER):
		return status_of(owner, arg, size, true);
	case CALL(CONTAINER_MONITOR_STAT):
		return status_of(owner, arg, size, false);
	}
	return -ENOTTY;
}

static ssize_t device_read(struct file *file, char __user *to, size_t size,
			   loff_t *unused)
{
	struct open_file *owner = file->private_data;

	return events_read(&owner->events, file, to, size);
}

static __poll_t device_poll(struct file *file, struct poll_table_struct *wait)
{
	struct open_file *owner = file->private_data;

	return events_poll(&owner->events, file, wait);
}

/*
 * Root in a container is uid 0 as well and may have got the device's node from
 * somewhere: who can kill any process has CAP_SYS_ADMIN of the machine itself.
 */
static int device_open(struct inode *inode, struct file *file)
{
	struct open_file *owner;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	owner = kzalloc(sizeof(*owner), GFP_KERNEL_ACCOUNT);
	if (!owner)
		return -ENOMEM;
	INIT_LIST_HEAD(&owner->containers);
	events_init(&owner->events);
	owner->ns = get_pid_ns(task_active_pid_ns(current));
	file->private_data = owner;
	return stream_open(inode, file);
}

static int device_release(struct inode *inode, struct file *file)
{
	struct open_file *owner = file->private_data;

	registry_close(owner);
	put_pid_ns(owner->ns);
	kfree(owner);
	return 0;
}

static const struct file_operations device_operations = {
	.owner = THIS_MODULE, /* rmmod is refused while the device is open */
	.open = device_open,
	.release = device_release,
	.read = device_read,
	.poll = device_poll,
	.unlocked_ioctl = device_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "container_monitor",
	.fops = &device_operations,
	.mode = 0600,
};

static void check_layout(void)
{
	BUILD_BUG_ON(sizeof(struct container_monitor_version) < VERSION_LEAST);
	BUILD_BUG_ON(sizeof(struct container_monitor_register) < REGISTER_LEAST);
	BUILD_BUG_ON(sizeof(struct container_monitor_update) < UPDATE_LEAST);
	BUILD_BUG_ON(sizeof(struct container_monitor_status) < STATUS_LEAST);
	/* A larger one would move what follows it there. */
	BUILD_BUG_ON(sizeof(struct container_monitor_event) != EVENT_IN_STATUS);
}

static int __init monitor_init(void)
{
	int error;

	check_layout();
	if (check_interval_ms < 10 || check_interval_ms > 60000)
		return -EINVAL;
	/* Kills are what makes room: they do not wait for a new worker. */
	monitor_wq = alloc_workqueue("container_monitor",
				     WQ_UNBOUND | WQ_HIGHPRI | WQ_MEM_RECLAIM,
				     0);
	if (!monitor_wq)
		return -ENOMEM;
	if (use_tracepoint && tracepoint_init())
		pr_notice("no rss_stat tracepoint: checking every %u ms only\n",
			  check_interval_ms);
	error = misc_register(&device);
	if (error)
		destroy_workqueue(monitor_wq);
	return error;
}

/* No file is open, so no container is registered. */
static void __exit monitor_exit(void)
{
	misc_deregister(&device);
	registry_exit();
	tracepoint_exit();
	destroy_workqueue(monitor_wq);
}

module_init(monitor_init);
module_exit(monitor_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The Wherry project");
MODULE_DESCRIPTION("Soft and hard limits on the resident memory of containers");
