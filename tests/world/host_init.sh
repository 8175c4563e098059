#!/bin/bash
# Process 1 of a separated host: gives it a name and an empty disk, then reaps orphans until it is killed.
# usage: host_init.sh HOSTNAME ADDRESSES_FILE KEEP... -- HIDE...
#   KEEP  directories which stay readable although they lie below a hidden one (the interpreter)
#   HIDE  directories which this host sees empty and writes for itself alone
set -eu
hostname "$1"
mount --bind "$2" /etc/hosts
shift 2

keep=()
while [ "$1" != -- ]; do keep+=("$1"); shift; done
shift

# A bind mount below a tmpfs is lost with the tmpfs's mount point, so what is kept waits under /mnt meanwhile.
mount -t tmpfs tmpfs /mnt
for index in "${!keep[@]}"; do
    mkdir "/mnt/$index"
    mount --bind "${keep[$index]}" "/mnt/$index"
done
for hidden in "$@"; do
    mkdir -p "$hidden"  # one may lie below another, which is empty by now
    mount -t tmpfs tmpfs "$hidden"
done
for index in "${!keep[@]}"; do
    mkdir -p "${keep[$index]}"
    mount --bind "/mnt/$index" "${keep[$index]}"
    mount -o remount,bind,ro "${keep[$index]}"
done
umount -l /mnt
chmod 1777 /tmp /dev/shm

echo ready
sleep infinity &
wait
