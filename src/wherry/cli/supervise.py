"""``engine supervisor``: the one command that loads the server side."""

from __future__ import annotations

from wherry import defaults
from wherry.cli import values
from wherry.client import absolute, socket_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.parser import Namespace, Parser


def add_supervisor(parser: Parser) -> None:
    parser.description = (
        "Run the supervisor in the foreground. It serves the API on its socket, starts, tracks and stops containers,\n"
        "and logs to stderr. SIGINT or SIGTERM stops all containers and ends it with 0. When it dies otherwise, the\n"
        "containers go on, and the next supervisor on the same state directory takes them over.\n\n"
        "SIGHUP reloads: after an upgrade, the new program takes the place of this process and all containers run\n"
        "on; clients that connect meanwhile wait, those that follow a log or wait for an end have to ask again. A\n"
        "program that cannot be loaded is not tried: the log says why. SIGUSR1 writes to the log what the supervisor\n"
        "is doing. SIGQUIT ends it at once, and containers go on. Other signals are logged and ignored."
    )
    parser.positional("rootfs", metavar="ROOTFS", count="?", help="directory or tar archive to prepare containers on")
    parser.option(
        "--state-dir", metavar="D", default=defaults.STATE_DIR, help=f"records and logs (default: {defaults.STATE_DIR})"
    )
    parser.flag("--debug", help="log every step")
    parser.flag("--check", help="only see whether it could run with these options, and print its versions")
    parser.option(
        "--prepared", metavar="N", type=values.count, default=2, help="containers prepared ahead (default: 2)"
    )
    parser.flag("--allow-containers", help="let processes of containers that have the socket drive this supervisor")
    about = "who holds memory limits (default: auto, the first of the others that passes its self-test)"
    choices = ["auto", "kmod", "bpf", "cgroup"]
    parser.option("--memory-enforcer", metavar="|".join(choices), choices=choices, default="auto", help=about)
    about = "bpffs (such as /sys/fs/bpf) in which bpf's limits are kept should supervisor and shim die together"
    parser.option("--pin-enforcer", metavar="DIR", help=about)
    about_pids = f"processes of a container that is started without --pids-limit (default: {defaults.PIDS_LIMIT})"
    parser.option("--default-pids-limit", metavar="N", type=values.pids, default=defaults.PIDS_LIMIT, help=about_pids)
    about = "user namespace of a container that is started without --userns (default: host)"
    parser.option("--userns", metavar="auto|host", choices=["auto", "host"], default="host", help=about)
    about = "host ids for --userns auto, from UID and GID on (default: those of wherry or containers in /etc/sub[ug]id)"
    parser.option("--userns-range", metavar="UID:GID:SIZE", help=about)
    parser.group("disk (sizes such as 500m or 20g; 0 is no limit)")
    about = "most that one archive may take when it is unpacked (default: 32g)"
    parser.option("--rootfs-limit", metavar="SIZE", type=values.size_or_zero, help=about)
    about = "most that unpacked archives which no container uses may take together (default: 8g; 0 keeps none)"
    parser.option("--rootfs-cache", metavar="SIZE", type=values.size_or_zero, help=about)
    about = "free space below which nothing is unpacked (default: 5 % of the file system, at most 1g)"
    parser.option("--disk-reserve", metavar="SIZE", type=values.size_or_zero, help=about)
    parser.run = supervise


def supervise(args: Namespace) -> int:
    from wherry.daemon import check, run_supervisor  # noqa: PLC0415

    rootfs = None if args.rootfs is None else absolute(args.rootfs, "ROOTFS")
    socket = absolute(socket_path(args.socket), "--socket")
    if args.check:
        return check(rootfs)
    given = {"unpacked": args.rootfs_limit, "cache": args.rootfs_cache, "reserve": args.disk_reserve}
    disk = {name: size for name, size in given.items() if size is not None}
    if args.rootfs_limit == 0:
        disk["entries"] = 0
    return run_supervisor(
        rootfs,
        socket,
        absolute(args.state_dir, "--state-dir"),
        debug=args.debug,
        prepared=args.prepared,
        enforcer=args.memory_enforcer,
        bpffs=None if args.pin_enforcer is None else absolute(args.pin_enforcer, "--pin-enforcer"),
        allow_containers=args.allow_containers,
        pids_limit=args.default_pids_limit if args.default_pids_limit > 0 else None,
        userns=args.userns,
        userns_range=args.userns_range or "",
        disk=disk,
    )
