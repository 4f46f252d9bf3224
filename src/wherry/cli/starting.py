"""``engine start`` and ``engine run``."""

from __future__ import annotations

import os

from wherry import errors
from wherry.cli import placement, terminal, values
from wherry.client import Client
from wherry.client.config import OPTIONS
from wherry.defaults import PIDS_LIMIT, STOP_SECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

    from wherry.cli.option_files import IdFile
    from wherry.cli.parser import Namespace, Parser
    from wherry.client import RunResult, StartedContainer
    from wherry.client.feeding import Descriptor

USAGE = "%(prog)s [OPTIONS] NAME ROOTFS COMMAND [ARG...] [LONG OPTIONS]"
START_USAGE = f"{USAGE}\n       %(prog)s NAME"

PLACES = """
Options may stand before NAME, before ROOTFS, before COMMAND, and the long ones also at the very end:
  {prog} --rm alpha rootfs /bin/true
  {prog} alpha rootfs /bin/memory_hog 1 500 --soft-mib 3 --hard-mib=6
Short options after COMMAND belong to the command. To give the command words that look like ours, put "--"
before it; everything after that is taken as it is:
  {prog} alpha rootfs -- /bin/echo --rm
"""

START = """Start a container and return once its command has been executed: "OK: alpha started, pid=1234".

NAME alone starts a container that is there and does not run again, as it was made; its log goes on.
ROOTFS is a directory or a tar archive (plain, gz, xz, zst). Exit codes: 0 started; 125 it could not be started, or the
command line is wrong; 126 COMMAND cannot be executed; 127 COMMAND was not found; 1 no supervisor is running.
"""

RUN = """Start a container, pass on its output, wait for it, and exit with its exit code (128+N after signal N).

ROOTFS is a directory or a tar archive (plain, gz, xz, zst). SIGINT or SIGTERM asks the supervisor to stop the
container and goes on waiting for its end; the second one kills the container, the third one leaves it. When nobody
reads the output any more (run ... | head), run ends with 125 and the container goes on, as with docker.
With -i the container reads run's own standard input (tar c . | %(prog)s -i ...), up to its end, or until run ends.
Every byte of the output is passed on: when whoever reads it is slower than the container, the container waits in the
end, as it would for a pipe (not with --log-mode non-blocking; run then ends with 125 if bytes are missing).
Exit codes besides the container's own: 125 it could not be started or followed to its end, output is missing, or the
command line is wrong; 126 COMMAND cannot be executed; 127 COMMAND was not found; 1 no supervisor is running.
"""


_KILLED = {
    "hard_limit": "ended at its hard memory limit",
    "oom": "ended by the kernel's OOM killer",
    "limit_lost": "killed: its hard memory limit could not be held any more after a take-over",
    "timed_out": "killed: its time was over",
}
"""What an exit code of 137 does not say."""
_TERMINAL = frozenset({"-t", "-it", "-ti", "--tty"})


def add_start(parser: Parser) -> None:
    _add(parser, START)
    parser.usage = START_USAGE
    parser.run = start
    parser.interpret = parse


def add_run(parser: Parser) -> None:
    _add(parser, RUN)
    parser.run = run
    parser.interpret = parse


def _add(parser: Parser, description: str) -> None:
    parser.usage_exit = errors.WherryError.exit_code
    parser.usage = USAGE
    parser.description = description
    parser.epilog = PLACES.format(prog=parser.prog)
    about_name = "the container's name"
    parser.positional("name", metavar="NAME", count="?", help=about_name, completer=_complete)
    parser.positional("rootfs", metavar="ROOTFS", count="?", help="directory or tar archive")
    parser.positional("command", metavar="COMMAND", count="?", help="program in ROOTFS")
    parser.positional("arguments", metavar="ARG", count="*", help="arguments of COMMAND")
    parser.group("limits")
    parser.option("--soft-mib", metavar="N", type=values.mib, help="memory of all processes, told when crossed")
    parser.option("--hard-mib", metavar="N", type=values.mib, help="memory of all processes that ends it")
    parser.option("--soft-limit", metavar="SIZE", type=values.size, help="--soft-mib as a size, such as 1.5g")
    parser.option("--hard-limit", metavar="SIZE", type=values.size, help="--hard-mib as a size")
    about_action = "at the soft limit, beside being told: none, reclaim, or throttle (version 2 of control groups)"
    actions = ["none", "reclaim", "throttle"]
    parser.option("--soft-action", metavar="ACTION", choices=actions, help=about_action)
    about_memory = "what the control group may be charged, page cache included (docker's, such as 64m)"
    parser.option("-m", "--memory", metavar="SIZE", type=values.size, help=about_memory)
    about_reservation = "control group memory that is reclaimed last"
    parser.option("--memory-reservation", metavar="SIZE", type=values.size, help=about_reservation)
    about_swap = "memory and swap together (-1: any; default: twice --memory)"
    parser.option("--memory-swap", metavar="SIZE", type=values.swap, help=about_swap)
    about_pids = f"most processes and threads (default: {PIDS_LIMIT} or the supervisor's; -1: no limit)"
    parser.option("--pids-limit", metavar="N", type=values.pids, help=about_pids)
    about_ulimit = "a limit of setrlimit(2), such as nofile=1024:4096 (-1: none)"
    parser.option("--ulimit", metavar="NAME=N[:N]", dest="ulimits", type=values.ulimit, repeats=True, help=about_ulimit)
    about_oom = "whom the kernel's OOM killer takes first: -1000 (never) to 1000"
    parser.option("--oom-score-adj", metavar="N", type=values.oom_score_adj, help=about_oom)
    parser.option("--shm-size", metavar="SIZE", type=values.size, help="size of /dev/shm (default: 64m)")
    _add_cpu_options(parser)
    _add_command_options(parser)
    _add_container_options(parser)
    _add_log_options(parser)


def _add_cpu_options(parser: Parser) -> None:
    parser.group("CPU and I/O")
    about_nice = "of the whole container, against others: -20 (most CPU) to 19 (least)"
    parser.option("--nice", metavar="N", type=values.nice, help=about_nice)
    parser.option("--cpus", metavar="N", type=values.cpus, help="most CPU time, in CPUs (0.5: half of one)")
    about_shares = "weight against others, in place of --nice (1024 is nice 0)"
    parser.option("-c", "--cpu-shares", metavar="N", type=values.shares, help=about_shares)
    parser.option("--cpuset-cpus", metavar="LIST", help="the CPUs it runs on, such as 0-3,7")
    about_policy = "other, batch, idle (what nobody else wants), fifo:N or rr:N (real time, N from 1 to 99)"
    parser.option("--sched-policy", metavar="POLICY", help=about_policy)
    about_io = "share of a disk's time, 10 to 1000 (for disks with the scheduler bfq)"
    parser.option("--io-weight", metavar="N", type=values.io_weight, help=about_io)


def _add_command_options(parser: Parser) -> None:
    parser.group("the command")
    about_entry = "the program, to which COMMAND and ARG are then arguments"
    parser.option("--entrypoint", metavar="PROGRAM", help=about_entry)
    about_env = "set a variable; without =V your own value"
    parser.option("-e", "--env", metavar="K[=V]", repeats=True, type=values.variable, help=about_env)
    about_file = "set the variables in FILE, one a line, before those of --env"
    parser.option("--env-file", metavar="FILE", repeats=True, help=about_file)
    parser.option("-w", "--workdir", metavar="DIR", dest="working_dir", help="working directory in the container")
    parser.option("-u", "--user", metavar="USER[:GROUP]", help="name or number, from its /etc/passwd")
    about_input = "give it a standard input: with run your own, with start one for attach (default: /dev/null)"
    parser.flag("-i", "--interactive", dest="stdin", help=about_input)
    about_group = "a further group, by name or number"
    parser.option("--group-add", metavar="GROUP", repeats=True, help=about_group)
    about_capability = "a capability besides the default ones, as far as it does not reach beyond the container"
    parser.option("--cap-add", metavar="CAP", repeats=True, help=about_capability)
    parser.option("--cap-drop", metavar="CAP", repeats=True, help="a capability to go without (ALL: every one)")
    about_signal = "what engine stop sends, by name or number (default: TERM)"
    parser.option("--stop-signal", metavar="SIG", help=about_signal)
    about_stop = f"how long engine stop waits before it kills (default: {STOP_SECONDS:g}; -1: for ever)"
    parser.option("--stop-timeout", metavar="S", dest="stop_seconds", type=values.whole_stop_seconds, help=about_stop)


def _add_container_options(parser: Parser) -> None:
    parser.group("the container")
    parser.option("--cidfile", metavar="FILE", help="write the container's id to FILE, which must not exist")
    parser.option("--hostname", metavar="NAME", help="host name (default: the container's name)")
    parser.option("--domainname", metavar="NAME", help="domain name (NIS)")
    about_label = "a label, for filters of ps, events and prune"
    parser.option("-l", "--label", metavar="K[=V]", dest="labels", repeats=True, help=about_label)
    parser.option("--label-file", metavar="FILE", repeats=True, help="the labels in FILE, one a line")
    parser.flag("--init", help="run a small init before the command, to reap zombies")
    about_network = "none: loopback only; host: the host's"
    parser.option("--network", metavar="none|host", choices=["none", "host"], help=about_network)
    about_host = "a line of /etc/hosts"
    parser.option("--add-host", metavar="NAME:IP", dest="extra_hosts", repeats=True, help=about_host)
    parser.option("--dns", metavar="IP", repeats=True, help="a name server in /etc/resolv.conf")
    parser.option("--dns-search", metavar="DOMAIN", repeats=True, help="a search domain in it (.: none)")
    parser.option("--dns-option", metavar="OPT", dest="dns_options", repeats=True, help="an option in it")
    about_sysctl = "a kernel parameter of the container's namespaces"
    parser.option(
        "--sysctl", metavar="NAME=VALUE", dest="sysctls", type=values.setting, repeats=True, help=about_sysctl
    )
    about_userns = "root inside is nobody outside: auto, keep-id (but for --user UID:GID), UID:GID:SIZE; or host"
    parser.option("--userns", metavar="MODE", help=about_userns)
    parser.flag("--replace", help="stop and remove a container that has the name before")
    parser.flag("--read-only", help="mount the root file system read-only")
    about_timeout = "seconds after which all of it is killed"
    parser.option("--timeout", metavar="S", type=values.seconds_above_zero, help=about_timeout)
    about_restart = "start it again when it ends: no, on-failure[:N], always, unless-stopped"
    parser.option("--restart", metavar="POLICY", type=values.restart, help=about_restart)
    parser.flag("--rm", help="remove the container when it ends")
    parser.flag("--rw-rootfs", help="run on the directory ROOTFS itself")
    about_security = "seccomp=FILE, a profile in place of docker's, or seccomp=unconfined"
    parser.option("--security-opt", metavar="OPT", repeats=True, help=about_security)
    parser.option("--tmpfs", metavar="DIR[:OPTS]", repeats=True, help="mount a tmpfs (size=1m,...)")
    about_volume = "show a host path in the container"
    parser.option("-v", "--volume", metavar="HOST:CTR[:ro]", dest="volumes", repeats=True, help=about_volume)


def _add_log_options(parser: Parser) -> None:
    parser.group("the log")
    about_mode = "who gives way when the log's buffer is full: the container (default), or the oldest bytes"
    modes = ["blocking", "non-blocking"]
    parser.option("--log-mode", metavar="blocking|non-blocking", choices=modes, help=about_mode)
    about_buffer = "size of the buffer (default: 2m)"
    parser.option("--log-buffer-size", metavar="SIZE", dest="log_buffer_bytes", type=values.size, help=about_buffer)
    about_size = "size at which a log file is rotated (default: 64m; 0: never)"
    parser.option("--log-max-size", metavar="SIZE", dest="log_max_bytes", type=values.size_or_zero, help=about_size)
    about_files = "log files that are kept, the current one included (default: 4)"
    parser.option("--log-max-files", metavar="N", type=values.count, help=about_files)
    parser.flag("--merge-streams", help="one pipe for stdout and stderr, which keeps their order; all is stdout")


def _complete(parsed_args: Namespace, **_: object) -> list[str]:
    from wherry.cli.names import complete_all  # noqa: PLC0415

    return complete_all(parsed_args)


def parse(parser: Parser, words: Sequence[str], found: Namespace) -> None:
    """The command line of start or run; wrong ones end the program with 125."""
    vocabulary = placement.Vocabulary(parser.options)
    options, others = placement.split(words, vocabulary)
    for word in _TERMINAL.intersection(options):
        parser.error(f"{word}: terminals are not supported yet; -i gives a standard input without one")
    parser.parse(options, found)
    if len(others) == 1 and parser.usage == START_USAGE:
        _check_alone(parser, options)
        found.name, found.rootfs, found.command, found.arguments = others[0] or None, None, None, []
        if found.name is None:
            parser.error("NAME is empty")
        return
    needed = ("NAME", "ROOTFS", "COMMAND") if found.entrypoint is None else ("NAME", "ROOTFS")
    if missing := needed[len(others) :]:
        from wherry.cli import hints  # noqa: PLC0415 (only when something is wrong)

        hint = hints.order(others[0]) if others else ""
        parser.error(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing{hint}")
    if others[-1] in {"--soft-mib", "--hard-mib"} and "--" not in words[: len(words) - len(others)]:
        parser.error(f"{others[-1]}: a value is missing (put -- before COMMAND to pass the word to it)")
    found.name, found.rootfs, *found.arguments = others
    found.command = found.arguments.pop(0) if found.arguments else None
    if found.soft_mib is not None and found.hard_mib is not None and found.soft_mib > found.hard_mib:
        parser.error(f"--soft-mib {found.soft_mib} is more than --hard-mib {found.hard_mib}")
    for kind in ("soft", "hard"):
        if None not in (getattr(found, f"{kind}_mib"), getattr(found, f"{kind}_limit")):
            parser.error(f"--{kind}-mib and --{kind}-limit say the same: give one")
    for empty in (word for word in ("name", "rootfs", "command") if getattr(found, word) == ""):
        parser.error(f"{empty.upper()} is empty")
    _interpret(parser, found)


def _interpret(parser: Parser, found: Namespace) -> None:
    """Make of words what the client takes."""
    labels = found.labels
    if found.env_file or found.label_file:
        from wherry.cli.option_files import lines  # noqa: PLC0415 (few command lines have them)

        try:
            variables = (values.variable(line) for path in found.env_file for line in lines("--env-file", path))
            # One without a value that the caller has not either is left out, as with docker; -e takes it away.
            found.env = [*(each for each in variables if "=" in each), *found.env]
            labels = [*(line for path in found.label_file for line in lines("--label-file", path)), *labels]
        except errors.InvalidRequest as error:
            parser.error(str(error))
    found.labels = {name: value for name, _, value in (text.partition("=") for text in labels)}
    found.tmpfs = {path: options for path, _, options in (text.partition(":") for text in found.tmpfs)}
    found.ulimits, found.sysctls = dict(found.ulimits), dict(found.sysctls)
    if "" in found.labels:
        parser.error("-l/--label: there is no name before '='")


def _check_alone(parser: Parser, options: Sequence[str]) -> None:
    """NAME without ROOTFS and COMMAND: no option may be ignored."""
    for word in options:
        name = word.partition("=")[0]
        if name.startswith("-") and name != "--socket":
            parser.error(f"{name} needs ROOTFS and COMMAND: NAME alone starts a container as it was made")


def _options(args: Namespace) -> Any:
    """Options of the command line are named as the client's keywords (``dest``)."""
    given = vars(args)
    return {name: given[name] for name in OPTIONS if name in given}


def _command(args: Namespace) -> list[str]:
    """Empty only beside ``--entrypoint``."""
    return [] if args.command is None else [args.command, *args.arguments]


class _NoIdFile:
    """Without ``--cidfile``."""

    def __enter__(self) -> Self:
        return self

    def write(self, container_id: str) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _id_file(path: str | None) -> IdFile | _NoIdFile:
    if path is None:
        return _NoIdFile()
    from wherry.cli.option_files import IdFile  # noqa: PLC0415 (few command lines have it)

    return IdFile(path)


def start(args: Namespace) -> int:
    try:
        with Client(args.socket) as client:
            if args.rootfs is None:
                started = client.start(args.name)
            else:
                with _id_file(args.cidfile) as id_file:
                    started = client.start(
                        args.name, args.rootfs, _command(args), replace=args.replace, **_options(args)
                    )
                    id_file.write(started.id)
    except errors.WherryError as error:
        return _cannot_start(args, error)
    what = "was running already" if started.was_running else "started"
    print(terminal.escaped(f"OK: {started.name} {what}, pid={started.pid}"))
    if args.rootfs is not None and not args.stdin:
        _mention_missing_input(args)
    return 0


def run(args: Namespace) -> int:
    from wherry.cli.interrupts import Interrupts  # noqa: PLC0415 (start does not wait for anything)

    known: list[StartedContainer] = []
    written: list[int] = []

    def write(stream: int, data: bytes | memoryview) -> None:
        written[:] = [stream]
        terminal.write_all(stream, data)

    try:
        with Client(args.socket) as client, Interrupts(client) as interrupts, _id_file(args.cidfile) as id_file:

            def on_start(started: StartedContainer) -> None:
                known.append(started)
                id_file.write(started.id)
                interrupts.aim_at(started)

            given = _own_input() if args.stdin else None
            args.stdin = None  # what start means by it stays open
            result = client.run(
                args.name,
                args.rootfs,
                _command(args),
                replace=args.replace,
                on_output=write,
                on_start=on_start,
                input=given,
                **_options(args),
            )
    except errors.WherryError as error:
        return lost(args.name, error) if known else _cannot_start(args, error)
    except OSError as error:
        return terminal.complain_of_output(error, args.name)
    if result.exit_code == 0 and not (written or given or result.error):
        _mention_missing_input(args)
    return ended(args.name, result)


def ended(name: str, result: RunResult) -> int:
    """The exit code for a container that has been followed to its end; says what that code does not."""
    if result.error or result.reason in _KILLED:
        terminal.complain(f"{name}: {result.error or _KILLED[result.reason]}")
    if result.lost_bytes:
        lost = f"at least {result.lost_bytes} bytes of its output are lost"
        terminal.complain(f"{name}: {lost} (exit code {result.exit_code})")
        return 125
    return result.exit_code


def _own_input() -> Descriptor:
    from wherry.client.feeding import Descriptor  # noqa: PLC0415 (only with -i)

    return Descriptor(0)


def _cannot_start(args: Namespace, error: errors.WherryError) -> int:
    name, text = args.name, str(error)
    if not isinstance(error, errors.Unavailable) and not text.startswith("cannot start "):
        text = f"cannot start {name}: {text}"
    if isinstance(error, errors.InvalidRequest):
        from wherry.cli import hints  # noqa: PLC0415 (only when something is wrong)

        text += hints.order(name, args.rootfs or "")
    terminal.complain(text)
    return error.exit_code


def _mention_missing_input(args: Namespace) -> None:
    """To somebody at a terminal, who may have expected to type into the container."""
    if not (os.isatty(0) and os.isatty(1)):
        return
    from wherry.cli import hints  # noqa: PLC0415 (not for scripts)

    program, *words = [args.entrypoint, *_command(args)] if args.entrypoint else _command(args)
    if hints.reads_input(program, words):
        text = f"without -i standard input is /dev/null: {program} finds nothing to read there and ends"
        terminal.complain(f"{args.name}: {text}")


def lost(name: str, error: errors.WherryError) -> int:
    """The container was running when the connection broke; 1 would look like its own exit code."""
    terminal.complain(f"{error}; {name} may still be running (see engine ps)")
    return 125
