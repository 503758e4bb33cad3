#!/bin/sh
# The layer both images share: Python, PyTorch for CPUs, and the packages whose versions agree.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
# Python 3.11.2 it is: the lock files were made on it.
apt-get -q -y install --no-install-recommends python3 python3-venv libnuma1 libgomp1 curl
rm -rf /var/lib/apt/lists/* /usr/share/doc /usr/share/man
python3 -m venv /opt/venv
# The PyTorch wheel is asked for by version, without a hash: a "+cpu" build is not on the Python
# package index, so which file answers (PyTorch's own index, a local wheel folder) differs by machine.
/opt/venv/bin/pip install --quiet --no-cache-dir --no-compile --no-deps 'torch==2.13.0+cpu'
/opt/venv/bin/pip install --quiet --no-cache-dir --no-compile --no-deps --require-hashes --requirement /testbed/python-base.lock
# Headers and static libraries: nothing is compiled in these images.
cd /opt/venv/lib/python3.11/site-packages
rm -rf torch/include torch/share torch/test
find . -name '*.a' -delete
/opt/venv/bin/python -m compileall -q -j 0 /usr/lib/python3.11 . || true
