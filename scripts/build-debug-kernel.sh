#!/usr/bin/env bash
# Builds the debugging kernel of `make test-kmod-debug` in build/kernels/debug, unless it is there: User-Mode Linux from
# Debian's kernel source with the options of tests/vm/debug/kernel.config. Nothing is installed.
#   scripts/build-debug-kernel.sh
# debug/linux (the kernel, a program), debug/build (what KDIR is to be), debug/config (the options it was built with)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
package=linux-source-6.1
wanted=$PWD/tests/vm/debug/kernel.config
kernel=$PWD/build/kernels/debug
source=$kernel/$package

die() { echo "debug kernel: $*" >&2; exit 1; }

unpack_source() {
    local work=$kernel.part
    rm -rf "$work" "$kernel"
    mkdir -p "$work"
    chmod 755 "$work"
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package")
    # The tarball is in the package: nothing is written twice.
    dpkg-deb --fsys-tarfile "$work/$package"_*.deb | tar -xO "./usr/src/$package.tar.xz" | tar -xJ -C "$work"
    rm "$work"/*.deb
    ln -s "$package" "$work/build"
    ln -s "$package/linux" "$work/linux"
    mv "$work" "$kernel"
}

# kconfig drops an option without a word when what it depends on is off.
check_options() {
    local line
    while read -r line; do
        case $line in
        CONFIG_*) grep -qxF -- "$line" "$source/.config" || die "$wanted: $line did not take" ;;
        esac
    done <"$wanted"
}

if cmp -s "$wanted" "$kernel/config" && [[ -x $kernel/linux ]]; then exit 0; fi
echo 'debug kernel: building it, once (six CPU minutes)'
[[ -e $kernel/build ]] || unpack_source
rm -f "$kernel/config"
make -s -C "$source" ARCH=um allnoconfig KCONFIG_ALLCONFIG="$wanted" >/dev/null
check_options
# The linker warns of UML's own ways; a compiler's error is at the end.
make -s -C "$source" ARCH=um -j"$(nproc)" linux modules >"$kernel/log" 2>&1 ||
    die "$kernel/log ends so:"$'\n'"$(tail -30 "$kernel/log")"
cp "$wanted" "$kernel/config"
