#!/bin/sh
# What a fresh server installation has and the test needs. No Docker: installing it is a role's job.
set -eu
export DEBIAN_FRONTEND=noninteractive
printf 'force-unsafe-io\n' > /etc/dpkg/dpkg.cfg.d/testbed
apt-get -q update
apt-get -q -y install --no-install-recommends \
    ca-certificates curl dbus gpg iproute2 iptables kmod libpam-systemd lsof openssh-server \
    pciutils procps python3 python3-apt sudo systemd systemd-sysv tzdata util-linux
# The lists stay, as on an installed system: renewing them takes seconds, reading them anew most of a minute.
rm -f /var/cache/apt/archives/*.deb
rm -f /etc/dpkg/dpkg.cfg.d/testbed /etc/dpkg/dpkg.cfg.d/99mmdebstrap

# An official image refuses to start services on installation and to keep downloads; a PC does not.
rm -f /usr/sbin/policy-rc.d /etc/apt/apt.conf.d/docker-*

useradd --create-home --shell /bin/bash rig
install -d -m 700 -o rig -g rig /home/rig/.ssh /srv/models
chmod 755 /srv/models
chmod 440 /etc/sudoers.d/rig

# Every host gets an identity and SSH keys of its own at its first start.
rm -f /etc/ssh/ssh_host_*
: > /etc/machine-id
systemctl enable ssh.service sparerig-test-host.service
