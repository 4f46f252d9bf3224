#!/usr/bin/env bash
# Unpacks Debian's kernels and their build trees into build/kernels/RELEASE, for building the module and booting
# guests. Nothing is installed: an installed image would make an initramfs and change how this machine boots.
#   scripts/fetch-kernels.sh
# RELEASE/vmlinuz, RELEASE/modules (what guests load), RELEASE/build (what KDIR is to be), RELEASE/usr
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# One each of: Debian 12's own, the same with PREEMPT_RT, and the newest that its security archive has.
flavours=(amd64 rt-amd64 6.12-amd64)
kernels=build/kernels

die() { echo "kernels: $*" >&2; exit 1; }

# The packages behind a metapackage, of one architecture: image, headers, common headers and kbuild.
packages_of() {
    apt-cache depends --recurse --important "linux-image-$1" "linux-headers-$1" |
        grep -E '^linux-(image-[0-9].*-amd64|headers-[0-9].*|kbuild-[0-9].*)$' |
        grep -vE -- "-unsigned$|^linux-(image|headers)-$1$" | sort -u
}

unpack_image() { # DEB, directory
    dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --wildcards './boot/vmlinuz-*' '*/kernel/fs/overlayfs/*'
    mv "$2"/boot/vmlinuz-* "$2/vmlinuz"
    mkdir "$2/modules"
    find "$2/lib" -name 'overlay.ko*' -exec mv -t "$2/modules" {} +
    rm -r "$2/boot" "$2/lib"
}

# Debian's build tree includes its common half by an absolute path; this one goes where the directory goes.
relocate() { # directory
    local tree
    tree=$(basename "$(find "$1/usr/src" -maxdepth 1 -name 'linux-headers-*' ! -name '*-common*')")
    sed -i 's#^include /usr/src/#include $(dir $(realpath $(lastword $(MAKEFILE_LIST))))../#' "$1/usr/src/$tree/Makefile"
    ln -s "usr/src/$tree" "$1/build"
}

fetch() { # release, packages...
    local release=$1 work=$kernels/$1.part deb
    shift
    rm -rf "$work"
    mkdir -p "$work/debs"
    chmod 755 "$work" "$work/debs"
    (cd "$work/debs" && apt-get download -qq -o APT::Sandbox::User=root "$@")
    for deb in "$work"/debs/*.deb; do
        case $(basename "$deb") in
        linux-image-*) unpack_image "$deb" "$work" ;;
        *) dpkg-deb -x "$deb" "$work" ;;
        esac
    done
    rm -r "$work/debs"
    relocate "$work"
    mv "$work" "$kernels/$release"
}

# User-Mode Linux: the kernel is a program.
fetch_uml() {
    local work=$kernels/uml.part
    rm -rf "$work" "$kernels/uml"
    mkdir -p "$work/debs" "$work/modules"
    chmod 755 "$work" "$work/debs"
    (cd "$work/debs" && apt-get download -qq -o APT::Sandbox::User=root user-mode-linux)
    dpkg-deb --fsys-tarfile "$work"/debs/*.deb | tar -x -C "$work" --wildcards './usr/bin/linux.uml' '*/kernel/fs/overlayfs/*'
    mv "$work/usr/bin/linux.uml" "$work/linux"
    find "$work/usr/lib" -name 'overlay.ko*' -exec mv -t "$work/modules" {} +
    rm -r "$work/debs" "$work/usr"
    mv "$work" "$kernels/uml"
}

mkdir -p "$kernels"
if [[ ! -e $kernels/uml/linux ]]; then
    echo 'kernels: unpacking user-mode-linux'
    fetch_uml
fi
for flavour in "${flavours[@]}"; do
    link=$kernels/$flavour
    mapfile -t packages < <(packages_of "$flavour")
    release=$(printf '%s\n' "${packages[@]}" | sed -n 's/^linux-image-//p' | sort -V | tail -1)
    # Without package lists what was unpacked before is as good as it gets.
    [[ -n $release ]] || { [[ -e $link/vmlinuz ]] && continue; die "apt knows no linux-image-$flavour; apt-get update?"; }
    if [[ ! -e $kernels/$release/vmlinuz ]]; then
        echo "kernels: unpacking $release"
        fetch "$release" "${packages[@]}"
    fi
    ln -sfn "$release" "$link"
done
