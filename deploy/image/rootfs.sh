#!/bin/sh
# Puts the programs, and every library they are linked with, below a directory:
#     rootfs.sh DIRECTORY-OF-PROGRAMS ROOT
set -eu
programs=$1
root=$2
mkdir -p "$root/usr/bin"
for name in lb-agent lbctl; do
    cp "$programs/$name" "$root/usr/bin/"
    # `libc.so.6 => /lib/... (0x...)` or `/lib64/ld-linux-x86-64.so.2 (0x...)`
    for library in $(ldd "$programs/$name" | grep -o '/[^ ]*'); do
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done
done
