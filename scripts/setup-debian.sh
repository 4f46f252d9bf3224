#!/usr/bin/env bash
# Installs the Debian packages that are missing, and only those. Needs root only when something is missing.
#   scripts/setup-debian.sh base    to build and run the project
#   scripts/setup-debian.sh test    for the tests and benchmarks: peers to compare with, a docker client, docker's swagger
#   scripts/setup-debian.sh vm      for building the kernel module and testing it in virtual machines
#   scripts/setup-debian.sh debug   for testing it in a kernel with KASAN and lockdep, which this builds (minutes)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin
tools=build/tools
swagger=build/docker-api.yaml
missing=()

die() { echo "setup: $*" >&2; exit 1; }

# need PACKAGE PROBE...: the package is wanted when the probe fails. Probing by what a package provides, not by its
# name, so that tools that came another way (a Python of one's own, a newer crun) are left alone.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

installed() { [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

probe_base() {
    need python3-venv python3 -c 'import ensurepip, venv'
    need gcc command -v gcc
    need libc6-dev compgen -G '/usr/lib/*/libc.a'
    need busybox-static installed busybox-static
    need zstd command -v zstd
    need xz-utils command -v xz
    need iproute2 command -v ip
    # For bpf/, of which a wheel holds the object ready made.
    need clang command -v clang
    need llvm command -v llvm-strip
    need libbpf-dev test -e /usr/include/bpf/bpf_core_read.h
}

probe_test() {
    need strace command -v strace
    need inotify-tools command -v inotifywait
    need curl command -v curl
    need bubblewrap command -v bwrap
    need crun command -v crun
    need runc command -v runc
    # The reports of experiments are looked at in a browser.
    need chromium command -v chromium
    need chromium-driver command -v chromedriver
}

probe_vm() {
    need qemu-system-x86 command -v qemu-system-x86_64
    need sparse command -v sparse
    need make command -v make
    need binutils command -v strip
}

probe_debug() {
    probe_vm
    need flex command -v flex
    need bison command -v bison
    need bc command -v bc
}

install_missing() {
    [[ ${#missing[@]} -gt 0 ]] || return 0
    echo "setup: installing Debian packages: ${missing[*]}"
    update_lists
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null
}

# A source list that has nothing to do with us may be broken: only the installation decides.
update_lists() {
    command -v apt-get >/dev/null || die "missing ${missing[*]}, and there is no apt-get here to install it"
    [[ $EUID -eq 0 ]] || die "missing ${missing[*]}; run this as root, or install it first"
    apt-get update -qq -o DPkg::Lock::Timeout=300 || echo "setup: apt-get update failed in part; going on" >&2
}

# Debian 12 ships client and daemon in one package that starts the daemon on installation. Only the client is wanted.
fetch_docker_client() {
    if command -v docker >/dev/null || [[ -x $tools/docker ]]; then return 0; fi
    unpack_file docker.io ./usr/bin/docker "$tools/docker"
    chmod 755 "$tools/docker"
}

# docker's description of its API, which the package of its Go sources has: nothing else of them is wanted.
fetch_docker_api() {
    [[ -e $swagger ]] || unpack_file golang-github-docker-docker-dev \
        ./usr/share/gocode/src/github.com/docker/docker/api/swagger.yaml "$swagger"
}

# unpack_file PACKAGE FILE PLACE: one file of a package that is not to be installed
unpack_file() {
    local package=$1 file=$2 place=$3
    echo "setup: unpacking $(basename "$file") of Debian's $package into $(dirname "$place")"
    missing=("$package")
    update_lists
    local work
    work=$(mktemp -d)
    # shellcheck disable=SC2064  # the directory's name of now is meant
    trap "rm -rf '$work'" EXIT
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package")
    mkdir -p "$(dirname "$place")"
    dpkg-deb --fsys-tarfile "$work/$package"_*.deb | tar -xO "$file" >"$place.part"
    rm -rf "$work"
    mv "$place.part" "$place"
}

case ${1-} in
base)
    probe_base
    install_missing
    ;;
test)
    probe_test
    install_missing
    fetch_docker_client
    fetch_docker_api
    ;;
vm)
    probe_vm
    install_missing
    [[ -n $(apt-cache pkgnames linux-image-amd64 2>/dev/null) ]] || { missing=("Debian's kernels"); update_lists; }
    scripts/fetch-kernels.sh
    ;;
debug)
    probe_debug
    install_missing
    [[ -n $(apt-cache pkgnames linux-source-6.1 2>/dev/null) ]] || { missing=(linux-source-6.1); update_lists; }
    scripts/build-debug-kernel.sh
    ;;
*)
    echo "usage: $0 base|test|vm|debug" >&2
    exit 2
    ;;
esac
