#!/usr/bin/env bash
# Builds a root file system with the workloads at its top:
#   scripts/make-rootfs.sh TARGET WORKLOADS [TARBALL]
# from Debian's busybox-static, laid out as an Alpine user expects it; or from TARBALL, an Alpine minirootfs as
# downloaded. TARGET is replaced as a whole: it never holds half a root file system.
set -euo pipefail

die() { echo "make-rootfs: $*" >&2; exit 1; }

[[ $# -eq 2 || $# -eq 3 ]] || { echo "usage: $0 TARGET WORKLOADS [TARBALL]" >&2; exit 2; }
target=$1 workloads=$2 tarball=${3-}
programs=(cpu_hog io_pulse log_lines log_storm memory_hog)

[[ $EUID -eq 0 ]] || die "run this as root: the files of a root file system belong to several users"
for program in "${programs[@]}"; do
    [[ -x $workloads/$program ]] || die "$workloads/$program is missing: build the workloads first"
done

from_tarball() {
    [[ -f $tarball ]] || die "no such file: $tarball"
    tar --extract --file "$tarball" --directory "$root" --numeric-owner --same-owner --preserve-permissions ||
        die "cannot unpack $tarball"
    [[ -e $root/bin/sh || -L $root/bin/sh ]] || die "$tarball holds no root file system: it has no /bin/sh"
}

make_directories() {
    (
        cd "$root"
        mkdir -p bin dev etc home lib/firmware media mnt opt proc run sbin srv sys usr/{bin,lib,local/{bin,lib,share},sbin,share} \
            var/{cache,empty,lib,local,lock/subsys,log,mail,opt,spool/cron}
        mkdir -m 0700 root
        mkdir -m 1777 tmp var/tmp
        chmod 0555 proc sys var/empty
        ln -s /run var/run
    )
}

# As in Alpine each applet is a symbolic link to /bin/busybox, where busybox itself says it belongs. Left out: package
# managers of other systems (scripts take their presence for the system they are on) and the kernel's /linuxrc.
link_applets() {
    local busybox applet
    busybox=$(command -v busybox) || die "busybox is missing: install busybox-static"
    install -m 0755 "$busybox" "$root/bin/busybox"
    while read -r applet; do
        case ${applet##*/} in
        busybox | linuxrc | dpkg | dpkg-deb | rpm | rpm2cpio) ;;
        *) ln -s /bin/busybox "$root/$applet" ;;
        esac
    done < <("$busybox" --list-full)
    [[ -L $root/bin/sh ]] || die "$busybox has no shell"
}

write_etc() {
    local version
    version=$("$root/bin/busybox" | sed -n '1s/^BusyBox v\([^ ]*\).*/\1/p')
    cat >"$root/etc/passwd" <<'EOF'
root:x:0:0:root:/root:/bin/sh
bin:x:1:1:bin:/bin:/sbin/nologin
daemon:x:2:2:daemon:/sbin:/sbin/nologin
guest:x:405:100:guest:/dev/null:/sbin/nologin
nobody:x:65534:65534:nobody:/:/sbin/nologin
EOF
    cat >"$root/etc/group" <<'EOF'
root:x:0:root
bin:x:1:root,bin,daemon
daemon:x:2:root,bin,daemon
tty:x:5:
shadow:x:42:
users:x:100:
nogroup:x:65533:
nobody:x:65534:
EOF
    sed 's/:.*/:*::0:::::/' "$root/etc/passwd" >"$root/etc/shadow"
    chmod 0640 "$root/etc/shadow"
    chown 0:42 "$root/etc/shadow"
    printf '127.0.0.1\tlocalhost localhost.localdomain\n::1\t\tlocalhost localhost.localdomain\n' >"$root/etc/hosts"
    echo localhost >"$root/etc/hostname"
    printf '/bin/sh\n/bin/ash\n' >"$root/etc/shells"
    cat >"$root/etc/profile" <<'EOF'
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PAGER=less
umask 022
EOF
    cat >"$root/etc/os-release" <<EOF
NAME="Wherry BusyBox"
ID=wherry-busybox
VERSION_ID=$version
PRETTY_NAME="Wherry BusyBox $version"
EOF
}

umask 022
mkdir -p "$(dirname "$target")"
# Beside the target, so that the last step is a rename.
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf --one-file-system -- "$work"' EXIT
root=$work/new
mkdir "$root"
if [[ -n $tarball ]]; then
    from_tarball
else
    make_directories
    link_applets
    write_etc
fi
for program in "${programs[@]}"; do
    install -m 0755 "$workloads/$program" "$root/$program"
done
chmod 0755 "$root"
[[ ! -e $target ]] || mv -T -- "$target" "$work/old"
mv -T -- "$root" "$target"
