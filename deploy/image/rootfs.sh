#!/bin/sh
# Puts the programs, which are static and need nothing beside them, below a directory:
#     rootfs.sh DIRECTORY-OF-PROGRAMS ROOT
set -eu
programs=$1
root=$2
mkdir -p "$root/usr/bin"
for name in lb-agent lbctl; do
    cp "$programs/$name" "$root/usr/bin/"
done
