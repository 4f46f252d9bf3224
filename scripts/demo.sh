#!/usr/bin/env bash
# A tour of the engine on build/rootfs, with a supervisor, a socket and a state directory of its own. Prints each command
# as a user would type it, and what it answers. demo.sh [CHAPTER...]: the functions named tell_...,
# of which the first is always needed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

place=$(mktemp -d)
export ENGINE_SOCKET=$place/engine.sock
supervisor=

finish() {
    [[ -z $supervisor ]] || { kill -INT "$supervisor" && wait "$supervisor"; } 2>/dev/null || true
    rm -rf --one-file-system -- "$place"
}
trap finish EXIT

say() { printf '\n\e[1m%s\e[0m\n' "$*"; }

# The words as typed, quoted only where a shell needs it.
show() {
    local word line='#'
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] && line+=" $word" || line+=" '$word'"
    done
    printf '%s\n' "$line"
    "$@" || printf '(exit code %d)\n' "$?"
}

start_supervisor() {
    printf '# engine supervisor build/rootfs &\n'
    engine supervisor build/rootfs --state-dir "$place/state" 2>>"$place/supervisor.log" &
    supervisor=$!
    local deadline=$((SECONDS + 20))
    until engine ps >/dev/null 2>&1; do
        kill -0 "$supervisor" 2>/dev/null || { cat "$place/supervisor.log" >&2; exit 1; }
        ((SECONDS < deadline)) || { echo "demo: the supervisor does not answer" >&2; exit 1; }
    done
}

tell_name() {
    say "A supervisor, and a container that says its name"
    start_supervisor
    show engine start alpha build/rootfs /bin/hostname
    show engine logs -f alpha
}

tell_run() {
    say "run: output, exit code, and a world of its own"
    show engine run c build/rootfs /bin/sh -c 'echo "I am pid $$"; ps; exit 7'
}

tell_failures() {
    say "What fails says where"
    show engine run typo build/rootfs /bin/hostnam
    show engine start alpha build/rootfs /bin/hostname
}

tell_layers() {
    say "A writable layer for each; the root file system itself is never changed"
    show engine run --rm writer build/rootfs /bin/sh -c 'echo mine > /file; cat /file'
    show engine run --rm reader build/rootfs /bin/cat /file
}

tell_memory() {
    say "A hard memory limit holds, and the soft one speaks before"
    show engine run hog build/rootfs /memory_hog 16 20 256 --soft-mib 32 --hard-mib 64
    show engine events --since 1m --until 0s --filter container=hog --format '{{.Action}} {{.Reason}}'
}

tell_experiments() {
    say "Experiments: what nice values are worth, against the kernel's weights; memory limits by each enforcer"
    rm -rf --one-file-system build/demo-report
    show engine experiment run nice memory --nices 0,5,10 --seconds 2 --repeat 2 --out build/demo-report
    echo "The report of the experiments is build/demo-report/report.html."
}

tell_nice() {
    say "cpu_hog 2 burns two seconds of CPU time: on one CPU, nice 15 waits for nice 0"
    show engine run first build/rootfs /cpu_hog 2 --nice 0 --cpuset-cpus 0 &
    first=$!
    show engine run second build/rootfs /cpu_hog 2 --nice 15 --cpuset-cpus 0 &
    wait "$first" $!
}

tell_workloads() {
    say "Workloads side by side, with nice values of the whole container"
    show engine start busy build/rootfs /cpu_hog 60
    show engine start idle build/rootfs /cpu_hog 60 --nice 15
    show engine start disk build/rootfs /io_pulse 1000 20
    until engine logs --tail 1 busy | grep -q second; do kill -0 "$supervisor"; done
    show engine logs --tail 1 busy
    show engine ps --running
}

tell_survival() {
    say "The supervisor is killed; its containers notice nothing, and the next one takes them over"
    show engine start job build/rootfs /bin/sh -c 'sleep 1; echo survived; exit 7'
    printf '# kill -KILL %d\n' "$supervisor"
    kill -KILL "$supervisor" && wait "$supervisor" 2>/dev/null || true
    start_supervisor
    show engine logs -f job
    show engine ps --format 'table {{.Name}}\t{{.Status}}\t{{.Command}}'
}

tell_stopping() {
    say "stop: SIGTERM, or at once for a process that the kernel would not deliver it to"
    show engine stop busy idle disk
    show engine ps
}

tell_docker() {
    if command -v docker >/dev/null; then
        say "The docker client on the same socket"
        show docker -H "unix://$ENGINE_SOCKET" ps -a --format 'table {{.Names}}\t{{.Status}}\t{{.Command}}'
    fi
}

tell_end() {
    say "Ctrl-C: everything is stopped and cleaned up"
    parent=$(engine info --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["Wherry"]["CgroupParent"])')
    kill -INT "$supervisor"
    wait "$supervisor"
    printf '(the supervisor exited with %d)\n' $?
    supervisor=
    if compgen -G "/sys/fs/cgroup{,/*}$parent" >/dev/null; then
        echo "demo: control groups are left below $parent" >&2
        exit 1
    fi
    echo "No container, mount or control group of it is left."
}

(($#)) || set -- name run failures layers memory experiments nice workloads survival stopping docker end
for chapter in "$@"; do
    [[ $(type -t "tell_$chapter") == function ]] || { echo "demo: no chapter is called '$chapter'" >&2; exit 2; }
done
for chapter in "$@"; do
    "tell_$chapter"
done
