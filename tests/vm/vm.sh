#!/bin/sh
# Makes of the test host a PC with a kernel of its own: one that is not the archive's newest, and
# nouveau loaded at boot. What the driver role is going to fetch is put into apt's cache.
set -eu
export DEBIAN_FRONTEND=noninteractive
printf 'force-unsafe-io\n' > /etc/dpkg/dpkg.cfg.d/testbed
apt-get -q update

modules=linux-modules-nvidia-580-server-open
newest=$(apt-cache show --no-all-versions "$modules-generic-hwe-22.04" | sed -n "s/^Depends:.*$modules-\([0-9.]*-[0-9]*-generic\) .*/\1/p")
series=${newest%%-*}
for older in $(apt-cache pkgnames "$modules-$series-" | sed -n "s/^$modules-\(.*-generic\)$/\1/p" | sort -rV); do
    [ "$older" != "$newest" ] || continue
    apt-get -q -y install --no-install-recommends --download-only \
        "linux-image-$older" "linux-modules-extra-$older" "$modules-$older" && break
done

# The disk's driver is part of the kernel: an initramfs with little else is made in seconds, also
# where every instruction is emulated. nouveau is in it, as it is on a PC with an NVIDIA card.
mkdir -p /etc/initramfs-tools/conf.d
printf 'MODULES=list\nCOMPRESS=lz4\n' > /etc/initramfs-tools/conf.d/speed
printf 'nouveau\n' > /etc/initramfs-tools/modules
apt-get -q -y -o Dpkg::Options::=--force-confold install --no-install-recommends \
    e2fsprogs initramfs-tools lz4 udev
apt-get -q -y install --no-install-recommends "linux-image-$older" "linux-modules-extra-$older"
apt-get -q -y install --no-install-recommends --download-only \
    "$modules-generic-hwe-22.04" "$modules-$older" \
    nvidia-headless-no-dkms-580-server-open nvidia-utils-580-server

echo nouveau > /etc/modules-load.d/nouveau.conf
printf '[Match]\nName=en*\n[Network]\nDHCP=yes\n' > /etc/systemd/network/50-vm.network
systemctl enable systemd-networkd.service
systemctl disable sparerig-test-host.service
ssh-keygen -A
