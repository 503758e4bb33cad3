#!/bin/sh
# Debian's own build of the registry that Docker Hub's `registry` image holds.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q -y install --no-install-recommends docker-registry
rm -rf /var/lib/apt/lists/*
# Test-host plumbing: no password, since only this machine and its test hosts can reach it.
cat > /etc/docker/registry/config.yml <<'EOF'
version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: /var/lib/docker-registry
http:
  addr: :5000
EOF
