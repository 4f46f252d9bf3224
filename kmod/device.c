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

static long get_version(struct open_file *owner, void __user *arg)
{
	struct container_monitor_version version = {
		.version = CONTAINER_MONITOR_VERSION,
		.interval_ms = check_interval_ms,
		.registrations = registry_count(owner),
		.dropped = events_dropped(&owner->events),
	};

	if (tracepoint_is_offered())
		version.features |= CONTAINER_MONITOR_FEATURE_TRACEPOINT;
	return copy_to_user(arg, &version, sizeof(version)) ? -EFAULT : 0;
}

static long register_container(struct open_file *owner, void __user *arg)
{
	struct container_monitor_register request;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.flags || request.pid <= 0 || !request.key ||
	    !is_id(request.id) ||
	    !are_limits(request.soft_bytes, request.hard_bytes))
		return -EINVAL;
	return registry_add(owner, &request);
}

static long update_container(struct open_file *owner, void __user *arg)
{
	struct container_monitor_update request;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.flags || request.reserved ||
	    !are_limits(request.soft_bytes, request.hard_bytes))
		return -EINVAL;
	return registry_update(owner, &request);
}

/* All of it but key and flags is zero on the way in. */
static long status_of(struct open_file *owner, void __user *arg, bool removes)
{
	const size_t head = offsetofend(struct container_monitor_status, flags);
	struct container_monitor_status status;
	long error;

	if (copy_from_user(&status, arg, sizeof(status)))
		return -EFAULT;
	if (memchr_inv((char *)&status + head, 0, sizeof(status) - head))
		return -EINVAL;
	if (status.flags & ~(removes ? 0 : CONTAINER_MONITOR_NEXT))
		return -EINVAL;
	error = registry_status(owner, removes, &status);
	if (error)
		return error;
	return copy_to_user(arg, &status, sizeof(status)) ? -EFAULT : 0;
}

static long device_ioctl(struct file *file, unsigned int command,
			 unsigned long value)
{
	struct open_file *owner = file->private_data;
	void __user *arg = (void __user *)value;

	switch (command) {
	case CONTAINER_MONITOR_GET_VERSION:
		return get_version(owner, arg);
	case CONTAINER_MONITOR_REGISTER:
		return register_container(owner, arg);
	case CONTAINER_MONITOR_UPDATE:
		return update_container(owner, arg);
	case CONTAINER_MONITOR_UNREGISTER:
		return status_of(owner, arg, true);
	case CONTAINER_MONITOR_STAT:
		return status_of(owner, arg, false);
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
	int error;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	owner = kzalloc(sizeof(*owner), GFP_KERNEL_ACCOUNT);
	if (!owner)
		return -ENOMEM;
	INIT_LIST_HEAD(&owner->containers);
	error = events_init(&owner->events);
	if (error) {
		kfree(owner);
		return error;
	}
	owner->ns = get_pid_ns(task_active_pid_ns(current));
	file->private_data = owner;
	return stream_open(inode, file);
}

static int device_release(struct inode *inode, struct file *file)
{
	struct open_file *owner = file->private_data;

	registry_close(owner);
	events_free(&owner->events);
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
	BUILD_BUG_ON(sizeof(struct container_monitor_version) != 24);
	BUILD_BUG_ON(sizeof(struct container_monitor_register) != 168);
	BUILD_BUG_ON(sizeof(struct container_monitor_update) != 32);
	BUILD_BUG_ON(sizeof(struct container_monitor_event) != 80);
	BUILD_BUG_ON(sizeof(struct container_monitor_status) != 280);
}

static int __init monitor_init(void)
{
	int error;

	check_layout();
	if (check_interval_ms < 10 || check_interval_ms > 60000)
		return -EINVAL;
	monitor_wq = alloc_workqueue("container_monitor",
				     WQ_UNBOUND | WQ_HIGHPRI, 0);
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
